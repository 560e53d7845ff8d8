"""`dvc repro` as a child process: its output with progress and time left, and a record of the run in `data/runs`.

DVC decides what runs and does it; stopping this, or never using it, leaves everything as plain `dvc repro` would.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.child import Child, environment, interruptible
from pipeline.errors import NearsafeError
from pipeline.layout import Data, Results, table_file
from pipeline.progress import Done, Progress, duration

if TYPE_CHECKING:
    from pipeline.runs import RunRecord

Row = dict[str, Any]
Say = Callable[[str], None]
# What DVC returns for a command line that it does not take.
_USAGE = 254
# Options that show or prepare instead of running: no run to record.
_NO_RUN = frozenset({"--dry", "-h", "--help", "-i", "--interactive"})


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `stages`: by name; `before`, `after`: rows of metrics.json before and after it."""

    state: Literal["completed", "failed", "cancelled"]
    stages: dict[str, Done]
    seconds: float
    before: list[Row]
    after: list[Row]


def reproduce(root: Path, targets: Sequence[str], options: Sequence[str], show: Say) -> Outcome:
    """Run `dvc repro` with these targets and options in the repository at `root`; each line of it goes to `show`.

    Ctrl-C, SIGTERM and a closed terminal end DVC and its stage. Raises NearsafeError where `root` is no repository,
    for a target that does not exist, and for options that DVC does not take.
    """
    if not (root / "dvc.yaml").is_file():
        raise NearsafeError(f"{root.resolve()}: no dvc.yaml: call `nearsafe repro` in the folder of the clone")
    metrics, data = Results(root / "results").metrics, Data(root / "data").root
    before = _metrics(metrics)
    progress = _plan(root, targets, options, data)
    if progress.planned and (left := progress.left()):
        show(f"about {duration(left)} to go, by earlier runs\n")
    if _NO_RUN.intersection(options):
        record = None
    else:
        from pipeline.runs import RunRecord

        record = RunRecord.start(data, "repro", targets=targets, overrides=(), revision=revision(root))
    state: Literal["completed", "failed", "cancelled"] = "cancelled"
    start = time.monotonic()
    try:
        code = _follow(root, [*options, *targets], progress, record, show, start)
        state = "failed" if code else "completed"
    finally:
        if record:
            if state != "completed":
                _leave(record, progress)
            record.finish(state, metrics if state == "completed" else None)
    if code == _USAGE:
        raise NearsafeError("DVC does not take these options: see above, and `dvc repro --help`")
    return Outcome(state, progress.ended, time.monotonic() - start, before, _metrics(metrics))


def past_seconds(data: Path) -> dict[str, float]:
    """Seconds of every stage when it last ran, by the log of runs below the data directory; {} where there is none."""
    from pipeline.tables import read_table

    found: dict[str, float] = {}
    for folder in sorted(Data(data).runs.glob("*/")):  # ids sort as runs began
        try:
            rows = read_table(folder / table_file("stage_runs"), "stage_runs").to_pylist()
        except NearsafeError:  # a run that had not come to a stage, or was killed while it wrote: nothing to learn
            continue
        found |= {row["stage"]: row["seconds"] for row in rows if row["state"] == "ran" and row["seconds"] is not None}
    return found


def revision(root: Path) -> str | None:
    """The commit that is checked out, "-dirty" where a tracked file differs; None outside of git."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment(), check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def _plan(root: Path, targets: Sequence[str], options: Sequence[str], data: Path) -> Progress:
    """What DVC will come to; nothing where options say more than --force: then the count grows as it goes."""
    if set(options) - {"--force"}:
        return Progress(())
    from pipeline.flows.graph import make_plan

    plan = make_plan(root, targets, "--force" in options)
    return Progress(plan.stages, plan.steps, past_seconds(data))


def _follow(
    root: Path, arguments: Sequence[str], progress: Progress, record: "RunRecord | None", show: Say, start: float
) -> int:
    """DVC's exit status. On KeyboardInterrupt its whole process group is ended first."""
    with interruptible():
        child = Child([sys.executable, "-m", "dvc", "repro", *arguments], root)
        try:
            told: dict[str, Done] = {}
            for line in child.lines():
                show(progress.line(line, time.monotonic() - start))
                if record:
                    _tell(record, progress, told)
            code = child.wait()
            progress.end(time.monotonic() - start, "failed" if code else "ran")
            if record:
                _tell(record, progress, told)
            return code
        except BaseException:  # Ctrl-C, or nobody reads what is shown any more
            child.stop()
            progress.end(time.monotonic() - start, "failed", "cancelled")
            if record:
                _tell(record, progress, told)
            raise


def _tell(record: "RunRecord", progress: Progress, told: dict[str, Done]) -> None:
    """Write down what has become of stages since it was last written."""
    for name, done in progress.ended.items():
        if told.get(name) != done:
            told[name] = done
            record.stage(name, done.state, done.seconds, reason=done.reason)


def _leave(record: "RunRecord", progress: Progress) -> None:
    """Stages that the run would have come to."""
    for name in sorted(progress.planned - progress.seen):
        record.stage(name, "not_run")


def _metrics(path: Path) -> list[Row]:
    from pipeline.runs import metrics_rows

    return metrics_rows(path) if path.is_file() else []
