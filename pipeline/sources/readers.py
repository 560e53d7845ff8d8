"""Rows of JSON, CSV and Parquet files, one at a time: memory is bounded by a row (a batch, for Parquet), not the file.

Places count rows from 0: after the header of a CSV file, within its list for JSON; a mapping's rows have its keys.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.errors import NearsafeError, TableError, reason
from pipeline.ids import is_unicode, whole_number
from pipeline.prompts import MAX_CHARACTERS
from pipeline.sources.nesting import Shallow
from pipeline.sources.protocol import Drops, Place
from pipeline.tables import UNREADABLE

FORMATS = ("json", "jsonl", "csv", "parquet")
_BATCH = 1024  # rows of a Parquet file in memory
_BLOCK = 1 << 20
Cells = dict[str, Any]
_Rows = Iterator[tuple[str | int, Any]]


def read_rows(file: Path, drops: Drops, part: str | None = None) -> Iterator[tuple[Place, Cells]]:
    """(place, cells) of every row of a file; its suffix says the format.

    JSON is a list of objects, objects one a line, an object of rows {"0": {...}, ...} (perhaps under "data", as ViSU's
    released code reads it), or the list `part` of an object of lists. What is no row is counted in `drops`. Raises
    NearsafeError for a file that is not there or of another format, TableError for one that cannot be parsed, naming
    the row after which.
    """
    kind = file.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise NearsafeError(f"{file}: expected a file that ends in {', '.join(f'.{known}' for known in FORMATS)}")
    if not file.is_file():
        raise NearsafeError(f"{file}: no such file; paths of a source count from sources.root")
    readers = {"json": lambda: _json(file, part), "jsonl": lambda: _json(file, part)}
    readers |= {"csv": lambda: _csv(file, drops), "parquet": lambda: _parquet(file)}
    for number, row in readers[kind]():
        place = Place(file, number, part or "")
        if isinstance(row, dict):
            yield place, row
        else:
            drops.broken(place, f"expected an object with named cells, got {type(row).__name__}")


def text(row: Cells, column: str, place: Place, drops: Drops) -> str | None:
    """The text of a cell without the white space around it; None, and counted as broken, where there is none."""
    value = row.get(column)
    if value is None:
        return _refuse(drops, place, column, "is missing" if column not in row else "is null")
    if not isinstance(value, str):
        return _refuse(drops, place, column, f"expected text, got {type(value).__name__}")
    if not value.strip():
        return _refuse(drops, place, column, "is empty")
    if len(value) > MAX_CHARACTERS:
        return _refuse(drops, place, column, f"is longer than {MAX_CHARACTERS} characters")
    if not is_unicode(value):
        return _refuse(drops, place, column, "is no valid Unicode text")
    return value.strip()


def texts(row: Cells, columns: Sequence[str], place: Place, drops: Drops) -> list[str] | None:
    """The texts of several cells; None where one cannot be used: the first such cell is counted."""
    found = []
    for column in columns:
        if (value := text(row, column, place, drops)) is None:
            return None
        found.append(value)
    return found


def number(row: Cells, column: str, place: Place, drops: Drops) -> int | None:
    """The whole number from 0 of a cell, also where it is written as text; None, and counted as broken, otherwise."""
    given = row.get(column)
    value = whole_number(given.strip()) if isinstance(given, str) else given
    if isinstance(value, float) and value.is_integer():  # pandas makes numbers with gaps floats
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    _refuse(drops, place, column, "is missing" if given is None else "is not a whole number from 0")
    return None


def cells_as_text(row: Cells) -> tuple[str, ...]:
    """Every text of the cells, those in their lists and objects too, for the age-word filter."""
    found, waiting = [], list(row.values())[::-1]
    while waiting:
        match waiting.pop():
            case str(value) if value:
                found.append(value)
            case list(values):
                waiting += values[::-1]
            case dict(values):
                waiting += [*values.values()][::-1]
    return tuple(found)


def _refuse(drops: Drops, place: Place, column: str, reason: str) -> None:
    drops.broken(place, reason, column)


def _json(file: Path, part: str | None) -> _Rows:
    import ijson

    done = -1
    try:
        kind, prefix = ("items", f"{part}.item") if part else _layout(file)
        with file.open("rb") as stream:
            _skip_mark(stream)
            shallow = Shallow(stream)
            options = {"use_float": True, "buf_size": _BLOCK, "multiple_values": kind == "lines"}
            if kind == "rows":
                found: _Rows = ijson.kvitems(shallow, prefix, **options)
            else:
                found = enumerate(ijson.items(shallow, prefix, **options))
            for done, (key, row) in enumerate(found):  # noqa: B007
                yield key, row
        if part and done < 0:
            raise TableError(f"{file}: no list {part!r} with rows in it")
    except (ijson.JSONError, ValueError, OverflowError) as error:
        # The parser's later lines quote the file's text. Where that is no UTF-8, its message is bytes.
        given = error.args[0] if error.args else ""
        said = given.decode(errors="replace") if isinstance(given, bytes) else str(error)
        said = said.splitlines()[0] if said else type(error).__name__
        after = f"{part!r}: " if part else ""
        raise TableError(f"{file}: {after}after {done + 1} rows: not readable as JSON: {said}") from None


def _layout(file: Path) -> tuple[str, str]:
    """How the rows of a JSON file are held, and under which prefix; it reads no further than to the first row."""
    import ijson

    with file.open("rb") as stream:
        _skip_mark(stream)
        # Without `use_float` a number of more than 4,300 digits ends the process.
        events = ijson.parse(Shallow(stream), multiple_values=True, use_float=True)
        _, event, _ = next(events, ("", "null", None))
        if event == "start_array":
            return "items", "item"
        if event != "start_map":
            raise TableError(f"{file}: holds no rows: expected a list or an object")
        key = ""
        for prefix, event, value in events:
            if prefix == "" and event == "map_key":
                key = value
            elif prefix == key and key != "info":
                if event == "start_map":
                    return "rows", "data" if key == "data" else ""
                return ("items", "data.item") if event == "start_array" and key == "data" else ("lines", "")
            elif prefix == "" and event == "end_map":
                break
    return "lines", ""


def _skip_mark(stream: Any) -> None:
    """Past the mark that some editors put before UTF-8."""
    if stream.read(3) != b"\xef\xbb\xbf":
        stream.seek(0)


def _csv(file: Path, drops: Drops) -> _Rows:
    number = -1
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream, strict=True)
            header = next(lines, [])
            if len(set(header)) < len(header) or not header:
                raise TableError(f"{file}: header: {'a column appears twice' if header else 'there is none'}")
            for number, line in enumerate(lines):
                if len(line) == len(header):
                    yield number, {name: cell or None for name, cell in zip(header, line, strict=True)}
                elif line:
                    drops.broken(Place(file, number), f"{len(line)} cells, the header has {len(header)}")
    except (csv.Error, UnicodeDecodeError) as error:
        raise TableError(f"{file}: after {number + 1} rows: not readable as CSV: {error}") from None


def _parquet(file: Path) -> _Rows:
    number = 0
    try:
        names = pq.ParquetFile(file).schema_arrow.names
        if len(set(names)) < len(names):
            raise TableError(f"{file}: a column appears twice")
        # With its buffer ahead of the reader, a file's row groups would all stay in memory.
        for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(_BATCH):
            for row in batch.to_pylist():
                yield number, row
                number += 1
    except UNREADABLE as error:
        raise TableError(f"{file}: after {number} rows: not readable as Parquet: {reason(error)}") from None
