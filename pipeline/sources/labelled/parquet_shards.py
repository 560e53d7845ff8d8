"""Parquet shards of images {bytes, path}, labels and captions: the convention of the `datasets` library."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import TableError, reason
from pipeline.sources.labelled.items import Columns, Item, Label
from pipeline.sources.pictures import below
from pipeline.sources.protocol import Drops, Place
from pipeline.tables import UNREADABLE

_BATCH = 64  # rows in memory, beside the compressed row group that they come from


def read_parquet(file: Path, name: str, columns: Columns, drops: Drops) -> Iterator[Item]:
    """Every row of a shard; `name` begins the keys. An image cell may also be plain bytes.

    Labels: text as it is, numbers by the names that the file's metadata gives them (`ClassLabel`) unless those are
    numbers too. An image that is a path lies in the shard's folder. Raises TableError naming the file.
    """
    number = 0
    try:
        shard = pq.ParquetFile(file, pre_buffer=False)  # the buffer would keep every row group until the end
        wanted = _wanted(shard.schema_arrow, columns, file)
        names = _label_names(shard.schema_arrow.metadata, columns.label)
        for batch in shard.iter_batches(_BATCH, columns=wanted):
            for row in batch.to_pylist():
                place = Place(file, number)
                number += 1
                image = _image(row[columns.image], file.parent)
                if isinstance(image, str):
                    drops.broken(place, image, columns.image)
                    continue
                label = _plain(row.get(columns.label))
                if names and isinstance(label, int):
                    label = names[label] if 0 <= label < len(names) else None
                caption = row.get(columns.caption) if columns.caption else None
                path, data = image
                key = f"{name}:{place.row}"
                yield Item(key, place, path, data, label, caption if isinstance(caption, str) else None)
    except UNREADABLE as error:
        raise TableError(f"{file}: after {number} rows: not readable as Parquet: {reason(error)}") from None


def _wanted(schema: pa.Schema, columns: Columns, file: Path) -> list[str]:
    if columns.image not in schema.names:
        raise TableError(f"{file}: no column {columns.image!r}; found {', '.join(schema.names)}")
    kind = schema.field(columns.image).type
    fields = {field.name for field in kind} if pa.types.is_struct(kind) else set()
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or "bytes" in fields):
        raise TableError(f"{file}: column {columns.image!r}: expected images {{bytes, path}} or bytes, got {kind}")
    return [columns.image, *(name for name in (columns.label, columns.caption) if name and name in schema.names)]


def _image(cell: Any, folder: Path) -> tuple[Path | None, bytes | None] | str:
    """(path, bytes) of a cell, or why there is no image."""
    if isinstance(cell, bytes):
        return (None, cell) if cell else "is empty"
    if not cell:
        return "is null"
    if isinstance(cell.get("bytes"), bytes) and cell["bytes"]:
        return None, cell["bytes"]
    if not isinstance(cell.get("path"), str) or not cell["path"]:
        return "has neither bytes nor a path"
    path = below(folder, cell["path"])
    return "its path leads out of the folder of the file" if path is None else (path, None)


def _label_names(metadata: dict[bytes, bytes] | None, column: str) -> list[str] | None:
    """Names of a `ClassLabel` column; None for names that are numbers themselves, and where nothing says them."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        names = [str(name) for name in features[column]["names"]]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return None if all(name.isdigit() for name in names) else names


def _plain(label: Any) -> Label:
    if isinstance(label, float) and label.is_integer():  # pandas makes numbers with gaps floats
        return int(label)
    return label if isinstance(label, int | str) and not isinstance(label, bool) else None
