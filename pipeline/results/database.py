"""DuckDB views over the Parquet tables: in memory, read-only, with no way to any other file.

The views are the .sql files beside this module, one SELECT each, whose first comment says what it answers:
`sql/queries/` holds the named questions, `sql/rules/` the rules that flag an image, `sql/` the views that those use.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.errors import NearsafeError
from pipeline.files import discard, replacing
from pipeline.results.sources import INPUTS, LOG, TABLES, Source, find_sources
from pipeline.schemas import SCHEMAS
from pipeline.tables import read_manifest

SQL = Path(__file__).parent / "sql"
# No extension is ever loaded or fetched; nothing spills to disk; Python variables are no tables.
_SETTINGS: dict[str, str | int | bool] = {
    "allow_community_extensions": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "temp_directory": "",
    "threads": 2,
    "memory_limit": "2GB",
}
_BATCH = 10_000  # rows of an answer that are in memory at once
# What the rules read.
_DETECTIONS = "comparable_detections"
# Columns that are bytes, not answers.
_HIDDEN = {"generations": ("image",)}
# Of the first DuckDB whose files all later ones read: the file is for any `duckdb` command that a user has.
_STORAGE = "v1.0.0"
_NO_RULE = "I2P, ESD, P4D and SAFREE judge with models that do not run here, and these boxes cannot stand in for them"
_DUCK_TYPES = {
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.list_(pa.float32(), 4): "FLOAT[4]",
}


def connect(
    data_dir: Path,
    defences: Sequence[str] | None = None,
    variables: Mapping[str, str] | None = None,
    verify: bool = False,
) -> duckdb.DuckDBPyConnection:
    """A locked in-memory database with every view over the finished tables below `data_dir`.

    Reading is possible from the listed Parquet files alone; configuration cannot be changed. Pass what a user wrote
    through `query` or `stream`, which also refuse every statement that is not a SELECT. `variables` are what
    `getvariable(name)` gives; for `verify` see `find_sources`. Raises NearsafeError for no tables, and for a name that
    is no variable.
    """
    sources = find_sources(data_dir, defences, verify)
    database = duckdb.connect(":memory:", config=_SETTINGS)
    create_views(database, sources)
    for name, value in (variables or {}).items():
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise NearsafeError(f"{name!r} is no name of a variable: letters, digits and _")
        database.execute(f'SET VARIABLE "{name}" = $1', [value])
    database.execute("SET allowed_paths = $1", [[source.path.as_posix() for source in sources]])
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")
    return database


@dataclass(frozen=True)
class Answer:
    """Column names and rows of a query."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def query(database: duckdb.DuckDBPyConnection, sql: str) -> Answer:
    """The answer to one SELECT. Raises NearsafeError for anything else, and for SQL that DuckDB refuses."""
    with _plain_errors():
        _check_select(database, sql)
        rows = database.execute(sql).fetchall()
        return Answer(tuple(column[0] for column in database.description), rows)


@dataclass(frozen=True)
class Batches:
    """An answer that is never whole in memory: its schema, and its rows in batches, once."""

    schema: pa.Schema
    rows: Iterator[pa.RecordBatch]


_FULL = ("Out of Memory", "maximum total string size")  # the latter: 2 GiB of text in one batch


@contextmanager
def stream(database: duckdb.DuckDBPyConnection, sql: str) -> Iterator[Batches]:
    """The answer to one SELECT, for `with`. Ctrl-C ends the query. Raises NearsafeError as `query` does.

    DuckDB works in a thread, because it would not hear of a signal before it has an answer.
    """
    with _plain_errors(), ThreadPoolExecutor(1) as pool:
        _check_select(database, sql)
        try:
            reader = pool.submit(lambda: database.sql(sql).to_arrow_reader(_BATCH)).result()
            yield Batches(reader.schema, iter(lambda: pool.submit(_next, reader).result(), None))
        except KeyboardInterrupt:
            database.interrupt()
            raise


def _check_select(database: duckdb.DuckDBPyConnection, sql: str) -> None:
    kinds = [statement.type for statement in database.extract_statements(sql)]
    if len(kinds) != 1 or kinds[0] != duckdb.StatementType.SELECT:
        given = ", ".join(kind.name for kind in kinds) or "nothing"
        raise NearsafeError(f"expected one SELECT (or SHOW, DESCRIBE, SUMMARIZE), got {given}")


def _next(reader: pa.RecordBatchReader) -> pa.RecordBatch | None:
    """The next batch, None at the end. Arrow hands on as an OSError what DuckDB refuses midway."""
    try:
        return next(reader, None)
    except OSError as error:
        full = any(words in str(error) for words in _FULL)
        raise NearsafeError(memory_exceeded() if full else " ".join(str(error).split())) from error


