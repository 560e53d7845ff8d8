"""What `python -m pipeline.bench` compares: a file each, with `comparisons() -> Iterable[Comparison]`."""
