"""`serve`: the deployments work as their buttons do, flows end when told to, and nothing stays behind."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.flows import control, lock
from pipeline.flows.home import Server, live_server
from tests.flows import repository

PATIENCE = 200.0  # seconds; Prefect starts in 10, on a busy machine in 60


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose training takes for ever, unless something ends it."""
    root = repository.make(tmp_path_factory.mktemp("server") / "clone")
    repository.change(root, "methods.a.sleep", 1000)
    (root / "report").mkdir()
    (root / "report/index.html").write_text("the report")
    (root / "report/outside").symlink_to(root / "params.yaml")
    repository.run(root, "git", "commit", "-q", "-a", "-m", "slow")
    repository.dvc(root, "repro", "-q", "train@b")
    return root


@pytest.fixture(scope="module")
def process(root: Path) -> Iterator[subprocess.Popen[str]]:
    """`serve`, ready."""
    code = "import pathlib, pipeline.flows.run as run; print(run.run_flow(pathlib.Path('.'), ['train@a']).state)"
    flow = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)
    stage = started(root)
    family = psutil.Process(flow.pid).children(recursive=True)
    assert stage in family and os.getpgid(stage.pid) != os.getpgid(flow.pid)
    flow.send_signal(number)
    assert "cancelled" in flow.communicate(timeout=PATIENCE)[0] and flow.returncode == 0
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert lock.holder(root) is None and control.recent(root)[0].state in ("cancelled", "scheduled")


def test_ending_the_server_ends_everything(root: Path, process: subprocess.Popen[str], server: Server) -> None:
    press_run(server, targets=["train@a"])
    started(root)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 4
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=PATIENCE)[0]
    assert server.url in said and server.report in said
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert live_server(root) is None and not (root / ".nearsafe/server.json").exists()
    assert control.recent(root)[0].state == "cancelled"
    shutil.rmtree(root / ".nearsafe")
