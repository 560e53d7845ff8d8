"""nearsafe repro: runs DVC, shows how far it is, writes down what ran, and leaves no process behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.child import Child, environment
from pipeline.cli import main
from pipeline.commands.repro import moved
from pipeline.repro import Outcome, past_seconds
from pipeline.runs import read_runs
from pipeline.tables import read_output

CHAIN = """\
first:
  cmd: echo one > first.txt; echo said by a stage
  outs: [first.txt]
second:
  foreach: [a, b]
  do:
    cmd: test ! -e broken && cp first.txt second-${item}.txt
    deps: [first.txt]
    outs: ["second-${item}.txt"]
"""


def states(root: Path) -> dict[str, str]:
    """Of the latest run."""
    run = read_runs(root / "data")[0]["run_id"]
    return {row["stage"]: row["state"] for row in read_output(root / "data/runs" / run, "stage_runs").to_pylist()}


def test_a_run_shows_where_it_is_and_is_written_down(dvc_repository, capfd):
    root = dvc_repository(CHAIN)
    main(["repro"])
    out = capfd.readouterr().out
    assert "[1 of 3, " in out and "Running stage 'first':\n> echo one" in out and "\nsaid by a stage\n" in out
    assert "3 of 3 stages ran, in " in out
    (run,) = read_runs(root / "data")
    assert (run["kind"], run["state"], run["targets"]) == ("repro", "completed", None)
    assert run["started"] <= run["ended"]
    assert states(root) == {"first": "ran", "second@a": "ran", "second@b": "ran"}
    assert set(past_seconds(root / "data")) == {"first", "second@a", "second@b"}

    main(["repro"])  # nothing to do: said by DVC, and no run to remember
    out = capfd.readouterr().out
    assert "Data and pipelines are up to date." in out and "0 of 3 stages ran" in out
    assert len(read_runs(root / "data")) == 1

    main(["repro", "second@b", "--force"])
    out = capfd.readouterr().out
    assert re.search(r"^2 of 2 stages to run: about \d+ s, by earlier runs$", out, re.MULTILINE)
    assert read_runs(root / "data")[0]["targets"] == "second@b"
    assert states(root) == {"first": "ran", "second@b": "ran"}

    (root / "second-a.txt").unlink()
    main(["repro"])
    assert states(root) == {"first": "up_to_date", "second@a": "cached", "second@b": "up_to_date"}


def test_a_failed_stage_is_status_1_and_says_where(dvc_repository, capfd):
    root = dvc_repository(CHAIN)
    (root / "broken").touch()
    with pytest.raises(SystemExit) as end:
        main(["repro"])
    assert end.value.code == 1
    captured = capfd.readouterr()
    assert "ERROR: failed to reproduce 'second@a'" in captured.out
    assert "failed: second@a; the reason is above" in captured.err and "Traceback" not in captured.err
    assert read_runs(root / "data")[0]["state"] == "failed"
    assert states(root) == {"first": "ran", "second@a": "failed", "second@b": "not_run"}
    rows = read_output(next((root / "data/runs").iterdir()), "stage_runs").to_pylist()
    assert "exited with 1" in rows[1]["reason"]

    with pytest.raises(SystemExit):
        main(["repro", "--", "--keep-going"])
    assert states(root) == {"first": "up_to_date", "second@a": "failed", "second@b": "failed"}


@pytest.mark.parametrize(
    ("words", "message"),
    [(["fist"], "no stage or group 'fist'"), (["--", "--nonsense"], "DVC does not take these options")],
)
def test_wrong_use_is_status_2_and_no_run(dvc_repository, capfd, words, message):
    root = dvc_repository(CHAIN)
    with pytest.raises(SystemExit) as end:
        main(["repro", *words])
    assert end.value.code == 2
    assert message in capfd.readouterr().err
    assert read_runs(root / "data") == []


def test_outside_of_a_clone(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["repro"])
    assert end.value.code == 2
    assert "no dvc.yaml" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_ends_the_stage_and_says_so(dvc_repository, number):
    root = dvc_repository("""\
        slow:
          cmd: echo $$ > pid; sleep 600
          outs: [never.txt]
        """)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "repro"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (root / "pid").exists() or not (root / "pid").read_text().strip():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    time.sleep(0.2)  # the shell becomes the sleep
    shell = psutil.Process(int((root / "pid").read_text()))
    stage = [shell, *shell.children(recursive=True)]
    process.send_signal(number)
    out, err = process.communicate(timeout=40)
    assert process.returncode == 130
    assert "cancelled: what had finished is kept" in err and "Traceback" not in out + err
    assert not psutil.wait_procs(stage, timeout=2)[1]
    (run,) = read_runs(root / "data")
    assert run["state"] == "cancelled" and run["ended"]
    assert states(root) == {"slow": "failed"}


def test_what_a_child_left_in_the_background_is_ended_too(monkeypatch, tmp_path):
    """A shell's background jobs ignore SIGINT, and outlive the shell."""
    monkeypatch.setattr("pipeline.child._GRACE", ((signal.SIGINT, 0.5), (signal.SIGTERM, 10.0)))
    child = Child(["/bin/sh", "-c", "sleep 600 & echo $!; wait"], tmp_path)
    left = psutil.Process(int(next(child.lines())))
    child.stop()
    assert not psutil.wait_procs([left], timeout=2)[1]


def test_a_child_that_ignores_everything_is_ended_at_the_second_request(monkeypatch):
    deaf = "import signal; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; print('up', flush=True); signal.pause()"
    child = Child([sys.executable, "-c", deaf], Path())
    assert next(child.lines()) == "up\n"
    asked = []

    def gone(seconds: float) -> bool:
        asked.append(seconds)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return Child._gone(child, seconds)

    monkeypatch.setattr(child, "_gone", gone)
    child.stop()
    assert child.wait() == -signal.SIGKILL


def test_lines_keep_the_ends_they_had():
    child = Child([sys.executable, "-c", r"print('a\r50%\rdone\r\n\xff', end='')"], Path())
    assert "".join(child.lines()) == "a\r50%\rdone\r\n\xff"


def test_stages_get_what_make_gives_them():
    given = environment({"PATH": "/usr/bin", "HF_HUB_OFFLINE": "0"})
    assert given["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"
    assert given["HF_HUB_OFFLINE"] == given["DVC_NO_ANALYTICS"] == "1" and given["PYTHONHASHSEED"] == "0"


def test_what_moved_shows_the_surprises_first():
    def row(name: str, value: float, low: float, high: float) -> dict:
        return {"defence": "des", "seed": 0, "name": name, "value": value, "ci_low": low, "ci_high": high, "n": 9}

    before = [row("asr", 0.5, 0.4, 0.6), row("drift", 0.1, 0.05, 0.15), row("same", 1, 1, 1)]
    after = [row("asr", 0.9, 0.3, 1.0), row("drift", 0.2, 0.16, 0.25), row("same", 1, 1, 1)]
    text = moved(Outcome("completed", {}, 1.0, before, after)).splitlines()
    assert "Of 3 numbers in results/metrics.json 2 moved, 1 of them so far" in text[0]
    assert text[1:] == ["  des, seed 0, drift: 0.100 -> 0.200  apart", "  des, seed 0, asr: 0.500 -> 0.900"]
    assert "are what they were" in moved(Outcome("completed", {}, 1.0, before, before))
