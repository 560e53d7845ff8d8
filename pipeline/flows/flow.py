"""The Prefect flow: one task per stale stage, in the order of DVC's graph, and what it shows at the end.

Import this only after `home.prepare`: Prefect reads its settings when it is first imported.
"""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
from prefect import allow_failure, flow, get_client, get_run_logger, runtime
from prefect.client.schemas.objects import State
from prefect.exceptions import CancelledRun, FailedRun, PrefectException
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from pipeline.errors import NearsafeError
from pipeline.flows import lock
from pipeline.flows.artifacts import show_results, show_stages, shown_if_possible
from pipeline.flows.devices import Devices, find_gpus
from pipeline.flows.experiment import save
from pipeline.flows.home import live_server
from pipeline.flows.job import Job, Request, open_job
from pipeline.flows.outcome import Outcome, conclude, nothing_stale
from pipeline.flows.processes import Processes
from pipeline.flows.stages import Work, run_stage
from pipeline.flows.summary import Ended
from pipeline.layout import Data, Results
from pipeline.runs import RunRecord, known_metrics

# A task that waits for others holds a thread, so there must be more threads than stages; real work is limited by the
# devices and slots. Threads are made when a task needs one.
_THREADS = 1000
_SERVER = "prefect.server.api.server:create_app"  # in the command line of Prefect's temporary server
# Ends that server when this process has ended: only then does its standard input.
_GUARD = "import os, signal, sys; s = os.pidfd_open(int(sys.argv[1])); sys.stdin.read(); signal.pidfd_send_signal(s, 9)"
_GUARDS: dict[int, subprocess.Popen[bytes]] = {}  # by the server's number


def _flow_run_name() -> str:
    values = runtime.flow_run.parameters
    return str(Request(Path(), tuple(values["targets"]), tuple(values["overrides"]), values["force"]))


@flow(
    name="repro",
    flow_run_name=_flow_run_name,
    task_runner=ThreadPoolTaskRunner(max_workers=_THREADS),
    persist_result=False,
    retries=0,
)
def repro(targets: list[str] = [], overrides: list[str] = [], force: bool = False) -> State:  # noqa: B006
    """Run what is out of date, independent stages at once.

    Args:
        targets: Stages ("score@des"), groups ("train") or studies ("studies/dvc.yaml:attack_findings"); what they need
            is brought up to date, too. None: all of dvc.yaml.
        overrides: Parameters for this run only, as NAME=VALUE ("train.epochs=2"). They make it an experiment in a
            workspace of its own, listed by `dvc exp show`; params.yaml stays as it is.
        force: Run the stages again even where nothing changed.
    """
    logging.getLogger("prefect.flow_runs").addFilter(_without_ending)
    try:
        with open_job(Request(Path.cwd(), tuple(targets), tuple(overrides), force)) as job:
            return as_state(execute(job))
    except NearsafeError as error:  # the user's to mend: the message is complete, a traceback adds nothing
        return Failed(message=str(error))


def run_job(job: Job) -> Outcome:
    """Run a job that is open already as a flow of this process."""
    outcomes: list[Outcome] = []

    def repro_opened(targets: list[str], overrides: list[str], force: bool) -> State:
        outcomes.append(execute(job))
        return as_state(outcomes[0])

    opened = flow(
        repro_opened, name="repro", flow_run_name=_flow_run_name, persist_result=False, retries=0,
        task_runner=ThreadPoolTaskRunner(max_workers=_THREADS),
    )  # fmt: skip
    request = job.request
    try:
        state = opened(list(request.targets), list(request.overrides), request.force, return_state=True)
    except (httpx.HTTPError, PrefectException) as error:
        if not outcomes:
            raise NearsafeError(
                f"Prefect's server does not answer ({error}): run again; what had finished is kept"
            ) from error
        return outcomes[0]  # only the last word to its server is lost
    if not outcomes:
        state.result(raise_on_failure=True)  # what went wrong before or inside `execute`
        raise RuntimeError(f"the flow ended as {state.name} without an outcome: {state.message}")
    return outcomes[0]