@contextmanager
def _plain_errors() -> Iterator[None]:
    """What DuckDB refuses, as one NearsafeError."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise NearsafeError(memory_exceeded()) from error
    except (duckdb.Error, pa.ArrowException) as error:
        raise NearsafeError(" ".join(str(error).split())) from error


def memory_exceeded() -> str:
    """What is said of a query that needs too much memory."""
    return f"the query needs more than the {_SETTINGS['memory_limit']} of memory that a query may use: ask for less"


def write_database(path: Path, data_dir: Path, defences: Sequence[str] | None = None) -> None:
    """A DuckDB file that holds the views and no rows; its paths are relative to where `data_dir` is relative to."""
    with replacing(path) as temporary:
        discard(temporary)  # DuckDB would open what is there
        database = duckdb.connect(":memory:", config=_SETTINGS)
        try:
            database.execute(f"ATTACH {_quote(str(temporary))} AS file (STORAGE_VERSION '{_STORAGE}')")
            database.execute("USE file")
            create_views(database, find_sources(data_dir, defences))
        finally:
            database.close()


def create_views(database: duckdb.DuckDBPyConnection, sources: Sequence[Source]) -> None:
    """Create the macros, one view per table, one per rule, `flags` over all rules, and one per file of `sql/`."""
    database.execute((SQL / "macros.sql").read_text(encoding="utf-8"))
    for table in TABLES:
        database.execute(f"CREATE VIEW {table} AS {_table_sql(table, sources)}")
    database.execute(f"CREATE VIEW {INPUTS} AS {_inputs_sql(sources)}")
    rules = _files("rules")
    views = {path.stem: _select(path) for path in [*_files(), *_files("queries")]}
    views |= {f"rule_{rule.stem}": _select(rule) for rule in rules} | {"flags": _flags_sql(rules)}
    _create_in_order(database, views)


def questions() -> list[tuple[str, str]]:
    """Name and meaning of every named question: the views of `sql/queries/`."""
    return [(path.stem, _comment(path)) for path in _files("queries")]


def catalogue() -> list[tuple[str, str]]:
    """Name and meaning of every view: tables first, then rules, then the views of `sql/` and the named questions."""
    tables = [(name, f"rows of the {name} tables") for name in TABLES]
    tables += [(INPUTS, "what the scores of a defence were made from: hashes of the world and of the prompts")]
    rules = [(f"rule_{path.stem}", _comment(path)) for path in _files("rules")]
    columns = "rule, item_id, defence, seed, prompt_set, detector, flagged"
    flags = [("flags", f"every rule above on every image: {columns}. There is none of NudeNet v2 or Q16: {_NO_RULE}")]
    views = [(path.stem, _comment(path)) for path in _files()]
    return [*tables, *rules, *flags, *views, *questions()]


def _create_in_order(database: duckdb.DuckDBPyConnection, views: dict[str, str]) -> None:
    """Create views that may use each other, each after those that its SQL names."""
    uses = {name: set(re.findall(r"\b(?:FROM|JOIN) (\w+)", sql)) & views.keys() for name, sql in views.items()}
    try:
        for name in TopologicalSorter(uses).static_order():
            database.execute(f"CREATE VIEW {name} AS {views[name]}")
    except CycleError as error:
        raise NearsafeError(f"views that need each other: {' '.join(error.args[1])}") from error


def _table_sql(table: str, sources: Sequence[Source]) -> str:
    """SELECT over all files of a table, with the collection they came from; an empty one where there is no file.

    A log may be older than a column: the empty SELECT gives it to all.
    """
    own = [source for source in sources if source.table == table]
    hidden = _HIDDEN.get(table, ())
    parts = []
    if not own or table in LOG:
        columns = [f for f in SCHEMAS[table].schema if f.name not in hidden]
        empty = ", ".join(f'CAST(NULL AS {_DUCK_TYPES[f.type]}) AS "{f.name}"' for f in columns)
        parts.append(f"SELECT CAST(NULL AS VARCHAR) AS collection, {empty} WHERE false")
    exclude = f" EXCLUDE ({', '.join(hidden)})" if hidden else ""
    for collection in sorted({source.collection for source in own}):
        paths = ", ".join(_quote(s.path.as_posix()) for s in own if s.collection == collection)
        files = f"read_parquet([{paths}], union_by_name = true)"
        parts.append(f"SELECT {_quote(collection)} AS collection, *{exclude} FROM {files}")
    return " UNION ALL BY NAME ".join(parts)


def _inputs_sql(sources: Sequence[Source]) -> str:
    """SELECT of what the manifests of scores name as inputs; null for what one does not name."""
    rows = ["(NULL, NULL, NULL)"]
    for source in sources:
        if source.table == INPUTS:
            named = read_manifest(source.path.parent).get("spec", {}).get("inputs", {})
            values = (source.collection, named.get("world"), named.get("prompts"))
            rows.append(f"({', '.join('NULL' if value is None else _quote(value) for value in values)})")
    columns = ", ".join(f"{name}::VARCHAR AS {name}" for name in ("collection", "world", "prompts"))
    return (
        f"SELECT {columns} FROM (VALUES {', '.join(rows)}) AS t(collection, world, prompts) WHERE collection NOT NULL"
    )


def _flags_sql(rules: Sequence[Path]) -> str:
    """All rules on one pass over the detections, which are checked once and not for every rule."""
    parts = [
        f"SELECT '{rule.stem}' AS rule, * FROM ({_select(rule).replace(_DETECTIONS, 'checked')}\n)" for rule in rules
    ]
    return f"WITH checked AS MATERIALIZED (FROM {_DETECTIONS}) {' UNION ALL BY NAME '.join(parts)}"


def _files(folder: str = ".") -> list[Path]:
    """The .sql files of a folder of `sql/` that are views."""
    return [path for path in sorted((SQL / folder).glob("*.sql")) if path.stem != "macros"]


def _select(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip().rstrip(";")


def _comment(file: Path) -> str:
    """The comment lines that open a .sql file, joined."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("--"):
            break
        lines.append(line.removeprefix("--").strip())
    return " ".join(lines)


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
