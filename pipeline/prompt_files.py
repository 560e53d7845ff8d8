"""Published prompt sets and lists of one's own, read from files that the user has. Nothing is downloaded.

Column names are those of the published files (evaluation specification section 11). Every cell of a row goes along,
so that the age-word filter can read them all: a pair's other member, an attack's target, a label. For the same reason
text is cut into rows at line ends alone. An error quotes numbers and the names of columns, no prompt.
"""

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import NearsafeError, TableError, reason
from pipeline.ids import content_id, is_unicode
from pipeline.prompts import OTHERS
from pipeline.tables import UNREADABLE

Row = dict[str, Any]
Name = Literal[
    "i2p", "unlearndiffatk", "p4d", "ringabell", "ringabell_pairs", "mma", "sneakyprompt", "copro_json", "coco", "visu",
    "nsfwcaps", "prompt_csv",
]  # fmt: skip
Format = Literal["csv", "parquet", "json", "txt"]
# Cells that an error may quote: numbers, what was meant as one, and nothing.
_DIGIT_LIKE = r"[-+]?[\d.,]*(e[-+]?\d+)?|nan"


@dataclass(frozen=True)
class FileSchema:
    """Columns of one kind of file.

    `texts` can be the prompt, the first unless the user names another; all must be there. `category`, `seed` and
    `guidance` list alternative names, of which a file has at most one; the fields in `required` need one of theirs.
    """

    texts: tuple[str, ...]
    category: tuple[str, ...] = ()
    seed: tuple[str, ...] = ()
    guidance: tuple[str, ...] = ()
    required: frozenset[str] = frozenset()


# The two releases of I2P differ in the names of the random seed and of the guidance scale.
_I2P = FileSchema(
    ("prompt",), ("categories",), ("evaluation_seed", "sd_seed"), ("evaluation_guidance", "sd_guidance_scale")
)
_ALL_OF_I2P = FileSchema(
    _I2P.texts, _I2P.category, _I2P.seed, _I2P.guidance, frozenset({"category", "seed", "guidance"})
)
FILES: dict[Name, FileSchema] = {
    "i2p": _ALL_OF_I2P,
    "unlearndiffatk": _ALL_OF_I2P,
    "p4d": _I2P,  # its inputs are rows of I2P, its attack prompts a single column
    "ringabell": FileSchema(("prompt",), seed=("evaluation_seed",)),
    "ringabell_pairs": FileSchema(("sensitive prompt", "normal prompt")),
    "mma": FileSchema(("adv_prompt", "target_prompt", "sanitized_adv_prompt", "clean_prompt")),
    "sneakyprompt": FileSchema(("prompt",)),
    "copro_json": FileSchema(("unsafe_prompt", "safe_prompt"), ("category",), required=frozenset({"category"})),
    "coco": FileSchema(("prompt",), seed=("evaluation_seed",), required=frozenset({"seed"})),
    "visu": FileSchema(("nsfw", "safe"), ("tag",), required=frozenset({"category"})),
    "nsfwcaps": FileSchema(("nsfw_caption", "caption"), ("chosen_category",), required=frozenset({"category"})),
    "prompt_csv": FileSchema(("prompt",), ("category", "categories"), ("seed", "evaluation_seed"), ("guidance",)),
}


@dataclass(frozen=True)
class PromptFile:
    """An entry of `prompts.files`.

    `column`: another column of the schema as the prompt (the safe side of pairs); of schema `prompt_csv`, any column.
    `categories`: only rows whose category contains one of these, in any case. `splits`: lists of a JSON file to read
    (null: all that hold rows). `sha256`: the file's hash or its first 12 digits or more; it is checked, and a changed
    hash tells DVC that the prompts changed. `limit`: the first so many prompts that the filters leave.
    """

    path: Path
    schema: Name
    unsafe: bool
    column: str | None = None
    categories: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    sha256: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{12,64}", self.sha256):
            raise ValueError(f"sha256: expected 12 to 64 hexadecimal digits, got {self.sha256!r}")
        if self.column is not None and self.schema != "prompt_csv" and self.column not in FILES[self.schema].texts:
            known = ", ".join(FILES[self.schema].texts)
            raise ValueError(f"column: schema {self.schema!r} has the prompts {known}, not {self.column!r}")
        if (self.categories is not None and not self.categories) or (self.splits is not None and not self.splits):
            raise ValueError("categories and splits: expected one or more names, or null for all rows")


