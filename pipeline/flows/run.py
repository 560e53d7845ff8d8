"""Run stages in parallel, from Python or a terminal: `run_flow` plans, starts Prefect only if something is stale."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.errors import NearsafeError

StageState = Literal["ran", "cached", "up_to_date", "failed", "not_run"]
FlowState = Literal["completed", "failed", "cancelled"]


@dataclass(frozen=True)
class Outcome:
    """What a flow came to. `stages`: every stage of the targets; `message`: one complete sentence for the user."""

    state: FlowState
    message: str
    stages: dict[str, StageState] = field(default_factory=dict)
    run_id: str | None = None  # None: nothing was stale, so no run was recorded
    experiment: str | None = None  # its name for `dvc exp show`
    workspace: Path | None = None  # the clone in which the experiment ran
    url: str | None = None  # the flow run's page, where a server runs


def run_flow(
    root: Path,
    targets: Sequence[str] = (),
    overrides: Sequence[str] = (),
    force: bool = False,
    devices: str | None = None,
) -> Outcome:
    """Bring `targets` (default: every stage of dvc.yaml) up to date, independent stages at once.

    Runs in this process, against the server of `serve` if one runs, else Prefect's temporary one. `overrides` have the
    syntax of `dvc exp run -S` and make it an experiment in a clone of its own. `devices`: ids separated by commas,
    default CUDA_VISIBLE_DEVICES or what the machine has. Must be called from the main thread (it handles signals).
    Raises NearsafeError for an unknown target or parameter, and where another flow holds the clone.
    """
    raise NearsafeError("flows are not built yet")
