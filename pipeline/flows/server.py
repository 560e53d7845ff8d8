"""`make ui`: Prefect's server and pages, the deployments and the report, on loopback or behind a password.

This process only watches: the server and the runner of the deployments are its children, each in a session of its own,
so that Ctrl-C reaches this process first and flows end before what they report to.
"""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from pipeline.errors import NearsafeError
from pipeline.flows.home import (
    AUTH,
    STARTUP,
    Process,
    Server,
    credentials,
    environment,
    read_server,
    sign_in,
    write_server,
)
from pipeline.flows.job import read_settings
from pipeline.flows.pages import serve_folder
from pipeline.layout import Local, Report
from pipeline.orphans import Watch

PORT = 4200
REPORT_PORT = 4201
DEPLOYMENTS = 2
RESTARTS = 5  # of a server that ended by itself; a flow waits a minute for it, and does not end
GRACE = 30.0  # seconds for flows to end: their stages get SIGTERM, and 10 s later SIGKILL


class _Guarded(subprocess.Popen[bytes]):
    """A process in a session of its own, of which nothing is left when it ends, or when this process is killed."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        self._watch = Watch()
        super().__init__(command, start_new_session=True, **options)
        self._watch.over(self.pid)


Children = list[_Guarded]


def serve(root: Path, port: int | None = None, report_port: int | None = None) -> None:
    """Start everything, print the addresses and wait; Ctrl-C or SIGTERM ends all of it.

    It listens on `flows.host` of params.yaml. Both ask for the name and password of NEARSAFE_UI_AUTH if it is set; an
    address that others can reach is refused without. A port that is None is 4200 (4201 for the report), or a free one
    where that is taken. Raises NearsafeError where a server of this clone runs already, where a port that was asked
    for is taken, and where Prefect does not start.
    """
    root = Path(root).resolve()
    settings, auth = read_settings(root), credentials()
    host = settings.host
    if not settings.loopback and auth is None:
        raise NearsafeError(
            f"params.yaml: flows.host {host} can be reached from other machines: set {AUTH}=NAME:PASSWORD in the "
            "environment, or take 127.0.0.1"
        )
    _end_leftovers(root)
    url = f"http://{host}:{_port(host, port, PORT)}"
    pages = serve_folder(root / Report().root, host, _port(host, report_port, REPORT_PORT), auth)
    server = Server(url, f"http://{host}:{pages.server_address[1]}/", (), auth is not None)
    children: Children = []
    try:
        with _stop_signals() as stop:
            _start(root, server, children, stop)
            if not stop.is_set():
                _announce(root, server, children)
            for _ in range(RESTARTS):
                while not stop.wait(0.5) and children[0].poll() is None:
                    _check(root, children)
                if stop.is_set():
                    break
                print("Prefect's server ended: it is started again", flush=True)
                _start(root, server, children, stop)
                _register(root, server, children)
            while not stop.wait(0.5):
                _check(root, children)
    finally:
        _end(children)
        pages.shutdown()
        (root / Local().server).unlink(missing_ok=True)


def _start(root: Path, server: Server, children: Children, stop: threading.Event) -> None:
    """Prefect's server, again if it ended, then the runner of the deployments if it does not run; each is awaited."""
    url, address, env = server.url, httpx.URL(server.url), environment(root, server.url)
    own = {
        "PREFECT_UI_API_URL": f"{url}/api",
        # Only its own pages may call the server: another site open in the browser could start flows.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{url},http://localhost:{address.port}",
    }
    if server.protected:
        own["PREFECT_SERVER_API_AUTH_STRING"] = env["PREFECT_API_AUTH_STRING"]
    command = ["prefect", "server", "start", "--host", address.host, "--port", str(address.port)]
    children[:1] = [_child(root, "server", command, {**env, **own})]
    _await(root, children, stop, lambda: httpx.get(f"{url}/api/health", timeout=2).status_code == 200)
    if not stop.is_set() and len(children) == 1:
        children.append(_child(root, "runner", ["pipeline.flows.deployments"], env))
        _await(root, children, stop, lambda: _deployed(server) >= DEPLOYMENTS)


