"""DuckDB views over the Parquet tables: in memory, read-only, with no way to any other file.

The views are the .sql files beside this module: `sql/<view>.sql` and `sql/rules/<rule>.sql` hold one SELECT each,
and its first comment says what it answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.errors import NearsafeError
from pipeline.results.sources import TABLES, Source, find_sources
from pipeline.schemas import SCHEMAS

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
# Columns that are bytes, not answers.
_HIDDEN = {"generations": ("image",)}
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


def connect(data_dir: Path, defences: Sequence[str] | None = None) -> duckdb.DuckDBPyConnection:
    """A locked in-memory database with every view over the finished tables below `data_dir`.

    Reading is possible from the listed Parquet files alone; configuration cannot be changed. Pass what a user wrote
    through `query`, which also refuses every statement that is not a SELECT. Raises NearsafeError for no tables.
    """
    sources = find_sources(data_dir, defences)
    database = duckdb.connect(":memory:", config=_SETTINGS)
    create_views(database, sources)
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
    try:
        kinds = [statement.type for statement in database.extract_statements(sql)]
        if len(kinds) != 1 or kinds[0] != duckdb.StatementType.SELECT:
            given = ", ".join(kind.name for kind in kinds) or "nothing"
            raise NearsafeError(f"expected one SELECT (or SHOW, DESCRIBE, SUMMARIZE), got {given}")
        rows = database.execute(sql).fetchall()
        return Answer(tuple(column[0] for column in database.description), rows)
    except duckdb.Error as error:
        raise NearsafeError(str(error).strip()) from error


def write_database(path: Path, data_dir: Path, defences: Sequence[str] | None = None) -> None:
    """A DuckDB file that holds the views and no rows; its paths are relative to where `data_dir` is relative to."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    database = duckdb.connect(temporary, config=_SETTINGS)
    try:
        create_views(database, find_sources(data_dir, defences))
    finally:
        database.close()
    temporary.replace(path)


def create_views(database: duckdb.DuckDBPyConnection, sources: Sequence[Source]) -> None:
    """Create the macros, one view per table, one per rule, `flags` over all rules, and one per file of `sql/`."""
    database.execute((SQL / "macros.sql").read_text(encoding="utf-8"))
    for table in TABLES:
        database.execute(f"CREATE VIEW {table} AS {_table_sql(table, sources)}")
    rules = sorted((SQL / "rules").glob("*.sql"))
    for rule in rules:
        database.execute(f"CREATE VIEW rule_{rule.stem} AS {_select(rule)}")
    union = " UNION ALL BY NAME ".join(f"SELECT '{rule.stem}' AS rule, * FROM rule_{rule.stem}" for rule in rules)
    database.execute(f"CREATE VIEW flags AS {union}")
    _create_in_order(database, [path for path in sorted(SQL.glob("*.sql")) if path.stem != "macros"])


def catalogue() -> list[tuple[str, str]]:
    """Name and meaning of every view: tables first, then rules, then the views of `sql/`."""
    tables = [(name, f"rows of the {name} tables") for name in TABLES]
    rules = [(f"rule_{path.stem}", _comment(path)) for path in sorted((SQL / "rules").glob("*.sql"))]
    columns = "rule, item_id, defence, seed, prompt_set, detector, flagged"
    flags = [("flags", f"every rule above on every image: {columns}. There is none of NudeNet v2 or Q16: {_NO_RULE}")]
    views = [(path.stem, _comment(path)) for path in sorted(SQL.glob("*.sql")) if path.stem != "macros"]
    return [*tables, *rules, *flags, *views]


def _create_in_order(database: duckdb.DuckDBPyConnection, files: list[Path]) -> None:
    """Create views that may use each other: what needs a view that is not there yet waits for the next round."""
    while files:
        waiting = []
        for file in files:
            try:
                database.execute(f"CREATE VIEW {file.stem} AS {_select(file)}")
            except duckdb.CatalogException as error:
                waiting.append(file)
                reason = error
        if len(waiting) == len(files):
            raise NearsafeError(f"{waiting[0]}: {reason}") from reason
        files = waiting


def _table_sql(table: str, sources: Sequence[Source]) -> str:
    """SELECT over all files of a table, with the collection they came from; an empty one where there is no file."""
    own = [source for source in sources if source.table == table]
    hidden = _HIDDEN.get(table, ())
    if not own:
        columns = [f for f in SCHEMAS[table].schema if f.name not in hidden]
        empty = ", ".join(f'CAST(NULL AS {_DUCK_TYPES[f.type]}) AS "{f.name}"' for f in columns)
        return f"SELECT CAST(NULL AS VARCHAR) AS collection, {empty} LIMIT 0"
    exclude = f" EXCLUDE ({', '.join(hidden)})" if hidden else ""
    parts = []
    for collection in sorted({source.collection for source in own}):
        paths = ", ".join(_quote(s.path.as_posix()) for s in own if s.collection == collection)
        files = f"read_parquet([{paths}], union_by_name = true)"
        parts.append(f"SELECT {_quote(collection)} AS collection, *{exclude} FROM {files}")
    return " UNION ALL BY NAME ".join(parts)


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
