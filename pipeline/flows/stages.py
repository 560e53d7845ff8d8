"""A stage as Prefect sees it: one task, whose log is the stage's output and whose state says what DVC did."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from pipeline.flows.artifacts import shown_if_possible
from pipeline.flows.devices import Devices
from pipeline.flows.graph import Step
from pipeline.flows.processes import Processes
from pipeline.flows.progress import fraction
from pipeline.flows.summary import LABELS, Ended
from pipeline.runs import RunRecord

# What DVC adds after every stage: advice on git and remotes, no news of the stage.
_ADVICE = re.compile(r"To track the changes with git|\tgit add |To enable auto staging|\tdvc config |Use `dvc push` to")
EVERY = 1.0  # seconds between two updates of a progress artifact, each a request to the server


class Work:
    """What the tasks of one flow share. No dataclass: Prefect would search its fields for futures."""

    def __init__(self, place: Path, force: bool, devices: Devices, record: RunRecord) -> None:
        self.place, self.force, self.devices, self.record = place, force, devices, record
        self.processes = Processes()
        self.ended: dict[str, Ended] = {}

    def end(self, stage: str, ended: Ended) -> None:
        """Keep what became of a stage, here and in the log of runs."""
        self.ended[stage] = ended
        self.record.stage(stage, ended.state, ended.seconds, ended.device, ended.reason, ended.peak_mb)


@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False, retries=0)
def run_stage(name: str, step: Step, work: Work) -> State:
    """Bring one stage up to date when its turn comes; a stage below one that failed is not run."""
    if blocked := _blocked(step, work.ended):
        return _not_run(work, name, blocked)
    with work.devices.lease(step.gpu, lambda: work.processes.cancelled) as device:
        if device is None:
            return _not_run(work, name, "the flow was cancelled")
        follow = _Follow(name)
        result = work.processes.repro(work.place, name, work.force, device, follow.line)
    reason = result.reason
    if result.state == "failed" and work.processes.cancelled:
        reason = "stopped: the flow was cancelled"
    elif result.state in ("ran", "cached"):
        follow.finish()
    work.end(name, Ended(result.state, result.seconds, device or "cpu", reason, result.peak_mb))
    if result.state != "failed":
        return Completed(name=LABELS[result.state], message=f"{result.seconds:.1f} s on {device or 'cpu'}")
    return Failed(name="Stopped" if work.processes.cancelled else LABELS["failed"], message=reason)


def _blocked(step: Step, ended: Mapping[str, Ended]) -> str | None:
    """Why the stage cannot run, None if it can."""
    for name in step.upstream:
        if name not in ended:  # its task ended without a word: Prefect itself failed there
            return f"{name} did not end"
        if ended[name].state == "failed":
            return f"{name} failed"
        if ended[name].state == "not_run":
            return f"{name} was not run"
    return None


def _not_run(work: Work, name: str, reason: str) -> State:
    work.end(name, Ended("not_run", reason=reason))
    # Of type Failed: Prefect starts a task below a failed one if asked to, below a cancelled one never.
    return Failed(name=LABELS["not_run"], message=reason)


class _Follow:
    """Copies a stage's lines into its task's log, and keeps a progress artifact where they speak of progress."""

    def __init__(self, stage: str) -> None:
        self._stage, self._logger = stage, get_run_logger()
        self._artifact: UUID | None = None
        self._shown, self._at = -1.0, 0.0

    def line(self, text: str, passing: bool) -> None:
        """Take in one line; a progress bar's many are not logged."""
        if not passing and text.strip() and not _ADVICE.match(text):
            self._logger.info("%s", text)
        share = fraction(text)
        if share is not None:
            self._show(100 * share, time.monotonic())

    def finish(self) -> None:
        """The stage is done, whatever its last line about it was."""
        if self._artifact is not None and self._shown < 100:
            self._show(100.0, None)

    def _show(self, percent: float, now: float | None) -> None:
        if now is not None and (percent == self._shown or (self._artifact and now - self._at < EVERY)):
            return
        with shown_if_possible():
            if self._artifact is None:
                self._artifact = create_progress_artifact(percent, artifact_key(f"progress-{self._stage}"), self._stage)
            else:
                update_progress_artifact(self._artifact, progress=percent)
        self._shown, self._at = percent, now or self._at


def artifact_key(name: str) -> str:
    """A name of lower-case letters, digits and dashes: Prefect takes no other."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
