"""`nearsafe flow ui`: pages and buttons work, in a browser too, flows end when told to, and nothing stays behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from playwright.sync_api import Page

from pipeline.errors import NearsafeError
from pipeline.flows import control, lock
from pipeline.flows.home import Server, environment, live_server
from pipeline.runs import read_runs
from tests.faults.listening import listening
from tests.flows import pages, repository
from tests.flows.pages import page

__all__ = ["page"]

PATIENCE = 200.0  # seconds; Prefect starts in 10, on a busy machine in 60
STAGES = ("base", "train@a", "train@b", "score@a", "score@b", "results")
RUN = "import pathlib, pipeline.flows.run as run; print(run.run_flow(pathlib.Path('.'), ['train@a']).state)"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which nothing has run."""
    root = repository.make(tmp_path_factory.mktemp("server") / "clone")
    (root / "report").mkdir()
    (root / "report/index.html").write_text("the report")
    (root / "report/outside").symlink_to(root / "params.yaml")
    return root


@pytest.fixture(scope="module")
def endless(root: Path, server: Server) -> None:
    """From here on one training takes for ever, unless something ends it; the other has run."""
    repository.change(root, "methods.a.sleep", 10000)
    repository.run(root, "git", "commit", "-q", "-a", "-m", "slow")
    repository.dvc(root, "repro", "-q", "train@b")
    (root / "log/train-a.started").unlink(missing_ok=True)  # of the run from the page


