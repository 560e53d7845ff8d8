"""What a user's SQL may not do, whatever it says: write, read other files, load, set, or go past its limits."""

import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.errors import NearsafeError
from pipeline.results import confined
from pipeline.results.confined import Request, ask
from pipeline.results.database import Answer, connect, query
from tests.faults.record import record

ROOT = Path(__file__).resolve().parents[2]
SECRET = "a word that no table holds: 7f3a"
# Statements and functions that reach out, and ordinary pieces to set between them. No number is large: what takes long
# or much is tried in a process of its own, below.
REACHING = (
    "COPY scores TO 'out.csv'", "COPY (FROM scores) TO 'out.parquet' (FORMAT parquet)", "EXPORT DATABASE 'out'",
    "IMPORT DATABASE 'out'", "ATTACH 'out.duckdb' AS o", "DETACH memory", "INSTALL httpfs", "LOAD httpfs",
    "LOAD 'secret.txt'", "SET threads = 1", "SET memory_limit = '90GB'", "RESET memory_limit",
    "SET enable_external_access = true", "SET VARIABLE a = 1", "PRAGMA enable_profiling", "PRAGMA version",
    "CALL pragma_version()", "CHECKPOINT", "VACUUM", "CREATE TABLE t AS SELECT 1", "CREATE MACRO m() AS 1",
    "CREATE SECRET s (TYPE s3)", "DROP VIEW scores", "BEGIN", "USE memory", "INSERT INTO scores VALUES (1)",
    "DELETE FROM scores", "UPDATE scores SET n = 1", "ALTER VIEW scores RENAME TO x", "PREPARE p AS SELECT 1",
    "EXECUTE p", "EXPLAIN ANALYZE FROM scores", "LOAD json", "FORCE INSTALL json FROM community",
    "FROM read_text('secret.txt')", "FROM read_blob('secret.txt')", "FROM read_csv('secret.txt')",
    "FROM 'secret.txt'", "FROM read_csv_auto('secret.txt')", "FROM read_json('secret.txt')",
    "FROM read_ndjson_objects('secret.txt')", "FROM read_parquet('*.parquet')", "FROM parquet_schema('secret.txt')",
    "FROM glob('*')", "FROM sniff_csv('secret.txt')", "FROM '/etc/passwd'", "FROM read_text('/proc/self/environ')",
    "FROM query('FROM glob(''*'')')", "FROM query_table('secret.txt')", "FROM duckdb_secrets()",
    "FROM which_secret('x', 's3')", "FROM read_text('http://127.0.0.1:9/x')", "SELECT getenv('HOME')",
    "SELECT current_setting('memory_limit')", "FROM duckdb_settings()", "FROM duckdb_extensions()",
    "FROM duckdb_logs()", "SELECT read_text('secret.txt')", "SELECT write_log('x')",
    "FROM sqlite_scan('secret.txt', 't')", "FROM st_read('secret.txt')", "FROM python_scan('x')",
    "FROM arrow_scan(1, 2, 3)", "FROM pandas_scan(1)", "FROM hidden", "SELECT nextval('s')",
)  # fmt: skip
PIECES = (
    "SELECT", "FROM", "WHERE", "WITH", "RECURSIVE", "UNION ALL", "(", ")", ",", ";", "*", "1", "'a'", '"a"', "NULL",
    "--", "/*", "*/", "scores", "detections", "leaderboard", "getvariable('a')", "LIMIT 1", "ORDER BY ALL",
    "GROUP BY ALL", '\x00', '\x1b[2J', '\u202e', "😀", "$1", "?", "::INT", "[1, 2]", "{'a': 1}", "{a}", "%s", "EXCEPT",
    "PIVOT", "AS t(a)", "x -> x", "''", '\\', '\n',
)  # fmt: skip
# Queries that ask for too much time or memory, in ways that DuckDB itself counts and in ways that it does not.
GREEDY = (
    "SELECT repeat('x', 3000000000)",
    "SELECT lpad('x', 2000000000, 'y')",
    "SELECT range(2000000000)",
    "SELECT unnest(range(2000000000))",
    "SELECT list(range) FROM range(1000000000)",
    "SELECT format('{:>2000000000}', 1)",
    "WITH RECURSIVE t(a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM t) SELECT max(a) FROM t",
    "WITH RECURSIVE t(a) AS (SELECT 'x' UNION ALL SELECT a || a FROM t) SELECT count(*) FROM t",
    "SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE a.range + b.range = -1",
    "SELECT repeat('x', 200000000) FROM range(100)",
    "SELECT sleep_ms(60000)",
    "FROM range(100000000000000)",
)
QUICK = (GREEDY[0], GREEDY[6])


def _mutated(sql: str) -> st.SearchStrategy[str]:
    """`sql` with a piece set in, cut out or doubled somewhere."""
    piece = st.sampled_from((*PIECES, *REACHING)) | st.text(max_size=6)
    places = st.tuples(st.integers(0, len(sql)), st.integers(0, len(sql)))
    return st.builds(lambda at, new: f"{sql[: min(at)]} {new} {sql[max(at) :]}", places, piece)


