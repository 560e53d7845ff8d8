"""A flow, `nearsafe repro` or Prefect's server is killed with -9: no process stays, and the next run does the rest."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pipeline.errors import NearsafeError
from pipeline.flows import control, lock
from pipeline.flows.home import live_server
from pipeline.flows.lock import hold
from pipeline.orphans import Watch
from pipeline.runs import read_runs
from tests.faults.record import record
from tests.flows import repository

PATIENCE = 200.0  # seconds; Prefect starts in 10, on a busy machine in 60
STAGES = ["base", "train@a", "train@b", "score@a", "score@b", "results"]
ENV = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def wait(ready: Callable[[], Any], what: str) -> Any:
    """What `ready` answers, once that is true."""
    until = time.monotonic() + PATIENCE
    while not (found := ready()):
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.1)
    return found


def nearsafe(root: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline.cli", *words]
    return subprocess.Popen(
        command, cwd=root, env=ENV, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def at_work(root: Path) -> list[str]:
    """Commands of all processes that work in the repository; those that watch over others end a moment later."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(root) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return found


def begun(root: Path, stage: str) -> psutil.Process:
    file = root / f"log/{stage}.started"
    number = wait(lambda: file.is_file() and file.read_text(), f"{stage} to begin")
    file.unlink()
    return psutil.Process(int(number))


def ran(root: Path) -> dict[str, int]:
    """How often each stage came to its end."""
    return {stage: len(repository.devices(root, stage)) for stage in STAGES}


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A repository in which one training takes a minute at first."""
    root = repository.make(tmp_path / "clone")
    repository.change(root, "methods.a.sleep", 60)
    return root


def test_the_watch_ends_a_group_whose_owner_was_killed(tmp_path: Path) -> None:
    owner = """