@pytest.fixture(scope="module")
def process(root: Path) -> Iterator[subprocess.Popen[str]]:
    """`nearsafe flow ui`, ready: a port that is asked for, and whichever is free for the report."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "flow", "ui", "--port", str(port)], cwd=root, text=True,
        env=environment(root, None), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        wait(lambda: live_server(root) or process.poll() is not None, "the server")
        yield process
    finally:
        left = family(process, root)
        process.terminate()
        process.wait(60)
        for one in left:
            if one.is_running():
                one.kill()


@pytest.fixture(scope="module")
def server(root: Path, process: subprocess.Popen[str]) -> Server:
    """Its addresses."""
    found = live_server(root)
    assert found, "the server has ended"
    return found


def family(process: subprocess.Popen[str], root: Path) -> list[psutil.Process]:
    """The process, what it started, and whatever else works in the repository."""
    found = []
    for one in psutil.process_iter():
        try:
            mine = one.pid == process.pid or process.pid in [parent.pid for parent in one.parents()]
            if (mine or Path(one.cwd()).is_relative_to(root)) and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue
    return found


def wait(ready: Callable[[], Any], what: str) -> Any:
    """What `ready` answers, once that is true."""
    until = time.monotonic() + PATIENCE
    while not (found := ready()):
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.2)
    return found


def post(server: Server, path: str, **body: Any) -> Any:
    """An answer of the server's API; asked again while its database is busy, as Prefect's own pages and client do."""
    for _ in range(10):
        answer = httpx.post(f"{server.url}/api/{path}", json=body, timeout=30)
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            break
        time.sleep(1)
    return answer.raise_for_status().json()


def begun(root: Path) -> psutil.Process:
    """The command of the stage that takes for ever, once it runs."""
    file = root / "log/train-a.started"
    number = wait(lambda: file.is_file() and file.read_text(), "the stage")
    file.unlink()
    return psutil.Process(int(number))


def ends(process: psutil.Process) -> None:
    """Wait until a process is gone."""
    wait(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "the end of the stage")


def ended(server: Server, run: str) -> dict[str, Any]:
    """A flow run, once its state is final."""
    final = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")

    def state() -> Any:
        found = httpx.get(f"{server.url}/api/flow_runs/{run}", timeout=30).json()
        return found if found["state_type"] in final else None

    return wait(state, "the flow run")


def deployments(server: Server) -> dict[str, dict[str, Any]]:
    """Those on the server, by name."""
    return {entry["name"]: entry for entry in post(server, "deployments/filter")}


def press_run(server: Server, **parameters: Any) -> str:
    """What the button of the form does."""
    manual = deployments(server)["manual"]["id"]
    request = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    return post(server, f"deployments/{manual}/create_flow_run", **request)["id"]


def latest(root: Path) -> control.RunInfo:
    """The last flow that began."""
    return next(info for info in control.recent(root, limit=100) if info.state not in ("scheduled", "pending"))


def test_the_deployments_and_their_form(server: Server) -> None:
    found = deployments(server)
    form = found["manual"]["parameter_openapi_schema"]["properties"]
    assert list(form) == ["targets", "overrides", "force"] and all(form[name]["description"] for name in form)
    assert found["nightly"]["schedules"][0]["schedule"]["cron"] == "0 2 * * *"
    assert found["nightly"]["parameters"] == {"targets": [], "overrides": []} and not found["manual"]["schedules"]


def test_the_report_is_served_and_nothing_beside_it(server: Server) -> None:
    assert httpx.get(server.report).text == "the report"
    assert httpx.get(server.report + "outside").status_code == 404
    for path in (b"/../params.yaml", b"/%2e%2e/params.yaml", b"//etc/passwd"):
        assert httpx.get(httpx.URL(server.report).copy_with(raw_path=path)).status_code == 404


def test_another_site_may_not_call_the_server(server: Server) -> None:
    asks = {"Origin": "http://example.org", "Access-Control-Request-Method": "POST"}
    answer = httpx.options(f"{server.url}/api/flow_runs/filter", headers=asks, timeout=30)
    assert "access-control-allow-origin" not in answer.headers


def test_a_run_started_from_the_page_shows_its_stages(root: Path, server: Server, page: Page) -> None:
    pages.press_run(page, server.url)
    pages.look_at_run(page, STAGES)
    (run,) = read_runs(root / "data")
    assert (run["kind"], run["state"]) == ("flow", "completed")


@pytest.mark.usefixtures("endless")
def test_runs_of_the_form_are_cancelled_in_the_pages_and_by_command(root: Path, server: Server) -> None:
    first = press_run(server, targets=["train@a"])
    stage = begun(root)
    second = press_run(server)  # one flow at a time: this one waits
    assert any(info.state == "scheduled" for info in control.recent(root)) and latest(root).state == "running"
    post(server, f"flow_runs/{first}/set_state", state={"type": "CANCELLING"})
    ends(stage)
    assert ended(server, first)["state_type"] == "CANCELLED" and latest(root).state != "completed"

    stage = begun(root)
    with pytest.raises(NearsafeError, match="no flow 'other' runs or waits"):
        control.cancel(root, "other")
    assert "all stages" in control.cancel(root)
    ends(stage)
    assert ended(server, second)["state_type"] == "CANCELLED"
    tasks = post(server, "task_runs/filter", flow_runs={"id": {"any_": [second]}})
    states = {task["name"]: (task["state"]["name"], task["state"]["message"]) for task in tasks}
    assert states["train@a"][0] == "Stopped" and states["score@a"] == ("Not run", "train@a failed")
    assert states["results"][0] == "Not run" and "train@b" not in states
    with pytest.raises(NearsafeError, match="no flow runs"):
        wait(lambda: lock.holder(root) is None, "its process")
        control.cancel(root)


def test_a_run_of_the_form_shows_what_came_of_it(root: Path, server: Server) -> None:
    run = press_run(server, overrides=["methods.a.sleep=0", "base=c"])
    flow = ended(server, run)
    assert flow["state_type"] == "COMPLETED", flow["state"]
    (experiment,) = (tag for tag in flow["tags"] if tag != "experiment")
    assert experiment in flow["name"] and experiment in repository.dvc(root, "exp", "list", "--name-only")
    artifacts = post(server, "artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
    shown = {entry["key"]: entry for entry in artifacts}
    rows = json.loads(shown["stages"]["data"])
    assert {row["state"] for row in rows} == {"Ran"} and len(rows) == 6
    assert "| a | 1 |" in shown["results"]["data"] and experiment in shown["results"]["data"]
    assert shown["progress-train-a"]["data"] == 100

    wrong = ended(server, press_run(server, targets=["trian"]))
    assert wrong["state_type"] == "FAILED" and "near it: train" in wrong["state"]["message"]


@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_flow_of_the_terminal(root: Path, server: Server, number: signal.Signals) -> None:
    flow = subprocess.Popen([sys.executable, "-c", RUN], cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        stage = begun(root)
        started = psutil.Process(flow.pid).children(recursive=True)
        assert stage in started and os.getpgid(stage.pid) != os.getpgid(flow.pid)
        flow.send_signal(number)
        assert "cancelled" in flow.communicate(timeout=PATIENCE)[0] and flow.returncode == 0
    finally:
        flow.terminate()  # a flow that a failed test left would run for ever
    assert not psutil.wait_procs(started, timeout=10)[1]
    assert lock.holder(root) is None and latest(root).state == "cancelled"


@pytest.mark.usefixtures("endless")
def test_ending_the_server_ends_everything(root: Path, process: subprocess.Popen[str], server: Server) -> None:
    press_run(server, targets=["train@a"])
    begun(root)
    there = family(process, root)
    assert len(there) >= 5, "itself, server, runner, flow and stage"
    bound = listening(there)
    assert {f"http://127.0.0.1:{port}" for _, port in bound} >= {server.url, server.report.rstrip("/")}
    assert {address for address, _ in bound} == {"127.0.0.1"}, "nobody but this machine can reach it"
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=PATIENCE)[0]
    assert f"{server.url}/deployments" in said and server.report in said and "Traceback" not in said
    assert process.returncode == 0 and not psutil.wait_procs(there, timeout=10)[1]
    assert [one.cmdline() for one in family(process, root)] == []
    assert live_server(root) is None and not (root / ".nearsafe/server.json").exists()
    assert latest(root).state == "cancelled"
