"""`dvc repro` as a child process: its output with progress and time left, and a record of the run in `data/runs`.

DVC decides what runs and does it; stopping this, or never using it, leaves everything as plain `dvc repro` would.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.child import Child, environment, interruptible
from pipeline.errors import NearsafeError
from pipeline.fetching import read_pins, references
from pipeline.layout import Data, Results
from pipeline.models import hub
from pipeline.progress import Done, Progress, duration

if TYPE_CHECKING:
    from pipeline.flows.lock import Holder
    from pipeline.runs import RunRecord

Row = dict[str, Any]
Say = Callable[[str], None]
EndState = Literal["completed", "failed", "cancelled"]
# What DVC returns for a command line that it does not take.
_USAGE = 254
# Options that show or prepare instead of running: no run to record.
_NO_RUN = frozenset({"--dry", "-h", "--help", "-i", "--interactive"})


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `stages`: by name; `before`, `after`: rows of metrics.json, none where no stage was to run."""

    state: EndState
    stages: dict[str, Done]
    seconds: float
    before: list[Row]
    after: list[Row]


def reproduce(root: Path, targets: Sequence[str], options: Sequence[str], show: Say) -> Outcome:
    """Run `dvc repro` with these targets and options in the repository at `root`; each line of it goes to `show`.

    Where no stage is out of date DVC is not even started. A run in which a stage runs is recorded below data/runs.
    Ctrl-C, SIGTERM and a closed terminal end DVC and its stage; then KeyboardInterrupt is raised. Raises NearsafeError
    where `root` is no repository, where another run holds it, for a target that does not exist, and for options that
    DVC does not take.
    """
    if not (root / "dvc.yaml").is_file():
        raise NearsafeError(f"{root.resolve()}: no dvc.yaml: call `nearsafe repro` in the folder of the clone")
    _check_models(root, targets, show)
    from pipeline.flows.lock import hold

    runs = not _NO_RUN.intersection(options)
    what = shlex.join(["nearsafe", "repro", *options, *targets])
    with hold(root.resolve(), what) if runs else nullcontext() as holder:
        return _reproduce(root, targets, options, show, holder)


def _reproduce(
    root: Path, targets: Sequence[str], options: Sequence[str], show: Say, holder: "Holder | None"
) -> Outcome:
    """`reproduce` for the one who holds the clone, None where nothing is run."""
    start = time.monotonic()
    metrics, data = Results(root / "results").metrics, Data(root / "data").root
    progress = _plan(root, targets, options, data)
    if progress.planned and not progress.stale:
        show("Data and pipelines are up to date.\n")
        return Outcome(
            "completed", dict.fromkeys(progress.planned, Done("up_to_date")), time.monotonic() - start, [], []
        )
    before = _metrics(metrics)
    if left := progress.left():
        show(
            f"{len(progress.stale)} of {len(progress.planned)} stages to run: about {duration(left)}, by earlier runs\n"
        )
    log = _Log(root, data, targets, holder)
    start = time.monotonic()
    try:
        code = _follow(root, [*options, *targets], progress, log, show, start)
    except BaseException:
        log.finish("cancelled", progress, None)
        raise
    state: EndState = "failed" if code else "completed"
    log.finish(state, progress, metrics)
    if code == _USAGE:
        raise NearsafeError("DVC does not take these options: see above, and `dvc repro --help`")
    return Outcome(state, progress.ended, time.monotonic() - start, before, _metrics(metrics))


class _Log:
    """The record of a run, from the first stage that is more than up to date: a run of nothing leaves none."""

    def __init__(self, root: Path, data: Path, targets: Sequence[str], holder: "Holder | None") -> None:
        self._root, self._data, self._targets, self._holder = root, data, targets, holder
        self._record: RunRecord | None = None
        self._told: dict[str, Done] = {}

    def tell(self, progress: Progress) -> None:
        """Write down what has become of stages since it was last written."""
        idle = not progress.running and all(done.state == "up_to_date" for done in progress.ended.values())
        if self._holder is None or (idle and self._record is None):
            return
        from pipeline.flows.lock import write
        from pipeline.runs import RunRecord

        if self._record is None:
            self._record = RunRecord.start(self._data, "repro", targets=self._targets, revision=revision(self._root))
            write(self._root.resolve(), replace(self._holder, run_id=self._record.run_id))
        for name, done in progress.ended.items():
            if self._told.get(name) != done:
                self._told[name] = done
                self._record.stage(name, done.state, done.seconds, reason=done.reason, peak_mb=done.peak_mb)

    def finish(self, state: EndState, progress: Progress, metrics: Path | None) -> None:
        """End the record; after a failure, stages that DVC did not come to are named as such."""
        self.tell(progress)
        if self._record is None:
            return
        if state != "completed":
            for name in sorted(progress.planned - progress.seen):
                self._record.stage(name, "not_run")
        self._record.finish(state, metrics if state == "completed" else None)


def past_seconds(data: Path) -> dict[str, float]:
    """Seconds of every stage when it last ran, by the log of runs below the data directory; {} where there is none."""
    from pipeline.runs import read_log

    found: dict[str, float] = {}
    for folder in sorted(Data(data).runs.glob("*/")):  # ids sort as runs began
        rows = read_log(folder, "stage_runs")  # none of a run that had not come to a stage, or was killed as it wrote
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
    return Progress(plan.stages, plan.steps, past_seconds(data) if plan.steps else {})


def _follow(root: Path, arguments: Sequence[str], progress: Progress, log: _Log, show: Say, start: float) -> int:
    """DVC's exit status. On KeyboardInterrupt, or an error of `show`, its whole process group is ended first."""
    with interruptible():
        child = Child([sys.executable, "-m", "dvc", "repro", *arguments], root)
        try:
            for line in child.lines():
                show(progress.line(line, time.monotonic() - start))
                log.tell(progress)
            code = child.wait()
        except BaseException:
            child.stop()
            progress.end(time.monotonic() - start, "failed", "cancelled")
            raise
    progress.end(time.monotonic() - start, "failed" if code else "ran")
    return code


def _check_models(root: Path, targets: Sequence[str], show: Say) -> None:
    """A model of a hub that was not fetched, or of another commit than its pin, is an error before any work; with
    targets a line, for they may not need it.

    DVC's own error would come when the first stage that needs it is reached, and say nothing of `nearsafe fetch`; of a
    pin that was changed since it would say nothing at all.
    """
    params = root / "params.yaml"
    if not params.is_file():
        return
    pins = read_pins(params)
    for name in references(params):
        folder = root / hub.ROOT / name
        try:
            if not folder.is_dir():
                raise NearsafeError(hub.missing(Path(hub.ROOT) / name))
            if record := hub.find_record(folder):
                hub.check_revision(record, pins.get(name))
        except NearsafeError as error:
            if not targets:
                raise
            show(f"{error}\n")


def _metrics(path: Path) -> list[Row]:
    from pipeline.runs import known_metrics

    return known_metrics(path)
