"""Answers as a table for people, CSV, JSON or Parquet. All but the table are written as they arrive, batch by batch."""

import csv
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Literal, TextIO

import pyarrow.parquet as pq

from pipeline.errors import NearsafeError
from pipeline.results.database import Batches
from pipeline.results.report import markdown

Format = Literal["table", "csv", "json", "parquet"]
TABLE_ROWS = 100_000  # a table is aligned, so it is held whole; more is for CSV or Parquet
SCREEN_ROWS = 200
_SHORTEST = 12  # characters that a shortened cell keeps, and the most of one where rows stand side by side
_LONGEST = 32
_GAP = " | "
# Control characters but tab and line feed: a terminal obeys them.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class _Pipe:
    """A binary file that counts what is written: Parquet's footer holds positions, and a pipe does not know its own."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._written = file, 0

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.flush()

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def write_csv(answer: Batches, file: TextIO) -> None:
    """A header and one line per row; null is empty, lists and structs are JSON, what a terminal would obey is spelt."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(_visible, answer.schema.names))
    for row in _rows(answer):
        writer.writerow([_visible(_plain(value)) for value in row.values()])


def write_json(answer: Batches, file: TextIO) -> None:
    """A list of objects, one per row; a number that is not finite is null, as JSON has none."""
    separator = "["
    for row in _rows(answer):
        text = json.dumps(_finite(row), ensure_ascii=False, default=str)
        file.write(f"{separator}\n {_OBEYED.sub(_as_json, text)}")
        separator = ","
    file.write("[]\n" if separator == "[" else "\n]\n")


def write_parquet(answer: Batches, file: BinaryIO) -> None:
    """Parquet with the types of the query. `file` may be a pipe."""
    _check_names(answer.schema.names)
    with pq.ParquetWriter(_Pipe(file), answer.schema, compression="zstd") as writer:
        for batch in answer.rows:
            writer.write_batch(batch)


def write_table(answer: Batches, file: TextIO, width: int | None = None) -> int:
    """An aligned table. With `width`, columns of a screen: at most SCREEN_ROWS rows, long texts shortened, and where
    that is still too wide, columns as lines. Returns how many rows were left out. Raises NearsafeError for a table
    that is too long to align.
    """
    limit = SCREEN_ROWS if width else TABLE_ROWS
    kept, left_out = [], 0
    for row in _rows(answer):
        if len(kept) < limit:
            kept.append([_short(value) for value in row.values()])
        else:
            left_out += 1
            if not width:
                raise NearsafeError(f"more than {TABLE_ROWS:,} rows are no table: use --format csv, json or parquet")
            if left_out >= TABLE_ROWS:
                break
    file.write("\n".join(_fit(answer.schema.names, kept, width)) + "\n")
    return left_out


def _fit(header: Sequence[str], body: Sequence[Sequence[str]], width: int | None) -> list[str]:
    lines = markdown(header, body)
    if width is None or len(lines[0]) <= width:
        return lines
    shorter = _shortened(header, body, width)
    lines = markdown(header, shorter)
    return lines if len(lines[0]) <= width else _transposed(header, body, width)


def _shortened(header: Sequence[str], body: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """Cells cut, the widest column first, until a line fits or nothing is left to cut."""
    widths = [max(len(name), *(len(row[i]) for row in body), 3) for i, name in enumerate(header)]
    least = [max(len(name), min(widths[i], _SHORTEST)) for i, name in enumerate(header)]
    while sum(widths) + len(_GAP) * len(widths) + 1 > width:
        cuttable = [i for i in range(len(widths)) if widths[i] > least[i]]
        if not cuttable:
            break
        widths[max(cuttable, key=lambda i: widths[i])] -= 1
    return [[_cut(cell, widths[i]) for i, cell in enumerate(row)] for row in body]


def _transposed(header: Sequence[str], body: Sequence[Sequence[str]], width: int) -> list[str]:
    """Columns as lines and rows as columns, as many side by side as fit; then the next ones."""
    lines: list[str] = []
    first = max(map(len, header))
    place = 0
    while place < len(body):
        count, used = 0, first + 4
        cut = max(_SHORTEST, min(_LONGEST, width - used - len(_GAP)))
        while place + count < len(body):
            used += len(_GAP) + min(cut, max(len(cell) for cell in body[place + count]))
            if count and used > width:
                break
            count += 1
        rows = body[place : place + count]
        block = [[name, *(_cut(row[i], cut) for row in rows)] for i, name in enumerate(header)]
        lines += ([""] if lines else []) + markdown(block[0], block[1:])
        place += count
    return lines or markdown(header, [])


def _rows(answer: Batches) -> Iterator[dict[str, Any]]:
    _check_names(answer.schema.names)
    for batch in answer.rows:
        yield from batch.to_pylist()


def _check_names(names: Sequence[str]) -> None:
    """Raises NearsafeError for two columns of one name: a row could not hold both."""
    if twice := [name for name in names if names.count(name) > 1]:
        raise NearsafeError(f"two columns are called {twice[0]!r}: name one of them with AS")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _as_json(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _visible(text: str) -> str:
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return json.dumps(_finite(value), ensure_ascii=False, default=str)
    return "" if value is None else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
