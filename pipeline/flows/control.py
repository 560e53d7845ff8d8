"""Look at flows and stop them, without a browser."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import NearsafeError


@dataclass(frozen=True)
class RunInfo:
    """One flow: of the log of runs, or one that the server has waiting."""

    run: str  # what `cancel` takes: the run's id, or the server's name of one that waits
    state: str  # running, completed, failed, cancelled; scheduled or pending on the server
    started: str | None  # ISO-8601, UTC; of a scheduled one: when it is due
    seconds: float | None  # None while it runs
    experiment: str | None
    targets: str  # "" is every stage
    stages: dict[str, int]  # how many are in which state: ran, cached, up_to_date, failed, not_run


def recent(root: Path, limit: int = 10) -> list[RunInfo]:
    """The latest flows, newest first: those of the log of runs, and those that wait on a running server."""
    raise NearsafeError("flows are not built yet")


def cancel(root: Path, run: str | None = None) -> str:
    """Stop the flow that runs in this clone, or the one named `run`; one sentence says what was stopped.

    Raises NearsafeError where nothing runs, or `run` is not running.
    """
    raise NearsafeError("flows are not built yet")
