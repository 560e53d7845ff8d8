"""Tables of an output directory, one shard at a time: memory is bounded by the shard, not by the data set."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from pipeline.errors import TableError
from pipeline.layout import MANIFEST
from pipeline.tables import read_manifest, read_table


def iterate_output(path: Path, table_name: str) -> Iterator[tuple[Path, pa.Table]]:
    """(file, table) of every shard of a table, in order of file names; only what the manifest lists.

    Raises TableError as `read_output` does, but cannot see a key that two shards share.
    """
    path = Path(path)
    listed = [entry for entry in read_manifest(path)["files"] if entry["table"] == table_name]
    if not listed:
        raise TableError(f"{path}: {MANIFEST} lists no file of table {table_name!r}")
    for entry in sorted(listed, key=lambda entry: entry["name"]):
        file = path / entry["name"]
        table = read_table(file, table_name, allow_empty=True)
        if table.num_rows != entry["rows"]:
            raise TableError(f"{file}: {table.num_rows} rows, the manifest lists {entry['rows']}")
        yield file, table


def output_hash(path: Path) -> str:
    """16 hexadecimal digits that change when any file of a finished output directory does: its manifest's SHA-256."""
    read_manifest(path)
    return hashlib.sha256((Path(path) / MANIFEST).read_bytes()).hexdigest()[:16]