def _child(root: Path, name: str, module: Sequence[str], env: dict[str, str]) -> _Guarded:
    log = root / Local().prefect / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:  # a server that is started again does not hide why
        return _Guarded(
            [sys.executable, "-m", *module], cwd=root, env=env, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT,
        )  # fmt: skip


def _await(root: Path, children: Children, stop: threading.Event, ready: Callable[[], bool]) -> None:
    """Wait until `ready`. Raises NearsafeError if a child ends, or after a long time."""
    until = time.monotonic() + STARTUP
    while not stop.wait(0.3):
        _check(root, children)
        with suppress(httpx.HTTPError, ValueError):
            if ready():
                return
        if time.monotonic() > until:
            raise NearsafeError(f"Prefect was not ready after {STARTUP} s; its logs are in {root / Local().prefect}")


def _deployed(server: Server) -> int:
    """How many deployments are served now."""
    answer = httpx.post(f"{server.url}/api/deployments/filter", json={}, timeout=5, auth=sign_in(server))
    return sum(entry["status"] == "READY" for entry in answer.json())


def _check(root: Path, children: Children) -> None:
    """Raise NearsafeError with its last words if a child has ended."""
    for child, name in zip(children, ("server", "runner"), strict=False):
        if child.poll() is not None:
            log = root / Local().prefect / f"{name}.log"
            words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise NearsafeError(f"Prefect's {name} ended with status {child.returncode} ({log}): {' '.join(words)}")


def _register(root: Path, server: Server, children: Children) -> None:
    """Say where the server is, and which processes it is."""
    processes = tuple(Process.of(pid) for pid in (psutil.Process().pid, *(child.pid for child in children)))
    write_server(root, replace(server, processes=processes))


def _announce(root: Path, server: Server, children: Children) -> None:
    _register(root, server, children)
    print(f"Flows:  {server.url}/deployments   (repro/manual: Run; repro/nightly runs by itself)")
    print(f"Report: {server.report}")
    if server.protected:
        print(f"Both ask for the name and password of {AUTH}.")
    print("Ctrl-C ends both, and a flow that runs.", flush=True)


def _end(children: Children) -> None:
    """End flows, then the runner, then the server; whatever of it is left after a while is killed."""
    family = psutil.Process().children(recursive=True)
    with suppress(psutil.NoSuchProcess):
        if len(children) > 1:
            flows = psutil.Process(children[1].pid).children()
            _terminate(flows, GRACE)
    for child in reversed(children):
        _terminate([process for process in family if process.pid == child.pid], 10.0)
        with suppress(subprocess.TimeoutExpired):
            child.wait(1)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _terminate(processes: Sequence[psutil.Process], seconds: float) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(processes, timeout=seconds)


def _end_leftovers(root: Path) -> None:
    """Refuse a second server; end what a killed one left behind."""
    old = read_server(root)
    if old is None:
        return
    if old.processes and old.processes[0].find():
        raise NearsafeError(f"a server of this clone runs already: {old.url} (process {old.processes[0].pid})")
    found = [process for process in (entry.find() for entry in old.processes) if process]
    for process in found:
        with suppress(psutil.NoSuchProcess):
            found = [*found, *process.children(recursive=True)]
    _terminate(found, GRACE)
    (root / Local().server).unlink(missing_ok=True)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    old = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _port(host: str, asked: int | None, usual: int) -> int:
    """The port asked for, the usual one, or a free one where that is taken. Raises NearsafeError."""
    for port in (asked,) if asked is not None else (usual, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if asked is not None:
                    raise NearsafeError(f"port {asked} of {host} cannot be used: {error.strerror}") from error
                continue
            return probe.getsockname()[1]
    raise NearsafeError(f"no port of {host} is free")
