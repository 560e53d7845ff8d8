"""Does a table keep its schema? One TableError naming file, column and row (counted from 0) where it does not."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import TableError
from pipeline.schemas import VECTOR, Table


def check_table(data: pa.Table, table: Table, path: Path, allow_empty: bool = False) -> None:
    """Columns, types, nulls, closed vocabularies, finite numbers and unique keys of `data`. Raises TableError."""
    check_columns(data.schema, table, path)
    if data.num_rows == 0:
        if allow_empty:
            return
        raise TableError(f"{path}: the table is empty")
    for name in table.schema.names:
        if name not in table.nullable:
            _check_no_null(data, name, path)
        if name in table.choices:
            _check_choices(data, name, table.choices[name], path)
        _check_finite(data, name, table, path)
    check_key(data, table, path)


def check_columns(schema: pa.Schema, table: Table, path: Path) -> None:
    """Exactly the columns of the contract, each of its type."""
    if missing := [name for name in table.schema.names if name not in schema.names]:
        raise TableError(f"{path}: column {missing[0]!r} is missing; found {', '.join(schema.names) or 'no columns'}")
    if extra := [name for name in schema.names if name not in table.schema.names]:
        raise TableError(f"{path}: column {extra[0]!r} is not expected; expected {', '.join(table.schema.names)}")
    for field in table.schema:
        if schema.names.count(field.name) > 1:
            raise TableError(f"{path}: column {field.name!r} appears {schema.names.count(field.name)} times")
        given = schema.field(field.name).type
        if not same_type(given, field.type):
            raise TableError(f"{path}: column {field.name!r} has type {given}, expected {describe(field.type)}")


def same_type(given: pa.DataType, expected: pa.DataType) -> bool:
    """Equality, but a vector column matches fixed-size lists of any width."""
    if expected == VECTOR:
        return pa.types.is_fixed_size_list(given) and given.value_type == VECTOR.value_type
    return given == expected


def describe(expected: pa.DataType) -> str:
    """The name of an expected type in a message."""
    return "fixed_size_list<float>[D]" if expected == VECTOR else str(expected)


def check_key(data: pa.Table, table: Table, path: Path) -> None:
    """No two rows with the same key."""
    keys = data.select(list(table.key))
    if keys.group_by(list(table.key)).aggregate([]).num_rows == data.num_rows:
        return
    seen: dict[tuple[object, ...], int] = {}
    for row, key in enumerate(zip(*(keys.column(name).to_pylist() for name in table.key), strict=True)):
        if key in seen:
            shown = ", ".join(f"{name}={value!r}" for name, value in zip(table.key, key, strict=True))
            columns = ", ".join(table.key)
            raise TableError(f"{path}: column {columns}, row {row}: duplicate key {shown}, first in row {seen[key]}")
        seen[key] = row


def row_name(data: pa.Table, table: Table, row: int) -> str:
    """`row 3 (item_id=...)`: the row's number and the first column of its key."""
    return f"row {row} ({table.key[0]}={data.column(table.key[0])[row].as_py()!r})"


def _check_no_null(data: pa.Table, name: str, path: Path) -> None:
    column = data.column(name)
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise TableError(f"{path}: column {name!r}, row {row}: null where a value is required")


def _check_choices(data: pa.Table, name: str, choices: frozenset[str], path: Path) -> None:
    column = data.column(name)
    known = pc.is_in(column, value_set=pa.array(sorted(choices), pa.string()))
    row = pc.index(pc.and_(pc.is_valid(column), pc.invert(known)), True).as_py()
    if row >= 0:
        expected = ", ".join(sorted(choices))
        raise TableError(f"{path}: column {name!r}, row {row}: {column[row].as_py()!r} is not one of {expected}")


def _check_finite(data: pa.Table, name: str, table: Table, path: Path) -> None:
    column = data.column(name)
    if pa.types.is_floating(column.type):
        bad = pc.invert(pc.fill_null(pc.is_finite(column), True))
        row = pc.index(bad, True).as_py()
    elif pa.types.is_fixed_size_list(column.type):
        row = _first_bad_vector(column)
    else:
        return
    if row >= 0:
        raise TableError(f"{path}: column {name!r}, {row_name(data, table, row)}: NaN, infinite or null number")


def _first_bad_vector(column: pa.ChunkedArray) -> int:
    """Row of the first vector with a number that is not finite, -1 if there is none; null vectors are passed over."""
    start = 0
    for chunk in column.chunks:
        valid = np.flatnonzero(chunk.is_valid().to_numpy(zero_copy_only=False))
        # flatten() leaves out the values of null lists
        values = chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(valid), chunk.type.list_size)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            return start + int(valid[bad[0]])
        start += len(chunk)
    return -1
