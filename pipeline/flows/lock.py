"""One run per clone, a flow or `nearsafe repro`: a lock on a file, and beside it who holds it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import NearsafeError
from pipeline.flows.home import Process, write_json
from pipeline.layout import Local


@dataclass(frozen=True)
class Holder:
    """The run that holds the clone."""

    process: Process
    since: str  # ISO-8601, UTC
    what: str  # its targets and overrides, in words
    run_id: str | None = None
    flow_run_id: str | None = None

    def __str__(self) -> str:
        run = f", run {self.run_id}" if self.run_id else ""
        return f"process {self.process.pid}{run}, since {self.since}, {self.what}"


@contextmanager
def hold(root: Path, what: str) -> Iterator[Holder]:
    """Hold the clone `root` for a run. Raises NearsafeError naming the holder where another one runs.

    The system lets go of it when this process ends, however that ends.
    """
    try:
        lock = _lock(root)
        lock.acquire(timeout=0)
    except Timeout:
        raise NearsafeError(
            f"a run of this clone is under way: {_read(root) or 'it has just started'}; wait for it, or stop it with "
            "`nearsafe flow cancel`"
        ) from None
    except OSError as error:
        raise NearsafeError(f"{root / Local().lock}: cannot be written: {error.strerror or error}") from error
    try:
        holder = Holder(Process.of(os.getpid()), datetime.now(UTC).isoformat(timespec="seconds"), what)
        write(root, holder)
        yield holder
    finally:
        _file(root).unlink(missing_ok=True)
        lock.release()


def write(root: Path, holder: Holder) -> None:
    """Say who holds the clone, again when more is known. Only for the one who does."""
    write_json(_file(root), asdict(holder))


def holder(root: Path) -> Holder | None:
    """The run of this clone now, if any. A file that a killed one left behind is no holder."""
    found = _read(root)
    if found is None or found.process.find() is None:
        return None
    return found


def _lock(root: Path) -> FileLock:
    file = root / Local().lock
    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(file)


def _file(root: Path) -> Path:
    return (root / Local().lock).with_suffix(".json")


def _read(root: Path) -> Holder | None:
    try:
        values = json.loads(_file(root).read_text(encoding="utf-8"))
        return Holder(**{**values, "process": Process(**values["process"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None
