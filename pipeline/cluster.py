"""Shards on a Ray cluster (extra `cluster`): each worker holds the models, a lost worker's shard goes to another.

Workers import this code, and read models and data, at the paths of this process: one file system for all machines.
"""

import os
import platform
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from pipeline.compute import Compute, Log, Pool, Shard, Task
from pipeline.errors import NearsafeError
from pipeline.precision import pick_device

ROOT = Path(__file__).resolve().parents[1]
# What numbers depend on: a worker with another version of these is refused.
LIBRARIES = ("torch", "transformers", "diffusers", "numpy", "pillow", "pyarrow", "onnxruntime")
# What a worker needs of this process's settings. No secrets: Ray shows them to everyone who may ask it (docs/scale.md).
_PASSED_ON = (
    *("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "PYTHONHASHSEED"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE"),
)


@dataclass(frozen=True)
class Facts:
    """Who a worker is: `versions` of Python and of the libraries, None for one that is missing."""

    pid: int
    host: str
    device: str
    versions: dict[str, str | None]


class Worker:
    """An actor: it loads the task's models once, then works on one shard at a time."""

    def __init__(self, task: Task, folder: str, threads: int) -> None:
        os.chdir(folder)  # jobs name files as this stage's command line does
        torch.set_num_threads(threads)
        self.task, self.models = task, None

    def facts(self) -> Facts:
        """Device and versions."""
        return Facts(os.getpid(), platform.node(), pick_device()[1], _versions())

    def load(self) -> None:
        """Load the models, unless they are here: a worker that was restarted begins anew."""
        self.models = self.task.load() if self.models is None else self.models

    def run(self, job: Any) -> Any:
        """The result of one shard."""
        self.load()
        return self.task.work(self.models, self.task.prepare(job))


@contextmanager
def ray_pool(task: Task, compute: Compute, log: Log) -> Iterator[Pool]:
    """A pool on the cluster at `compute.address`, or on one that is started here and ends with the block."""
    ray = _ray(own=compute.address is None)
    started = not ray.is_initialized()
    if started:
        _connect(ray, compute)
    actors: list[Any] = []
    try:
        yield lambda shards: _run(ray, actors, shards, task, compute, log)
    finally:
        for actor in actors:
            ray.kill(actor)
        if started:
            ray.shutdown()


def _ray(own: bool) -> ModuleType:
    """Ray, for a cluster of our `own` or another's. Its settings are read once, when it is first imported; the user's
    own `RAY_AUTH_MODE` stays.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage is reported
    if own and "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        # Ray opens ports on every address: only this process and its children have the token that they ask for.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
    except ImportError as error:
        raise NearsafeError("compute.engine: ray needs Ray, which is not installed: run make env") from error
    return ray


def _connect(ray: ModuleType, compute: Compute) -> None:
    """To the cluster at the address, or to one that is started here, without a dashboard."""
    own = {"address": "local", "include_dashboard": False}  # never one that happens to run here
    where = own if compute.address is None else {"address": compute.address}
    try:
        ray.init(**where, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NearsafeError(f"compute.address {compute.address}: no Ray cluster: {reason}") from error


def _start(ray: ModuleType, count: int, task: Task, compute: Compute, log: Log) -> list[Any]:
    """At most `count` workers with their models loaded."""
    there = ray.cluster_resources()
    asked = {"CPU": compute.cpus, "GPU": compute.gpus}
    room = min(int(there.get(name, 0) // need) for name, need in asked.items() if need)
    wanted = min(count, compute.workers or 1)
    if room < wanted:  # those without room would be waited for, for ever
        raise NearsafeError(f"compute: {wanted} workers with {asked} do not fit into the cluster's "
                            f"{there.get('CPU', 0)} CPUs and {there.get('GPU', 0)} GPUs: room for {room}; "
                            "ask for fewer or smaller ones, or add machines")  # fmt: skip
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    remote = ray.remote(
        num_cpus=compute.cpus,
        num_gpus=compute.gpus,
        max_restarts=-1,
        max_task_retries=compute.retries,
        runtime_env={"env_vars": {**passed, "PYTHONPATH": path}},
    )(Worker)
    actors = [
        remote.remote(task, os.getcwd(), torch.get_num_threads()) for _ in range(min(count, compute.workers or room))
    ]
    own = _versions()
    for facts in _all(ray, [actor.facts.remote() for actor in actors], "compute"):
        log(f"worker {facts.pid} on {facts.host}: {facts.device}")
        if wrong := [name for name in own if facts.versions.get(name) != own[name]]:
            name = wrong[0]
            raise NearsafeError(
                f"compute: worker on {facts.host} has {name} {facts.versions.get(name)}, this process {own[name]}"
            )
    _all(ray, [actor.load.remote() for actor in actors], "compute")
    return actors


def _run(
    ray: ModuleType, actors: list[Any], shards: Sequence[Shard], task: Task, compute: Compute, log: Log
) -> Iterator[tuple[Shard, Any]]:
    """Results as they come; one shard per worker is on its way, so memory here does not grow with their number."""
    if not actors:
        actors += _start(ray, len(shards), task, compute, log)
    waiting, running = iter(shards), {}
    for actor, shard in zip(actors, waiting, strict=False):
        running[actor.run.remote(shard.job)] = (actor, shard)
    while running:
        (ready,), _ = ray.wait(list(running))
        actor, shard = running.pop(ready)
        (result,) = _all(ray, [ready], shard.files[0])
        if (following := next(waiting, None)) is not None:
            running[actor.run.remote(following.job)] = (actor, following)
        yield shard, result


def _all(ray: ModuleType, references: list[Any], where: str) -> list[Any]:
    """Values of references. A NearsafeError of a worker is raised as it was; a worker lost too often is one."""
    try:
        return ray.get(references)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, NearsafeError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NearsafeError(f"{where}: its worker was lost, once more than compute.retries allows: {reason}") from error


def _versions() -> dict[str, str | None]:
    return {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES}


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
