"""Look at flows and stop them, without a browser."""

import signal
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from pipeline.errors import NearsafeError
from pipeline.flows.home import live_server, sign_in
from pipeline.flows.lock import Holder, holder
from pipeline.layout import Data
from pipeline.runs import read_log, read_runs

WAITING = ("SCHEDULED", "PENDING")


@dataclass(frozen=True)
class RunInfo:
    """One flow: of the log of runs, or one that the server has waiting."""

    run: str  # what `cancel` takes: the run's id, or the server's name of one that waits
    state: str  # running, completed, failed, cancelled; killed: it ended without a word; scheduled or pending
    started: str | None  # ISO-8601, UTC; of a scheduled one: when it is due
    seconds: float | None  # None while it runs, or if nobody knows
    experiment: str | None
    targets: str  # "" is every stage
    stages: dict[str, int]  # how many are in which state: ran, cached, up_to_date, failed, not_run


def recent(root: Path, limit: int = 10) -> list[RunInfo]:
    """The latest flows, newest first; before them those that wait on a running server. A look, nothing is started."""
    root = Path(root).resolve()
    data, running = root / Data().root, holder(root)
    rows = [row for row in read_runs(data) if row["kind"] == "flow"][:limit]
    waiting = [
        RunInfo(entry["name"], entry["state_type"].lower(), entry["expected_start_time"], None, None,
                ", ".join((entry.get("parameters") or {}).get("targets") or []), {})
        for entry in _waiting(root)
    ]  # fmt: skip
    return [*waiting, *(_info(data, row, running) for row in rows)][:limit]


def cancel(root: Path, run: str | None = None) -> str:
    """Stop the flow that runs in this clone, or the one named `run`; one sentence says what was stopped.

    Raises NearsafeError where nothing runs, or `run` is not running.
    """
    root = Path(root).resolve()
    found = holder(root)
    if found and run in (None, found.run_id, found.flow_run_id):
        process = found.process.find()
        if process:
            process.send_signal(signal.SIGTERM)  # its handler ends the stages, and the run as cancelled
            return f"asked the flow to stop: {found}"
    for entry in _waiting(root) if run else []:
        if run in (entry["name"], entry["id"]):
            _cancel_waiting(root, entry)
            return f"flow run {entry['name']}, which had not started, is cancelled"
    if run is None:
        raise NearsafeError("no flow runs in this clone")
    running = f"the one that runs is {found.run_id or found.flow_run_id}" if found else "none runs"
    raise NearsafeError(f"no flow {run!r} runs or waits in this clone; {running}")


def _info(data: Path, row: dict[str, Any], running: Holder | None) -> RunInfo:
    state = row["state"]
    if state == "running" and (running is None or running.run_id != row["run_id"]):
        state = "killed"
    started, ended = row["started"], row["ended"]
    seconds = max(0.0, (_time(ended) - _time(started)).total_seconds()) if ended else None
    states = Counter(stage["state"] for stage in read_log(Data(data).runs / row["run_id"], "stage_runs"))
    return RunInfo(row["run_id"], state, started, seconds, row["experiment"], row["targets"] or "", dict(states))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _waiting(root: Path) -> list[dict[str, Any]]:
    """Flow runs that the server has and nobody runs yet: asked for, or the nightly ones to come, the next first."""
    server = live_server(root)
    if server is None:
        return []
    waits = {"state": {"type": {"any_": list(WAITING)}}}
    question = {"flow_runs": waits, "sort": "EXPECTED_START_TIME_ASC", "limit": 3}
    try:
        address, auth = f"{server.url}/api/flow_runs/filter", sign_in(server)
        return httpx.post(address, json=question, timeout=10, auth=auth).raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        raise NearsafeError(f"{server.url}: the server does not answer: {error}") from error


def _cancel_waiting(root: Path, entry: dict[str, Any]) -> None:
    server = live_server(root)
    if server is None:
        raise NearsafeError("the server has just ended, and what waited on it")
    body = {"state": {"type": "CANCELLED", "message": "cancelled before it started"}, "force": True}
    try:
        address, auth = f"{server.url}/api/flow_runs/{entry['id']}/set_state", sign_in(server)
        httpx.post(address, json=body, timeout=10, auth=auth).raise_for_status()
    except httpx.HTTPError as error:
        raise NearsafeError(f"{server.url}: the flow run cannot be cancelled: {error}") from error
