"""nearsafe flow: what the words of a command line become, and how an outcome is told. Real flows: tests/flows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.errors import NearsafeError
from pipeline.flows import control, run, server
from pipeline.flows.control import RunInfo
from pipeline.flows.run import Outcome

RUNS = [
    RunInfo("20261121-1", "completed", "2026-11-21T12:00:00Z", 95.0, None, "", {"ran": 3, "up_to_date": 2}),
    RunInfo("20261121-0", "failed", "2026-11-21T11:00:00Z", None, "des-slow", "score@des", {"failed": 1, "not_run": 4}),
]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """The command changes variables for its children: not those of other tests."""
    monkeypatch.setattr("os.environ", dict(os.environ))


def ends(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str, str]:
    try:
        main(["flow", *words])
        status = 0
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(("state", "status"), [("completed", 0), ("failed", 1), ("cancelled", 130)])
def test_run_passes_the_words_on_and_tells_the_outcome(monkeypatch, capsys, state, status):
    asked = {}

    def run_flow(root, targets, overrides, force, devices):
        asked.update(root=root, targets=targets, overrides=overrides, force=force, devices=devices)
        stages = {"base": "up_to_date", "train@a": "cached", "score@a": "failed", "results": "not_run"}
        return Outcome(state, "1 ran, 1 failed.", stages, "r", "swift-otter", Path("/w"), "http://127.0.0.1:4200/x")

    monkeypatch.setattr(run, "run_flow", run_flow)
    words = ("run", "score@a", "results", "--set", "a=1", "--set", "b.c=[1, 2]", "--force", "--devices", "0,1")
    found, out, _ = ends(capsys, *words)
    assert found == status
    assert asked == {
        "root": Path(), "targets": ["score@a", "results"], "overrides": ["a=1", "b.c=[1, 2]"], "force": True,
        "devices": "0,1",
    }  # fmt: skip
    assert out.splitlines() == [
        "train@a: restored from the cache", f"score@a: {'stopped' if state == 'cancelled' else 'failed'}",
        "results: not run", "1 ran, 1 failed.",
        "experiment: swift-otter", "its files: /w", "page: http://127.0.0.1:4200/x",
    ]  # fmt: skip


def test_what_the_user_can_mend_is_one_line_and_status_2(monkeypatch, capsys):
    def refuse(*_: object, **__: object) -> None:
        raise NearsafeError("no stage or group 'x'")

    for module, name, words in (
        (run, "run_flow", ["run", "x"]), (control, "cancel", ["cancel"]), (server, "serve", ["ui"]),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, refuse)
        assert ends(capsys, *words) == (2, "", "error: no stage or group 'x'\n")


def test_status_as_a_table_and_as_json(monkeypatch, capsys):
    monkeypatch.setattr(control, "recent", lambda root, limit: RUNS[:limit])
    _, out, _ = ends(capsys, "status")
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in out.splitlines()]
    assert rows[0] == ["run", "state", "started", "took", "stages", "targets", "experiment"]
    assert rows[2][:6] == ["20261121-1", "completed", "2026-11-21T12:00:00Z", "2 min", "3 ran, 2 up to date", "all"]
    assert rows[3][3:] == ["", "1 failed, 4 not run", "score@des", "des-slow"]
    _, out, _ = ends(capsys, "status", "--json", "--limit", "1")
    assert [entry["run"] for entry in json.loads(out)] == ["20261121-1"]


def test_status_of_nothing(monkeypatch, capsys):
    monkeypatch.setattr(control, "recent", lambda root, limit: [])
    assert "no flow has run here yet" in ends(capsys, "status")[1]


def test_cancel_names_the_run(monkeypatch, capsys):
    monkeypatch.setattr(control, "cancel", lambda root, run: f"{run or 'the flow'} is stopped")
    assert ends(capsys, "cancel") == (0, "the flow is stopped\n", "")
    assert ends(capsys, "cancel", "20261121-1") == (0, "20261121-1 is stopped\n", "")


def test_ui_passes_its_ports(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(server, "serve", lambda *given: asked.append(given))
    ends(capsys, "ui")
    ends(capsys, "ui", "--port", "5000", "--report-port", "5001")
    assert asked == [(Path(), None, None), (Path(), 5000, 5001)]


def test_run_status_and_cancel_need_no_prefect_before_they_work():
    """Prefect reads its settings when it is imported: a command must not import it before they are set."""
    code = (
        "import sys, pipeline.flows.run, pipeline.flows.control, pipeline.flows.server; print('prefect' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "False", done.stderr