def read_prompt_file(name: str, file: PromptFile) -> tuple[list[Row], str]:
    """Rows of table "prompts" with column `others` (all cells of the row), in the file's order, and its SHA-256.

    Nothing is filtered here. Two rows of the same text have the same id. Raises NearsafeError for a file that is not
    there or not the one of `sha256`, TableError naming file, column and row for what its schema refuses. Rows count
    from 0 after the header and with empty lines; those of a JSON file within the list that they are in.
    """
    try:
        content = file.path.read_bytes()
    except OSError as error:
        raise NearsafeError(f"{file.path}: prompt set {name!r}: cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if file.sha256 and not digest.startswith(file.sha256):
        raise NearsafeError(
            f"{file.path}: prompt set {name!r}: SHA-256 is {digest[: len(file.sha256)]}, expected {file.sha256}"
        )
    header, rows = _PARSERS[_format(file.path)](content, file)
    columns = _columns(header, file)
    return [_prompt(name, file, columns, place, row) for place, row in rows], digest


def _columns(header: Sequence[str], file: PromptFile) -> dict[str, str]:
    """Field of table "prompts" to column of the file. Raises TableError for a column that lacks or is there twice."""
    schema = FILES[file.schema]
    if twice := [name for name in header if header.count(name) > 1]:
        raise TableError(
            f"{file.path}: column {_shown(twice[0])} appears {header.count(twice[0])} times, expected once"
        )
    texts = (file.column or "prompt",) if file.schema == "prompt_csv" else schema.texts
    for name in texts:
        _one_of((name,), header, file)
    columns = {"text": file.column or texts[0]}
    for field in ("category", "seed", "guidance"):
        names = getattr(schema, field)
        asked = field in schema.required or (field == "category" and file.categories is not None)
        if asked or any(name in header for name in names):
            columns[field] = _one_of(names or (field,), header, file)
    return columns


def _one_of(names: Sequence[str], header: Sequence[str], file: PromptFile) -> str:
    """The one column of `names` that the header has."""
    found = [name for name in names if name in header]
    if len(found) != 1:
        expected, known = " or ".join(map(repr, names)), ", ".join(map(_shown, header)) or "no columns"
        problem = f"expected one of columns {expected}" if found else f"no column {expected}"
        raise TableError(f"{file.path}: schema {file.schema!r}: {problem}; found {known}")
    return found[0]


def _shown(name: str) -> str:
    """A column's name as an error shows it: one of many words may be a prompt, in a file without a header."""
    return repr(name) if len(name) <= 40 and len(name.split()) <= 2 else _length(name)


def _length(text: str) -> str:
    return f"text of {len(text)} characters"


def _prompt(name: str, file: PromptFile, columns: Mapping[str, str], place: str, row: Mapping[str, str]) -> Row:
    def cell(field: str) -> str | None:
        return row[columns[field]].strip() or None if field in columns else None

    def refuse(field: str, expected: str) -> TableError:
        given = row[columns[field]]  # of a row that slid over, a prompt
        shown = repr(given) if len(given) <= 40 and re.fullmatch(_DIGIT_LIKE, given.strip()) else _length(given)
        return TableError(f"{file.path}: column {columns[field]!r}, {place}: {shown} is not {expected}")

    if wrong := next((column for column, value in row.items() if not is_unicode(value)), None):
        raise TableError(f"{file.path}: column {_shown(wrong)}, {place}: {_length(row[wrong])} is no valid Unicode")
    seed, guidance, text = cell("seed"), cell("guidance"), row[columns["text"]].strip()
    if "seed" in columns and (seed is None or not re.fullmatch(r"\d{1,18}(\.0+)?", seed)):  # pandas writes "7.0"
        raise refuse("seed", "a whole number from 0 to 10**18 - 1")
    scale = _number(guidance)
    if "guidance" in columns and (scale is None or scale <= 0):
        raise refuse("guidance", "a number above 0")
    return {
        "prompt_id": content_id(name, text, prefix="q"),
        "prompt_set": name,
        "text": text,
        "category": cell("category"),
        "unsafe": file.unsafe,
        "seed": None if seed is None else int(seed.partition(".")[0]),
        "guidance": scale,
        OTHERS: list(row.values()),
    }


def _number(text: str | None) -> float | None:
    """A finite number, else None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _format(path: Path) -> Format:
    kind = path.suffix.lower().lstrip(".")
    if kind not in _PARSERS:
        raise NearsafeError(f"{path}: expected a file that ends in {', '.join(f'.{known}' for known in _PARSERS)}")
    return kind


# Columns of a file, and its rows, each with where it is: "row 3", "list 'ID_test_data', row 3".
Parsed = tuple[list[str], list[tuple[str, dict[str, str]]]]


def _read_csv(content: bytes, file: PromptFile) -> Parsed:
    """Empty lines are no rows, but count: a row's number leads to its place in the file."""
    lines = csv.reader(io.StringIO(_decoded(content, file), newline=""), strict=True)
    header: list[str] = []
    rows: list[tuple[str, dict[str, str]]] = []
    number = -1  # the header's
    while True:
        place = f"row {number}" if header else "header"
        try:
            line = next(lines)
        except StopIteration:
            return header, rows
        except csv.Error as error:  # also a field of more than 131,072 characters, most often a quote left open
            raise TableError(f"{file.path}: {place}: not readable as CSV: {error}") from error
        if not header:
            # A column may have no name (an index that pandas wrote): kept by its place, so that its cells are read too.
            header = [name or f"column {at}" for at, name in enumerate(line)]
        elif line:
            if len(line) != len(header):
                raise TableError(f"{file.path}: {place}: {len(line)} cells, the header has {len(header)}")
            rows.append((place, dict(zip(header, line, strict=True))))
        number += bool(header)


def _read_parquet(content: bytes, file: PromptFile) -> Parsed:
    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read()
        rows = table.to_pylist()
    except UNREADABLE as error:
        raise TableError(f"{file.path}: not a readable Parquet file: {reason(error)}") from error
    return table.column_names, [(f"row {number}", _texts(row)) for number, row in enumerate(rows)]


def _read_json(content: bytes, file: PromptFile) -> Parsed:
    """A list of objects, or an object whose values hold such lists (CoPro: ID_train_data, ID_test_data, ...)."""
    try:
        return _rows_of(json.loads(content), file)
    except (ValueError, RecursionError) as error:
        raise TableError(f"{file.path}: not a readable JSON file: {reason(error)}") from error


def _rows_of(value: Any, file: PromptFile) -> Parsed:
    lists = value if isinstance(value, dict) else {"": value}
    lists = {key: rows for key, rows in lists.items() if isinstance(rows, list) and rows and isinstance(rows[0], dict)}
    for split in file.splits or ():
        if split not in lists:
            raise TableError(f"{file.path}: no list {split!r} of rows; found {', '.join(map(_shown, lists)) or 'none'}")
    chosen = [(key, at, row) for key in file.splits or lists for at, row in enumerate(lists[key])]
    header = list(chosen[0][2]) if chosen else []
    rows = []
    for key, at, row in chosen:
        place = f"list {_shown(key)}, row {at}" if key else f"row {at}"
        if not isinstance(row, dict) or set(row) != set(header):
            raise TableError(f"{file.path}: {place}: expected an object with {', '.join(map(_shown, header))}")
        rows.append((place, _texts(row)))
    return header, rows


def _read_txt(content: bytes, file: PromptFile) -> Parsed:
    """One prompt a line.

    `str.splitlines` would also cut at vertical tabs, form feeds, separators and the like: a word before one would drop
    its own part of the prompt, and what comes after would pass the age-word filter.
    """
    lines = re.split(r"\r\n|\n|\r", _decoded(content, file))
    if not lines[-1]:
        lines.pop()
    return ["prompt"], [(f"row {number}", {"prompt": line}) for number, line in enumerate(lines)]


def _decoded(content: bytes, file: PromptFile) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError(f"{file.path}: not a readable UTF-8 file: {error}") from error


def _texts(row: Mapping[str, object]) -> dict[str, str]:
    return {name: "" if value is None else str(value) for name, value in row.items()}


_PARSERS = {"csv": _read_csv, "parquet": _read_parquet, "json": _read_json, "txt": _read_txt}
