"""Run stages in parallel, from Python or a terminal: plan first, and start Prefect only if something is stale."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.flows.home import live_server, prepare, sign_in
from pipeline.flows.job import Request, open_job
from pipeline.flows.outcome import Outcome, nothing_stale


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
    default CUDA_VISIBLE_DEVICES or what the machine has. Must be called from the main thread (it handles signals), in
    a process that has not imported Prefect for another clone. Raises NearsafeError for an unknown target or parameter,
    and where another flow holds the clone.
    """
    request = Request(Path(root).resolve(), tuple(targets), tuple(overrides), force, devices)
    with open_job(request) as job:
        if not job.plan.steps:
            return nothing_stale(job)
        server = live_server(request.root)
        if server:
            sign_in(server)
        prepare(request.root, server.url if server else None)
        from pipeline.flows.flow import run_job  # Prefect reads its settings when it is imported

        return run_job(job)
