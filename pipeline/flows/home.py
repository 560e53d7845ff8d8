"""Prefect's settings for one clone: a home, no telemetry, no server but ours. Set before Prefect is imported."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from pipeline.errors import NearsafeError
from pipeline.files import replacing
from pipeline.layout import Local

AUTH = "NEARSAFE_UI_AUTH"  # NAME:PASSWORD of the pages; a variable, because a file may be committed
STARTUP = 180  # seconds; on a busy machine a first start took 75, Prefect allows 20


@dataclass(frozen=True)
class Process:
    """A process that a file names. Its start tells it from a later one with the same number.

    `started`: on Linux seconds since the boot named in `boot`, which a clock that is set does not move; elsewhere the
    time of day.
    """

    pid: int
    started: float
    boot: str = ""

    @classmethod
    def of(cls, pid: int) -> "Process":
        """The one that now has this number. Raises psutil.NoSuchProcess."""
        return cls(pid, _started(psutil.Process(pid)), _boot())

    def find(self) -> psutil.Process | None:
        """The process, if it still runs."""
        try:
            process = psutil.Process(self.pid)
            same = self.boot == _boot() and abs(_started(process) - self.started) < 2.0
            alive = same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if alive else None


def _started(process: psutil.Process) -> float:
    # Linux tells a start since boot; psutil adds the time of the boot by today's clock.
    return process.create_time() - (psutil.boot_time() if psutil.LINUX else 0.0)


def _boot() -> str:
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text(encoding="ascii").strip() if file.is_file() else ""


@dataclass(frozen=True)
class Server:
    """Where `serve` listens. `processes`: itself, Prefect's server and its runner."""

    url: str  # of the pages; the API is below /api
    report: str  # of the report's page
    processes: tuple[Process, ...]
    protected: bool = False  # it asks for the name and password of NEARSAFE_UI_AUTH


def write_json(path: Path, values: Any) -> None:
    """Write a small file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def write_server(root: Path, server: Server) -> None:
    """Say where the server of this clone is."""
    write_json(root / Local().server, asdict(server))


def read_server(root: Path) -> Server | None:
    """What the file says, be it true or not; None without a readable one."""
    try:
        values = json.loads((root / Local().server).read_text(encoding="utf-8"))
        processes = tuple(Process(**entry) for entry in values["processes"])
        return Server(values["url"], values["report"], processes, bool(values.get("protected")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def live_server(root: Path) -> Server | None:
    """The server of this clone, if all of it still runs."""
    server = read_server(root)
    return server if server and server.processes and all(process.find() for process in server.processes) else None


def credentials() -> str | None:
    """ "NAME:PASSWORD" for the pages, from the environment; None where it is not set. Raises NearsafeError."""
    given = os.environ.get(AUTH)
    if given is None:
        return None
    name, _, password = given.partition(":")
    if not name or not password or not given.isascii() or not given.isprintable():
        raise NearsafeError(f"{AUTH}: expected NAME:PASSWORD, in printable ASCII")
    return given


def sign_in(server: Server) -> tuple[str, str] | None:
    """Name and password for a request to this server. Raises NearsafeError where it asks for them and has none."""
    given = credentials() if server.protected else None
    if server.protected and given is None:
        raise NearsafeError(f"{server.url} asks for a password: set {AUTH}=NAME:PASSWORD, as where `make ui` runs")
    return tuple(given.split(":", 1)) if given else None


def settings(root: Path, url: str | None) -> dict[str, str]:
    """Prefect's environment variables. `url`: of the server to talk to; None is Prefect's temporary one."""
    home = (root / Local().prefect).resolve()
    values = {
        "PREFECT_HOME": str(home),
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "pages"),  # the environment may not be writable
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(STARTUP),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",  # seconds until a run that was asked for starts, or ends
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
    }
    if url:
        values["PREFECT_API_URL"] = f"{url}/api"
        if auth := credentials():  # a server that does not ask for them takes no offence
            values["PREFECT_API_AUTH_STRING"] = auth
    return values


def environment(root: Path, url: str | None) -> dict[str, str]:
    """This process's environment with those settings, and none of Prefect's that name another server or profile."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {**kept, **settings(root, url)}


def prepare(root: Path, url: str | None) -> None:
    """Give this process those settings. To be called before Prefect is imported, which reads them once."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ.update(settings(root, url))
