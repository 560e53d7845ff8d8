"""Tables of an output directory, one shard at a time: memory is bounded by the shard, not by the data set."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import TableError
from pipeline.layout import MANIFEST
from pipeline.tables import check_hash, read_manifest, read_table


@dataclass(frozen=True)
class Part:
    """One file of a finished output's table, as the manifest lists it: number of `rows`, hash of the bytes."""

    file: Path
    table: str
    rows: int
    sha256: str

    def read(self) -> pa.Table:
        """Its rows. Raises TableError as `read_table` does, and where their number or the bytes are not as listed."""
        found = read_table(self.file, self.table, allow_empty=True)
        if found.num_rows != self.rows:
            raise TableError(f"{self.file}: {found.num_rows} rows, the manifest lists {self.rows}")
        check_hash(self.file, self.sha256)
        return found

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some of its columns, not validated: cheap where another column holds images. Raises TableError.

        The bytes are compared with the manifest's all the same: a file of another run has other rows.
        """
        try:
            check_hash(self.file, self.sha256)
            return pq.ParquetFile(self.file).read(columns=list(names)).select(list(names))
        except (pa.ArrowException, OSError, KeyError):
            return self.read().select(list(names))  # says what is wrong with the file


def parts(path: Path, table_name: str) -> list[Part]:
    """The files of a table, in order of their names; only what the manifest lists. Raises TableError for none."""
    path = Path(path)
    listed = [entry for entry in read_manifest(path)["files"] if entry["table"] == table_name]
    if not listed:
        raise TableError(f"{path}: {MANIFEST} lists no file of table {table_name!r}")
    return [
        Part(path / entry["name"], table_name, entry["rows"], entry["sha256"])
        for entry in sorted(listed, key=lambda entry: entry["name"])
    ]


def iterate_output(path: Path, table_name: str) -> Iterator[tuple[Path, pa.Table]]:
    """(file, table) of every shard of a table, in order of file names; only what the manifest lists.

    Raises TableError as `read_output` does, but cannot see a key that two shards share.
    """
    for part in parts(path, table_name):
        yield part.file, part.read()


def verified(folder: Path) -> Path:
    """The same folder (a checkpoint) of a finished output, after comparing its files with the manifest's hashes.

    Raises TableError naming the first file that is missing, damaged or of another run, and for a folder that the
    output does not have.
    """
    folder = Path(folder)
    listed = [entry for entry in read_manifest(folder.parent)["files"] if entry["name"].startswith(f"{folder.name}/")]
    if not listed:
        raise TableError(f"{folder}: {folder.parent / MANIFEST} lists no such folder")
    for entry in listed:
        check_hash(folder.parent / entry["name"], entry["sha256"])
    return folder


def output_hash(path: Path) -> str:
    """16 hexadecimal digits that change when any file of a finished output directory does: its manifest's SHA-256."""
    read_manifest(path)
    return hashlib.sha256((Path(path) / MANIFEST).read_bytes()).hexdigest()[:16]