def as_state(outcome: Outcome) -> State:
    """The flow run's final state."""
    make = {"completed": Completed, "failed": Failed, "cancelled": Cancelled}[outcome.state]
    return make(message=outcome.message)


def execute(job: Job) -> Outcome:
    """Run the stages of a job inside a flow, show what came of it, and keep it in the log of runs."""
    if not job.plan.steps:
        return nothing_stale(job)
    _guard_temporary_server()
    request, flow_run_id = job.request, str(runtime.flow_run.id)
    record = RunRecord.start(
        request.root / Data().root, "flow", targets=request.targets, overrides=request.overrides,
        experiment=job.experiment, flow_run_id=flow_run_id, revision=job.revision,
    )  # fmt: skip
    lock.write(request.root, replace(job.holder, run_id=record.run_id, flow_run_id=flow_run_id))
    if job.experiment:
        with shown_if_possible():
            _label(job)
    work = Work(job.place, request.force, Devices(find_gpus(request.devices), job.settings.cpu_slots), record)
    for name in job.plan.stages:
        if name not in job.plan.steps:
            work.end(name, Ended("up_to_date"))
    before, state = known_metrics(request.root / Results().metrics), "failed"
    try:
        with _signals(work.processes):
            _run_stages(job, work)
            outcome = conclude(job, work.ended, work.processes.cancelled, record.run_id, _page(request.root))
            if job.experiment and outcome.state == "completed":
                save(request.root, job.place, job.experiment)
            with shown_if_possible():
                show_stages(job, work.ended, outcome.message)
                if outcome.state == "completed":
                    show_results(job, before, known_metrics(job.place / Results().metrics))
        state = outcome.state
        return outcome
    finally:
        record.finish(state, job.place / Results().metrics)


def _guard_temporary_server() -> None:
    """Prefect's temporary server is a child of this process, and would outlive it after `kill -9` (Linux only)."""
    if not hasattr(os, "pidfd_open"):
        return
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.pid not in _GUARDS and _SERVER in child.cmdline():
                command = [sys.executable, "-I", "-S", "-c", _GUARD, str(child.pid)]
                quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                _GUARDS[child.pid] = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **quiet)


def _run_stages(job: Job, work: Work) -> None:
    """One task per step; each waits for those it needs, and independent branches end whatever fails elsewhere."""
    logging.getLogger("prefect.task_runs").addFilter(_without_empty_traceback)
    steps = job.plan.steps
    get_run_logger().info("%d of %d stages to run in %s", len(steps), len(job.plan.stages), job.place.resolve())
    futures: dict[str, PrefectFuture] = {}
    for name, step in steps.items():  # a task below one that failed starts, too, to end with the reason
        futures[name] = run_stage.submit(
            name, step, work, wait_for=[allow_failure(futures[upstream]) for upstream in step.upstream]
        )
    for name, future in futures.items():
        future.wait()
        if name not in work.ended:
            reason = future.state.message if future.state else None
            work.end(name, Ended("failed", reason=reason or "its task ended without a word"))


def _without_empty_traceback(record: logging.LogRecord) -> bool:
    """Prefect asks for the traceback of every failed task, also where none was raised: it would print NoneType."""
    if record.exc_info and record.exc_info[0] is None:
        record.exc_info = None
    return True


def _without_ending(record: logging.LogRecord) -> bool:
    """The state says why a run failed or was cancelled; Prefect's runner would call that ending unexpected."""
    return not (record.exc_info and record.exc_info[0] in (FailedRun, CancelledRun))


@contextmanager
def _signals(processes: Processes) -> Iterator[None]:
    """SIGINT and SIGTERM end the stages. Inside the flow: Prefect has set handlers of its own before."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    old = {number: signal.signal(number, processes.cancel) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _label(job: Job) -> None:
    """Show the experiment's name wherever the flow run is listed."""
    with get_client(sync_client=True) as client:
        name = f"{job.experiment}: {job.request}"
        client.update_flow_run(runtime.flow_run.id, name=name, tags=["experiment", job.experiment])
    get_run_logger().info("experiment %s, in %s", job.experiment, job.place)


def _page(root: Path) -> str | None:
    server = live_server(root)
    return f"{server.url}/runs/flow-run/{runtime.flow_run.id}" if server else None