import os, subprocess, sys, time
from pipeline.child import Child
child = Child(["/bin/sh", "-c", "sleep 600 & sleep 600 & echo $$; wait"], ".")
print(next(child.lines()), flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", owner], cwd=tmp_path, env=ENV, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    shell = psutil.Process(int(process.stdout.readline()))
    wait(lambda: len(shell.children()) == 2, "both sleeps")
    family = [shell, *shell.children()]
    process.kill()
    process.wait()
    gone, left = psutil.wait_procs(family, timeout=10)
    record("kill -9 of a parent", 1, int(not left))
    assert not left and len(gone) == 3


def test_the_watch_leaves_alone_what_ended_by_itself(tmp_path: Path) -> None:
    """A process that ends before the watch hears of it, and one whose owner closes the watch."""
    watch = Watch()
    process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    process.wait()
    watch.over(process.pid)
    watch.end()


@pytest.mark.parametrize("victim", ["nearsafe", pytest.param("dvc", marks=pytest.mark.faults)])
def test_repro_killed_leaves_no_process_and_the_next_one_finishes(slow: Path, victim: str) -> None:
    process = nearsafe(slow, "repro")
    stage = begun(slow, "train-a")
    (dvc,) = [one for one in psutil.Process(process.pid).children() if "dvc" in one.cmdline()]
    (process if victim == "nearsafe" else dvc).kill()
    assert not psutil.wait_procs([stage, dvc], timeout=10)[1], "an orphan works on"
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert lock.holder(slow) is None and read_runs(slow / "data")[0]["state"] in ("running", "failed")
    repository.change(slow, "methods.a.sleep", 0)
    again = nearsafe(slow, "repro")
    said = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, said
    record(f"kill -9 of {victim}", 1, 1)
    assert ran(slow) == dict.fromkeys(STAGES, 1), "what had finished did not run again, and nothing was lost"


@pytest.mark.faults
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process that its parent ended")
def test_plain_dvc_killed_takes_its_stage_with_it(tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(
        "import argparse, os, pathlib, time\n"
        "from pipeline.errors import run\n"
        "def main():\n"
        "    pathlib.Path('pid').write_text(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        "run(main, argparse.ArgumentParser())\n"
    )
    (tmp_path / "dvc.yaml").write_text("stages: {long: {cmd: python stage.py, outs: [never]}}\n")
    repository.dvc(tmp_path, "init", "--no-scm", "-q")
    env = {**ENV, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    dvc = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "-q"], cwd=tmp_path, env=env, start_new_session=True)
    number = wait(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text(), "the stage")
    stage = psutil.Process(int(number))
    dvc.kill()
    dvc.wait()
    gone, left = psutil.wait_procs([stage], timeout=10)
    record("kill -9 of a plain dvc repro", 1, int(not left))
    assert gone


def test_a_second_run_of_a_clone_ends_with_one_line(slow: Path) -> None:
    first = nearsafe(slow, "repro")
    stage = begun(slow, "train-a")
    for words in (["repro"], ["flow", "run"]):
        second = nearsafe(slow, *words)
        out, error = second.communicate(timeout=60)
        assert second.returncode == 2 and out == ""
        assert error.count("\n") == 1 and "a run of this clone is under way: process" in error, error
    assert stage.is_running()
    assert "asked the flow to stop" in control.cancel(slow)
    assert first.wait(60) == 130 and not stage.is_running()
    record("two runs at once", 2, 2)
    with hold(slow, "free again"):
        assert lock.holder(slow)


@pytest.mark.faults
def test_a_flow_killed_leaves_no_process_and_the_next_one_finishes(slow: Path) -> None:
    process = nearsafe(slow, "flow", "run")
    stage = begun(slow, "train-a")
    family = psutil.Process(process.pid).children(recursive=True)
    stages = [one for one in family if "dvc" in one.cmdline() or one == stage]
    assert stage in stages
    process.kill()
    process.wait()
    assert not psutil.wait_procs(stages, timeout=10)[1], "an orphan works on"
    (run,) = [info for info in control.recent(slow) if info.state == "killed"]
    assert run.stages.get("ran", 0) >= 1
    repository.change(slow, "methods.a.sleep", 0)
    again = nearsafe(slow, "flow", "run")
    said = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, said
    record("kill -9 of a flow", 1, 1)
    assert ran(slow) == dict.fromkeys(STAGES, 1)
    wait(lambda: not at_work(slow), "the end of every process")


@pytest.mark.faults
def test_prefects_server_killed_in_a_flow_is_started_again_and_no_stage_is_lost_or_run_twice(slow: Path) -> None:
    repository.change(slow, "methods.a.sleep", 8)
    ui = nearsafe(slow, "flow", "ui", "--port", "0", "--report-port", "0")
    try:
        server = wait(lambda: live_server(slow), "the server")
        ask = {"json": {}, "timeout": 30}
        (manual,) = [
            entry for entry in httpx.post(f"{server.url}/api/deployments/filter", **ask).json()
            if entry["name"] == "manual"
        ]  # fmt: skip
        body = {"json": {"state": {"type": "SCHEDULED"}}, "timeout": 30}
        run = httpx.post(f"{server.url}/api/deployments/{manual['id']}/create_flow_run", **body).json()["id"]
        begun(slow, "train-a")
        old = psutil.Process(server.processes[1].pid)
        for one in [old, *old.children(recursive=True)]:
            one.kill()
        again = wait(lambda: (new := live_server(slow)) and new.processes != server.processes and new, "a new server")
        assert again.url == server.url
        final = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")

        def state() -> Any:
            found = httpx.get(f"{server.url}/api/flow_runs/{run}", timeout=30).json()
            return found if found["state_type"] in final else None

        flow = wait(state, "the flow run")
        assert flow["state_type"] == "COMPLETED", flow["state"]
        assert ran(slow) == dict.fromkeys(STAGES, 1)
        record("kill -9 of Prefect's server", 1, 1)
    finally:
        ui.send_signal(signal.SIGINT)
        ui.communicate(timeout=90)
    wait(lambda: not at_work(slow), "the end of every process")


@pytest.mark.faults
def test_the_pages_killed_take_everything_with_them(slow: Path) -> None:
    ui = nearsafe(slow, "flow", "ui", "--port", "0", "--report-port", "0")
    wait(lambda: live_server(slow), "the server")
    ui.kill()
    ui.communicate()
    wait(lambda: not at_work(slow), "the end of every process")
    record("kill -9 of make ui", 1, 1)
    with pytest.raises(NearsafeError, match="no flow runs"):
        control.cancel(slow)
