"""Who can reach what the project starts: nobody but this machine, or whoever knows the password."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from pipeline.errors import NearsafeError
from pipeline.flows import control, home
from pipeline.flows.home import AUTH, Server, credentials, live_server, sign_in
from pipeline.flows.job import Settings
from pipeline.flows.pages import serve_folder
from pipeline.flows.run import run_flow
from pipeline.flows.server import serve
from tests.faults.listening import addresses, listening
from tests.faults.record import record
from tests.flows import repository

PATIENCE = 200.0
USER = "someone:a long: password"
TEAM = """
import threading, time, psutil, torch
from pipeline.team import launch
from tests.faults.listening import listening
from tests.team_work import stay
if __name__ == "__main__":
    family = [psutil.Process()]
    thread = threading.Thread(target=launch, args=(2, torch.device("cpu"), stay, 2.0))
    thread.start()
    while thread.is_alive():
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        for address in listening(family):
            print(address, flush=True)
        time.sleep(0.1)
    thread.join()
"""
CLUSTER = """
import os, subprocess, sys
from pipeline.cluster import _connect, _ray
from pipeline.compute import Compute
ray = _ray(own=True)
_connect(ray, Compute(engine="ray"))
address = ray.get_runtime_context().gcs_address
code = f"import ray; ray.init(address={address!r}, logging_level='ERROR'); print('let in')"
plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
wrong = {**os.environ, "RAY_AUTH_TOKEN": "0" * 64}
for name, env in (("without", plain), ("wrong", wrong), ("right", dict(os.environ))):
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    print(name, "let in" in done.stdout)
ray.shutdown()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("the report")
    (tmp_path / "params.yaml").write_text("flows: {cron: '0 2 * * *', timezone: UTC}\n")
    return tmp_path


@pytest.mark.parametrize("given", ["Basic c29tZW9uZTpubw==", "Basic", "Bearer x", "Basic \xe9", "", None])
def test_the_report_asks_for_the_password(folder: Path, given: str | None) -> None:
    pages = serve_folder(folder, "127.0.0.1", 0, USER)
    try:
        url = f"http://127.0.0.1:{pages.server_address[1]}/"
        headers = {} if given is None else {"Authorization": given.encode("latin-1")}
        for method in ("GET", "HEAD"):
            refused = httpx.request(method, url, headers=headers)
            assert refused.status_code == 401 and not refused.content
            assert refused.headers["WWW-Authenticate"].startswith("Basic")
        assert httpx.get(url, auth=tuple(USER.split(":", 1))).text == "the report"
    finally:
        pages.shutdown()
        pages.server_close()


@pytest.mark.parametrize("host", ["192.0.2.7", "10.0.0.1"])
def test_another_address_without_a_password_is_refused_in_one_line(folder: Path, monkeypatch, host: str) -> None:
    monkeypatch.delenv(AUTH, raising=False)
    (folder / "params.yaml").write_text(f"flows: {{cron: '0 2 * * *', timezone: UTC, host: {host}}}\n")
    with pytest.raises(
        NearsafeError, match=f"flows.host {host} can be reached from other machines: set {AUTH}="
    ) as end:
        serve(folder)
    assert "\n" not in str(end.value) and not (folder / ".nearsafe").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "localhost", "", "127.0.0.1:4200"])
def test_an_address_that_is_none_or_all_of_them_is_refused(folder: Path, host: str) -> None:
    (folder / "params.yaml").write_text(f"flows: {{cron: '0 2 * * *', timezone: UTC, host: '{host}'}}\n")
    with pytest.raises(NearsafeError, match=r"params\.yaml.*flows"):
        serve(folder)


@pytest.mark.parametrize("given", ["", "name", ":password", "name:", "na\nme:x", "n:\u00e9"])
def test_a_password_that_is_none_is_refused(monkeypatch, given: str) -> None:
    monkeypatch.setenv(AUTH, given)
    with pytest.raises(NearsafeError, match=f"{AUTH}: expected NAME:PASSWORD") as end:
        credentials()
    assert "password" not in str(end.value).lower().replace("name:password", "")


def test_the_password_goes_to_prefect_and_a_client_without_it_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(AUTH, USER)
    assert home.environment(tmp_path, "http://127.0.0.1:1")["PREFECT_API_AUTH_STRING"] == USER
    server = Server("http://127.0.0.1:1", "", (), protected=True)
    assert sign_in(server) == ("someone", "a long: password")
    monkeypatch.delenv(AUTH)
    with pytest.raises(NearsafeError, match="asks for a password: set"):
        sign_in(server)


