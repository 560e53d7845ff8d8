"""nearsafe export: a defended checkpoint as a folder that anybody can load, with its model card."""


def export() -> None:
    """Write a defended checkpoint to a folder, with its model card."""
