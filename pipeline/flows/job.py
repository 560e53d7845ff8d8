"""One request to a flow, from its words to what is to run: the clone held, the workspace made, DVC asked once."""

import ipaddress
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.flows.graph import Plan, make_plan
from pipeline.flows.lock import Holder, hold
from pipeline.guard import guarded
from pipeline.params import DEFAULT_FILE, section


@dataclass(frozen=True)
class Nightly:
    """What the deployment `nightly` asks for."""

    targets: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """Section `flows` of params.yaml."""

    cron: str
    timezone: str
    nightly: Nightly = field(default_factory=Nightly)
    cpu_slots: int = 1  # stages without a GPU that run at once
    keep_workspaces: int = 5
    host: str = "127.0.0.1"  # where `make ui` listens; any but loopback needs a password

    def __post_init__(self) -> None:
        if not isinstance(address := ipaddress.ip_address(self.host), ipaddress.IPv4Address) or address.is_unspecified:
            raise ValueError(f"host: {self.host}: expected one IPv4 address of this machine")
        if self.cpu_slots < 1 or self.keep_workspaces < 1:
            raise ValueError("cpu_slots and keep_workspaces: at least 1")

    @property
    def loopback(self) -> bool:
        """Whether nobody else can reach `host`."""
        return ipaddress.ip_address(self.host).is_loopback


@dataclass(frozen=True)
class Request:
    """What was asked for. `targets`: none is every stage; `devices`: None is what the machine has."""

    root: Path
    targets: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    force: bool = False
    devices: str | None = None

    def __str__(self) -> str:
        words = [", ".join(self.targets) or "all stages", *self.overrides]
        return ("forced: " if self.force else "") + " ".join(words)


@dataclass(frozen=True)
class Job:
    """What is to run. `place`: where; the repository itself, or the clone of experiment `experiment`."""

    request: Request
    settings: Settings
    holder: Holder
    place: Path
    experiment: str | None
    revision: str | None
    plan: Plan


def read_settings(root: Path) -> Settings:
    """Section `flows` of the clone's params.yaml. Raises NearsafeError naming what is wrong with it."""
    return section(f"{root / DEFAULT_FILE}:flows", Settings)


@contextmanager
def open_job(request: Request) -> Iterator[Job]:
    """Hold the clone and work out what is to run. Raises NearsafeError before anything was changed."""
    settings = read_settings(request.root)
    if request.overrides:
        from pipeline.flows.experiment import check_overrides  # DVC's reader of overrides is slow to import

        check_overrides(request.root, request.overrides)
    with guarded(), hold(request.root, str(request)) as holder:
        experiment, place = None, request.root
        if request.overrides:
            from pipeline.flows.experiment import make_workspace

            experiment, place = make_workspace(request.root, request.overrides, settings.keep_workspaces)
        plan = None
        try:
            plan = make_plan(place, request.targets, request.force)
        finally:
            if experiment and not (plan and plan.steps):
                shutil.rmtree(place, ignore_errors=True)  # nothing will run there
        yield Job(request, settings, holder, place, experiment, _revision(request.root), plan)


def _revision(root: Path) -> str | None:
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or None