def test_settings_know_loopback() -> None:
    assert Settings("0 2 * * *", "UTC").loopback and Settings("0 2 * * *", "UTC", host="127.9.9.9").loopback
    assert not Settings("0 2 * * *", "UTC", host="192.0.2.7").loopback


def test_what_listens_is_seen() -> None:
    """The tests below would pass if nothing were ever found."""
    with socket.socket() as one:
        one.bind(("0.0.0.0", 0))
        one.listen()
        assert ("0.0.0.0", one.getsockname()[1]) in listening([psutil.Process()])


@pytest.mark.faults
def test_a_training_team_listens_on_loopback_alone() -> None:
    found = said(TEAM)
    record("listeners of a training team", len(found), len(found))
    assert found and addresses(found) <= {"127.0.0.1", "::1"}, found


@pytest.mark.faults
def test_a_ray_cluster_of_our_own_lets_nobody_in_without_its_token() -> None:
    """Ray 2.60 opens its ports on every address."""
    pytest.importorskip("ray")
    assert said(CLUSTER) == {"without False", "wrong False", "right True"}
    record("strangers at a Ray cluster", 2, 2)


def said(program: str) -> set[str]:
    """Lines that a program prints."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return set(done.stdout.split("\n")) - {""}


@pytest.fixture
def outside() -> str:
    """An address of this machine that is not loopback."""
    found = [
        address.address
        for name in psutil.net_if_addrs().values()
        for address in name
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    ]
    if not found:
        pytest.skip("this machine has no address but loopback")
    return found[0]


@pytest.fixture
def protected(tmp_path: Path, outside: str) -> Iterator[Path]:
    """A repository whose pages listen on an address that others could reach."""
    root = repository.make(tmp_path / "clone")
    repository.change(root, "flows.host", outside)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), AUTH: USER}
    command = [sys.executable, "-m", "pipeline.cli", "flow", "ui", "--port", "0", "--report-port", "0"]
    ui = subprocess.Popen(command, cwd=root, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    timer = threading.Timer(PATIENCE, ui.kill)
    timer.start()
    try:
        until = time.monotonic() + PATIENCE
        while live_server(root) is None:
            assert ui.poll() is None and time.monotonic() < until, ui.communicate()[0]
            time.sleep(0.2)
        yield root
    finally:
        timer.cancel()
        ui.terminate()
        ui.communicate(timeout=60)


@pytest.mark.faults
def test_pages_that_others_can_reach_ask_for_the_password_and_work_with_it(
    protected: Path, outside: str, monkeypatch
) -> None:
    server = live_server(protected)
    assert server and server.protected and server.url.startswith(f"http://{outside}:")
    pages = psutil.Process(server.processes[0].pid)
    bound = {address for address, _ in listening([pages, *pages.children(recursive=True)])}
    assert {address for address in bound if not address.startswith("127.")} == {outside}, "no other address"
    asks = {
        f"{server.url}/api/deployments/filter": "POST",
        f"{server.url}/api/admin/version": "GET",
        server.report: "GET",
    }
    for url, method in asks.items():
        body = {"json": {}} if method == "POST" else {}
        assert httpx.request(method, url, timeout=30, **body).status_code == 401, url
        wrong = httpx.request(method, url, timeout=30, auth=("someone", "else"), **body)
        assert wrong.status_code == 401, url
        known = httpx.request(method, url, timeout=30, auth=tuple(USER.split(":", 1)), **body)
        assert known.status_code in (200, 404), url  # there is no report yet
    monkeypatch.delenv(AUTH, raising=False)
    with pytest.raises(NearsafeError, match="asks for a password"):
        control.recent(protected)
    with pytest.raises(NearsafeError, match="asks for a password"):
        run_flow(protected)
    monkeypatch.setenv(AUTH, USER)
    assert all(info.state in ("scheduled", "pending") for info in control.recent(protected))
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    flow = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "flow", "run"], cwd=protected, env=env, capture_output=True, text=True
    )
    assert flow.returncode == 0 and f"page: {server.url}" in flow.stdout, flow.stdout + flow.stderr
    record("requests without the password", 2 * len(asks), 2 * len(asks))
