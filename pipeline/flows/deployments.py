"""The deployments that Prefect's pages offer. `serve` runs this as a process of its own, in the repository's root.

python -m pipeline.flows.deployments
"""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.runner import Runner
from prefect.schedules import Cron

from pipeline.errors import NearsafeError, printable
from pipeline.flows.flow import repro
from pipeline.flows.job import Settings, read_settings


def make_deployments(settings: Settings) -> list[RunnerDeployment]:
    """`manual`, with a form for its parameters, and `nightly`, by the clock. Raises NearsafeError for a bad cron."""
    nightly = {"targets": list(settings.nightly.targets), "overrides": list(settings.nightly.overrides)}
    try:
        schedule = Cron(settings.cron, timezone=settings.timezone)
        return [
            _deployment("manual", "Run what is out of date, when you ask for it."),
            _deployment("nightly", "Run what is out of date, every night.", schedule=schedule, parameters=nightly),
        ]
    except ValueError as error:
        given = f"cron {settings.cron!r}, timezone {settings.timezone!r}"
        raise NearsafeError(f"params.yaml: flows: {given}: {' '.join(str(error).split())}") from error


def _deployment(name: str, description: str, **options: Any) -> RunnerDeployment:
    return RunnerDeployment.from_flow(
        repro, name=name, description=description, entrypoint_type=EntrypointType.MODULE_PATH, **options
    )


def main() -> None:
    """Serve both until a signal comes; one run at a time, a second waits."""
    runner = Runner(name="nearsafe", limit=1, pause_on_shutdown=False)
    for deployment in make_deployments(read_settings(Path.cwd())):
        runner.add_deployment(deployment)
    asyncio.run(runner.start())


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        main()
    except NearsafeError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
