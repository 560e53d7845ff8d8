"""nearsafe query, queries, views, table: what goes in, and every form that an answer comes out in."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.results.database import connect, query
from pipeline.results.formats import _fit

SQL = "SELECT defence, seed, name, value, n FROM headline ORDER BY ALL"


def ask(root: Path, *arguments: str) -> None:
    main(["query", *arguments, "--data", str(root)])


def known(root: Path) -> list[tuple]:
    return query(connect(root), SQL).rows


def test_a_name_is_a_question(finished: Path, capsys: pytest.CaptureFixture) -> None:
    ask(finished, "tradeoff", "--format", "csv")
    assert len(capsys.readouterr().out.splitlines()) == 5
    main(["queries"])
    assert "\ntradeoff " in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_answers_read_back(finished: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"answer.{suffix}"
    ask(finished, SQL, "--out", str(out))
    if suffix == "parquet":
        rows = [tuple(row.values()) for row in pq.read_table(out).to_pylist()]
    elif suffix == "json":
        rows = [tuple(row.values()) for row in json.loads(out.read_text())]
    else:
        text = list(csv.reader(io.StringIO(out.read_text())))[1:]
        rows = [(a, int(b), c, float(d), int(e)) for a, b, c, d, e in text]
    assert rows == known(finished)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_parquet_goes_through_a_pipe(finished: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "query", SQL, "--format", "parquet", "--data", str(finished)]
    done = subprocess.run(command, capture_output=True, check=True, cwd=Path(__file__).parents[2])
    assert pq.read_table(io.BytesIO(done.stdout)).num_rows == len(known(finished))


def test_json_has_no_nan_and_csv_has_lists(finished: Path, capsys: pytest.CaptureFixture) -> None:
    odd = "SELECT 'nan'::DOUBLE AS a, [1, 2] AS b, true AS c, NULL AS d"
    ask(finished, odd, "--format", "json")
    assert json.loads(capsys.readouterr().out) == [{"a": None, "b": [1, 2], "c": True, "d": None}]
    ask(finished, odd, "--format", "csv")
    assert capsys.readouterr().out.splitlines()[1] == 'nan,"[1, 2]",true,'
    ask(finished, "SELECT 1 AS a WHERE false", "--format", "json")
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["leaderbord"], "did you mean leaderboard"),
        (["SELECT 1 AS a, 2 AS a"], "two columns are called 'a'"),
        (["changes", "--set", "before"], "expected NAME=VALUE"),
        (["changes", "--set", "a b=c"], "no name of a variable"),
        (["SELECT 1", "--out", "missing/folder/x.csv"], "cannot be written"),
        (["SELECT list(range) FROM range(1000000000)"], "more than the 2GB of memory"),
        (["COPY scores TO 'x.csv'"], "expected one SELECT"),
        (["ATTACH 'x.duckdb'"], "expected one SELECT"),
        (["INSTALL httpfs"], "expected one SELECT"),
        (["SET threads = 9"], "expected one SELECT"),
        (["FROM read_text('params.yaml')"], "disabled"),
    ],
)
def test_errors_are_one_line(finished: Path, capsys: pytest.CaptureFixture, arguments: list, message: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        ask(finished, *arguments)
    assert stopped.value.code == 2
    found = capsys.readouterr().err
    assert found.startswith("error: ")
    assert message in found


def test_a_failed_answer_leaves_the_old_file(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    out.write_text("before")
    sql = "SELECT CASE WHEN range = 90000 THEN error('midway') ELSE range END AS a FROM range(100000)"
    with pytest.raises(SystemExit):
        ask(finished, sql, "--out", str(out))
    assert out.read_text() == "before"
    assert not list(tmp_path.glob(".x.csv*"))


def test_a_screen_gets_lines_that_fit() -> None:
    header, body = ["defence", "note", "value"], [["des", "long " * 30, "1"], ["original", "short", "2"]]
    for width in (40, 60, 300):
        assert max(map(len, _fit(header, body, width))) <= max(width, 60)
    wide = [f"column_{i}" for i in range(30)]
    lines = _fit(wide, [[str(i) for i in range(30)]] * 3, 60)
    assert max(map(len, lines)) <= 60
    assert sum("column_29" in line for line in lines) == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_runaway_query_ends_with_the_command(finished: Path, number: int, status: int) -> None:
    runaway = "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range + b.range = 7"
    code = "import sys; print('up', flush=True); from pipeline.cli import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "query", runaway, "--data", str(finished)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "up\n"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (busy := _busy_children(process.pid)):
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(30) == status
        assert busy and psutil.wait_procs(busy, 30)[1] == []
    finally:
        process.kill()


def _busy_children(pid: int) -> list:
    """DuckDB's process, once it is at work."""
    return [child for child in psutil.Process(pid).children() if child.num_threads() > 3 and sum(child.cpu_times()) > 3]
