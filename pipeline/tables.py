"""Tables on disk: validated reads, atomic writes, and output directories whose manifest is written last."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import NearsafeError, TableError, reason
from pipeline.files import replacing, writing
from pipeline.ids import is_unicode
from pipeline.layout import MANIFEST, SPEC
from pipeline.schemas import SCHEMA_VERSION, SCHEMAS, VECTOR, Table
from pipeline.validation import check_columns, check_key, check_table, same_type
from pipeline.written import JOURNAL, Written, file_hash

__all__ = [
    "SCHEMAS",
    "SCHEMA_VERSION",
    "UNREADABLE",
    "Output",
    "Table",
    "check_hash",
    "check_references",
    "read_manifest",
    "read_output",
    "read_table",
    "write_table",
]

Rows = pa.Table | list[dict[str, Any]] | dict[str, Any]
UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError, LookupError, MemoryError)
"""What the library raises for a Parquet file that is damaged, or holds what Python has no value for."""
_NAME, _VERSION = b"nearsafe.schema", b"nearsafe.schema_version"


def write_table(
    path: Path | str, name: str, table: Rows, metadata: dict[str, str] | None = None, shard: bool = False
) -> None:
    """Validate `table` against schema `name` and write it as Parquet: temporary file, then rename.

    `table` is an Arrow table, a list of rows, or a dict of columns (lists, arrays; vectors also as (N, D) float32).
    `metadata` goes into the file beside schema name and version. A `shard` may be empty. The same rows give the same
    bytes. `path` may be an address of storage ("s3://bucket/key"). Raises TableError naming `path`, column and row.
    """
    path, contract = storage.location(path), SCHEMAS[name]
    data = _to_arrow(table, contract, path)
    check_table(data, contract, path, allow_empty=shard)
    own = {_NAME: name.encode(), _VERSION: SCHEMA_VERSION.encode()}
    extra = {key.encode(): value.encode() for key, value in sorted((metadata or {}).items())}
    data = data.replace_schema_metadata({**own, **extra})
    if storage.is_remote(path):
        _store(data, path)
        return
    with replacing(path) as temporary:
        pq.write_table(data, temporary, compression="zstd")


def read_table(path: Path | str, name: str, allow_empty: bool = False) -> pa.Table:
    """Read and validate one Parquet file, local or "s3://bucket/key"; its metadata is in `table.schema.metadata`.

    Raises TableError for an unreadable or truncated file, another schema or version, a missing, extra or wrongly
    typed column, a null, a duplicate key, a number that is not finite, and (unless `allow_empty`) no rows at all.
    """
    path, contract = storage.location(path), SCHEMAS[name]
    data = _load(path)
    _check_version(data.schema, name, path)
    check_table(data, contract, path, allow_empty)
    return data.select(contract.schema.names)


def check_references(
    table: pa.Table, column: str, known: pa.Array | pa.ChunkedArray | set[str], path: Path, known_name: str
) -> None:
    """Every id in `column` is in `known` (nulls pass). Raises TableError naming file, column, row and id."""
    values = table.column(column)
    if isinstance(known, pa.ChunkedArray):
        known = known.combine_chunks()
    value_set = known if isinstance(known, pa.Array) else pa.array(sorted(known), values.type)
    dangling = pc.and_(pc.is_valid(values), pc.invert(pc.is_in(values, value_set=value_set)))
    row = pc.index(dangling, True).as_py()
    if row >= 0:
        raise TableError(f"{path}: column {column!r}, row {row}: {values[row].as_py()!r} is not in {known_name}")


class Output:
    """The output directory of a stage: `spec.json` first, then the files, `manifest.json` last.

    `spec` holds everything the files depend on: parameters, hashes of inputs, model revisions. With `resume` and an
    unchanged spec, finished files whose bytes are those that were written are kept, and `done` finds them; otherwise
    the directory is emptied. Nothing in it may record time, host or duration.
    """

    def __init__(self, path: Path, spec: dict[str, Any], resume: bool = False) -> None:
        self.path = Path(path)
        self.spec = json.loads(_dump({**spec, "schema_version": SCHEMA_VERSION}))
        self._files: dict[str, dict[str, Any]] = {}
        with writing(self.path):
            if not (resume and self._same_spec()):
                self._empty()
            self._written = Written(self.path)
            (self.path / MANIFEST).unlink(missing_ok=True)
            self.path.mkdir(parents=True, exist_ok=True)
        _write_json(self.path / SPEC, self.spec)

    def write(self, file_name: str, table_name: str, table: Rows, metadata: dict[str, str] | None = None) -> None:
        """Write one table file and list it; a file of several shards may be empty. Raises TableError."""
        path = self.path / file_name
        write_table(path, table_name, table, metadata, shard=_is_shard(file_name))
        self._list([self._entry(file_name)])

    def done(self, file_name: str) -> bool:
        """Is this table file finished and whole, from a run that was interrupted? Then it need not be written."""
        path = self.path / file_name
        if file_name in self._files:
            return True
        if not path.is_file():
            return False
        try:
            entry = self._entry(file_name)
        except (*UNREADABLE, TypeError, TableError):
            entry = None
        if entry is None or not self._written.same(entry):
            path.unlink()
            return False
        self._list([entry])
        return True

    def kept(self, relative: str) -> bool:
        """Is this folder (a checkpoint) finished and whole, from a run that was interrupted?"""
        names = [name for name in self._written.before if name.startswith(f"{relative}/")]
        found = [entry for name in names if (entry := self._other(self.path / name))]
        return bool(names) and len(found) == len(names) and all(map(self._written.same, found))

    def add_file(self, relative: str) -> None:
        """List a file that is no table, or every file of a folder (a checkpoint), with its hash."""
        path = self.path / relative
        if not path.exists():
            raise NearsafeError(f"{path}: cannot be listed, it was not written")
        found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        self._list(entry for file in found if (entry := self._other(file)))

    def finish(self) -> None:
        """Remove what is not listed (resume state, leftovers) and write the manifest: the output now exists."""
        for file in sorted(self.path.rglob("*"), reverse=True):
            if file.is_dir():
                if not any(file.iterdir()):
                    file.rmdir()
            elif file.relative_to(self.path).as_posix() not in {SPEC, JOURNAL, *self._files}:
                file.unlink()
        files = [self._files[name] for name in sorted(self._files)]
        _write_json(self.path / MANIFEST, {"spec": self.spec, "files": files})
        (self.path / JOURNAL).unlink(missing_ok=True)  # last: until then it is what a later run goes by

    def _list(self, entries: Iterable[dict[str, Any]]) -> None:
        found = {entry["name"]: entry for entry in entries}
        self._files |= found
        self._written.add(found.values())

    def _other(self, file: Path) -> dict[str, Any] | None:
        """The entry of a file that is no table; None where there is no file."""
        name = file.relative_to(self.path).as_posix()
        return {"name": name, "table": None, "rows": None, "sha256": file_hash(file)} if file.is_file() else None

    def _entry(self, file_name: str) -> dict[str, Any]:
        path = self.path / file_name
        parquet = pq.ParquetFile(path)
        name = parquet.schema_arrow.metadata[_NAME].decode()
        _check_version(parquet.schema_arrow, name, path)
        rows = parquet.metadata.num_rows
        return {"name": file_name, "table": name, "rows": rows, "sha256": file_hash(path)}

    def _same_spec(self) -> bool:
        try:
            return json.loads((self.path / SPEC).read_text(encoding="utf-8")) == self.spec
        except (OSError, ValueError):
            return False

    def _empty(self) -> None:
        """Move the old directory aside, then delete it: no reader meets half of it."""
        if not self.path.exists():
            return
        aside = self.path.with_name(f".{self.path.name}.old.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(self.path, aside)
        shutil.rmtree(aside)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of an output directory. Raises TableError where there is none (the stage did not finish), and for
    one that is damaged.
    """
    file = Path(path) / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TableError(f"{path}: no {MANIFEST}: the stage that writes this directory did not finish") from None
    except (OSError, ValueError, RecursionError) as error:
        raise TableError(f"{file}: not a readable manifest: {reason(error)}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), list) or "spec" not in manifest:
        raise TableError(f"{file}: not a manifest: expected an object with spec and files")
    for entry in manifest["files"]:
        if not _is_entry(entry):
            raise TableError(
                f"{file}: damaged, not an entry of a file: {entry!r:.80}; run the stage that writes it again"
            )
    return manifest


def _is_entry(entry: Any) -> bool:
    """An entry of a table must name one that there is: else it would silently be left out."""
    if not isinstance(entry, dict) or entry.keys() != {"name", "table", "rows", "sha256"}:
        return False
    if not isinstance(entry["table"], str | None) or not isinstance(entry["rows"], int | None):
        return False
    kind = str if entry["table"] in SCHEMAS else type(None)
    return (
        all(isinstance(entry[key], str) for key in ("name", "sha256"))
        and isinstance(entry["table"], kind)
        and _is_inside(entry["name"])
    )


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def check_hash(file: Path, listed: str) -> None:
    """Raises TableError, saying what to do, where a file's bytes are not those that its directory's manifest lists."""
    if not file.is_file():
        raise TableError(f"{file}: no such file, {MANIFEST} lists it: run the stage that writes it again")
    if file_hash(file) != listed:
        raise TableError(
            f"{file}: not the bytes that {MANIFEST} lists: damaged, or a file of another run; delete the directory and "
            "run its stage again"
        )


def read_output(path: Path, table_name: str, allow_empty: bool = False) -> pa.Table:
    """All rows of one table of an output directory, its shards in order of their names.

    Reads only what the manifest lists. Raises TableError as read_table does, and for a directory without a manifest,
    a listed file that is missing, a file with another number of rows or other bytes than listed, and a key that two
    shards share.
    """
    path = Path(path)
    listed = [entry for entry in read_manifest(path)["files"] if entry["table"] == table_name]
    if not listed:
        raise TableError(f"{path}: {MANIFEST} lists no file of table {table_name!r}")
    parts = []
    for entry in sorted(listed, key=lambda entry: entry["name"]):
        part = read_table(path / entry["name"], table_name, allow_empty=allow_empty or len(listed) > 1)
        if part.num_rows != entry["rows"]:
            raise TableError(f"{path / entry['name']}: {part.num_rows} rows, the manifest lists {entry['rows']}")
        check_hash(path / entry["name"], entry["sha256"])
        parts.append(part)
    whole = pa.concat_tables([part for part in parts if part.num_rows] or parts[:1])
    if len(parts) > 1:
        check_key(whole, SCHEMAS[table_name], path)
        if whole.num_rows == 0 and not allow_empty:
            raise TableError(f"{path}: table {table_name!r} is empty")
    return whole


def _to_arrow(table: Rows, contract: Table, path: Path) -> pa.Table:
    """An Arrow table with the contract's column order and types, from any of the accepted forms."""
    if isinstance(table, list):
        names = dict.fromkeys(name for row in table for name in row)
        table = {name: [row.get(name) for row in table] for name in names or contract.schema.names}
    if isinstance(table, dict):
        if wrong := [name for name in table if not is_unicode(str(name))]:
            raise TableError(f"{path}: column {wrong[0]!r}: its name is no valid Unicode")
        expected = {field.name: field.type for field in contract.schema}
        arrays = {name: _column(values, expected.get(name), name, path) for name, values in table.items()}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise TableError(f"{path}: columns of different length: {lengths}")
        table = pa.table(arrays)
    if any(name not in table.schema.names for name in contract.schema.names):
        check_columns(table.schema, contract, path)
    columns = {name: table.column(name) for name in [*contract.schema.names, *_extra(table, contract)]}
    for field in contract.schema:
        columns[field.name] = _align(columns[field.name], field.type)
    return pa.table(columns)


def _extra(table: pa.Table, contract: Table) -> list[str]:
    return [name for name in table.schema.names if name not in contract.schema.names]


def _column(values: Any, expected: pa.DataType | None, name: str, path: Path) -> pa.Array | pa.ChunkedArray:
    """One column from a list or an array. Raises TableError naming the first row that does not fit its type."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if expected == VECTOR:
        return _vectors(values, name, path)
    values = values.tolist() if isinstance(values, np.ndarray) else list(values)
    try:
        return pa.array(values, expected)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        for row, value in enumerate(values):
            try:
                pa.array([value], expected)
            except (pa.ArrowException, TypeError, ValueError, OverflowError):
                raise TableError(
                    f"{path}: column {name!r}, row {row}: {value!r:.80} is not of type {expected}"
                ) from None
        raise


def _vectors(values: Any, name: str, path: Path) -> pa.Array:
    """Rows (N, D) as a fixed-size list column of float32."""
    try:
        matrix = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise TableError(f"{path}: column {name!r}: vectors must be numbers, all of one length: {error}") from None
    if matrix.ndim != 2 and len(matrix):
        raise TableError(f"{path}: column {name!r}: expected vectors (N, D), got shape {matrix.shape}")
    width = matrix.shape[1] if matrix.ndim == 2 else 0
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), max(width, 1))


def _align(column: pa.ChunkedArray, expected: pa.DataType) -> pa.ChunkedArray:
    """Harmless conversions only: large strings and binaries, and numbers that keep their value."""
    given = column.type
    both_integer = pa.types.is_integer(given) and pa.types.is_integer(expected)
    both_float = pa.types.is_floating(given) and pa.types.is_floating(expected)
    text = pa.types.is_large_string(given) and pa.types.is_string(expected)
    if same_type(given, expected) or not (both_integer or both_float or text or pa.types.is_null(given)):
        return column
    try:
        return column.cast(expected)
    except pa.ArrowException:
        return column  # check_columns then names the column and both types


def _store(data: pa.Table, path: str) -> None:
    try:
        with storage.open_output(path) as file:
            pq.write_table(data, file, compression="zstd")
    except OSError as error:
        raise TableError(f"{path}: cannot be written: {str(error).splitlines()[0]}") from error


def _load(path: Path | str) -> pa.Table:
    try:
        data = pq.ParquetFile(storage.open_input(path)).read()
        data.validate(full=True)  # lengths, and texts that are UTF-8
        return data
    except FileNotFoundError:
        raise TableError(f"{path}: no such file") from None
    except UNREADABLE as error:
        raise TableError(f"{path}: not a readable Parquet file (truncated?): {reason(error)}") from error


def _check_version(schema: pa.Schema, name: str, path: Path) -> None:
    metadata = {key: value.decode(errors="replace") for key, value in (schema.metadata or {}).items()}
    if metadata.get(_NAME, name) != name:
        raise TableError(f"{path}: holds table {metadata[_NAME]!r}, expected {name!r}")
    version = metadata.get(_VERSION, "none")
    if version != SCHEMA_VERSION:
        raise TableError(f"{path}: schema version {version}, this code reads version {SCHEMA_VERSION}")


def _is_shard(file_name: str) -> bool:
    stem = Path(file_name).stem
    return stem.rpartition("-")[2].isdigit() and "-" in stem


def _dump(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(_dump(value), encoding="utf-8")