VALID = (
    "SELECT defence, seed FROM leaderboard WHERE seed = 0",
    "FROM scores LIMIT 3",
    "DESCRIBE scores",
    "SUMMARIZE scores",
)
SQL = (
    st.lists(st.sampled_from((*PIECES, *REACHING)), min_size=1, max_size=8).map(" ".join)
    | st.sampled_from(VALID).flatmap(_mutated)
    | st.sampled_from(REACHING).flatmap(_mutated)
    | st.text(max_size=60)
)


def test_random_sql_gives_an_answer_or_one_line_and_touches_no_file(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret.txt").write_text(SECRET)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    database, tried = connect(finished), 0
    guard = threading.Timer(120, database.interrupt)
    guard.start()

    @settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(SQL)
    def check(sql: str) -> None:
        nonlocal tried
        tried += 1
        try:
            found = query(database, sql)
        except NearsafeError as error:
            told = str(error)
            assert "\n" not in told and "Traceback" not in told
        else:
            assert isinstance(found, Answer)
            told = str(found.rows)
        assert SECRET not in told and "root:" not in told

    check()
    guard.cancel()
    for sql in REACHING:
        check.hypothesis.inner_test(sql)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert query(database, "SELECT count(*) > 0 FROM scores").rows == [(True,)]
    record("query: random SQL", tried, tried, "an answer or one line; no file read or made")


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _refused(data: Path, sql: str, seconds: float) -> str:
    before = _children()
    with pytest.raises(NearsafeError) as caught, ask(Request(sql, str(data)), seconds) as answer:
        for batch in answer.rows:
            del batch
    assert _children() <= before, "its process is gone"
    return str(caught.value)


@pytest.mark.parametrize("sql", QUICK)
def test_a_greedy_query_ends_at_its_limits(finished: Path, sql: str) -> None:
    assert ("memory" if "repeat" in sql else "took more than 4 s") in _refused(finished, sql, 4)


@pytest.mark.faults
def test_every_greedy_query_ends_at_its_limits(finished: Path) -> None:
    for sql in GREEDY:
        told = _refused(finished, sql, 8)
        assert "of memory that a query may use" in told or "took more than 8 s" in told or "more than 64 MiB" in told, (
            told
        )
    record("query: time and memory bombs", len(GREEDY), len(GREEDY), "ended at 8 s or 4 GiB, in one line")


def test_what_the_reader_takes_is_not_the_querys_time(finished: Path) -> None:
    before = _children()
    with ask(Request("SELECT range AS a FROM range(200000)", str(finished)), 60) as answer:
        assert sum(batch.num_rows for batch in answer.rows) == 200_000
    with ask(Request("SELECT 1 AS a WHERE false", str(finished)), 60) as answer:
        assert (answer.schema.names, list(answer.rows)) == (["a"], [])
    with ask(Request("FROM range(100000000000)", str(finished)), 60) as answer:
        assert next(answer.rows).num_rows > 0
    assert _children() <= before, "a reader that has enough ends it"


def test_the_confined_process_writes_no_byte_to_a_file_and_sees_no_environment(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from pipeline.results.confined import confine; confine(9)\nopen('x', 'w').write('x' * 9999)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert "File too large" in done.stderr
    assert (tmp_path / "x").stat().st_size == 0
    monkeypatch.setenv("A_TOKEN", SECRET)
    started, popen = [], subprocess.Popen

    def remember(*arguments: object, **options: object) -> subprocess.Popen:
        started.append(options.get("env"))  # none: its watch, which runs no SQL
        return popen(*arguments, **options)

    monkeypatch.setattr(confined.subprocess, "Popen", remember)
    with ask(Request("SELECT 1", str(finished))) as answer:
        assert sum(batch.num_rows for batch in answer.rows) == 1
    assert any(started) and SECRET not in str(started)


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_no_terminal_obeys_an_answer_or_an_error(finished: Path, capsys: pytest.CaptureFixture, form: str) -> None:
    obeyed = "chr(27) || '[2J' || chr(155) || '31m' || chr(7) || chr(8) || chr(13) || 'text' || chr(8238) || chr(127)"
    main(["query", f'SELECT {obeyed} AS "a\x1b]0;b"', "--data", str(finished), "--format", form])
    printed = capsys.readouterr().out
    assert "text" in printed
    left = {c for c in printed if not c.isprintable()} - {"\n"}
    assert left <= ({"\u202e"} if form != "table" else set()), "a file keeps what is only seen; a table spells it"
    with pytest.raises(SystemExit):
        main(["query", f"SELECT error({obeyed})", "--data", str(finished)])
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    assert all(c.isprintable() for c in told.rstrip("\n"))
    record(f"query: control characters as {form}", 9, 9, "spelt out, in answers and in errors")
