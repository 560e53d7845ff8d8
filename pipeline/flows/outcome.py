"""What a flow came to, for its caller."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.flows.job import Job
from pipeline.flows.summary import Ended, totals
from pipeline.runs import StageState

FlowState = Literal["completed", "failed", "cancelled"]


@dataclass(frozen=True)
class Outcome:
    """How a flow ended. `stages`: every stage of the targets, in order; `message`: complete sentences for the user."""

    state: FlowState
    message: str
    stages: dict[str, StageState] = field(default_factory=dict)
    run_id: str | None = None  # None: nothing was stale, so no run was recorded
    experiment: str | None = None  # its name for `dvc exp show`
    workspace: Path | None = None  # the clone in which the experiment runs
    url: str | None = None  # the flow run's page, where a server runs


def nothing_stale(job: Job) -> Outcome:
    """The outcome where no stage has to run."""
    stages: dict[str, StageState] = {name: "up_to_date" for name in job.plan.stages}
    message = "Data and pipelines are up to date."
    if job.experiment:
        message = "No stage of the targets depends on these overrides, and all are up to date: no experiment was made."
    return Outcome("completed", message, stages)


def conclude(job: Job, ended: Mapping[str, Ended], cancelled: bool, run_id: str, url: str | None) -> Outcome:
    """The outcome of stages that have `ended`, naming what failed and what was not run."""
    stages = {name: ended[name].state for name in job.plan.stages}
    failed, not_run = ([name for name, state in stages.items() if state == which] for which in ("failed", "not_run"))
    state: FlowState = "cancelled" if cancelled else "failed" if failed or not_run else "completed"
    words = [f"{totals(ended)}.".replace(" failed", " stopped") if cancelled else f"{totals(ended)}."]
    if failed:
        words.append(f"{'Stopped' if cancelled else 'Failed'}: {', '.join(failed)}.")
    if not_run:
        words.append(f"Not run: {', '.join(not_run)}.")
    if job.experiment and state == "completed":
        words.append(
            f"Experiment {job.experiment}: `dvc exp show` lists it, `dvc exp apply {job.experiment}` takes it."
        )
    elif job.experiment:
        words.append(f"Experiment {job.experiment} was not saved; its workspace is {job.place}.")
    workspace = job.place if job.experiment else None
    return Outcome(state, " ".join(words), stages, run_id, job.experiment, workspace, url)
