"""Shards on this machine or on a cluster: the same functions, the same bytes, one loop that continues a stopped run.

A stage says what loads its models, what one shard is made of, and what becomes of it (`Task`); section `compute` of
params.yaml says where that runs. Results come back to this process, which alone writes them, so files and manifest do
not depend on the engine or on the order in which shards finish. Bytes are equal where the arithmetic is: the same
library versions, kind of processor and number of threads (docs/scale.md).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from pipeline.parallel import ahead
from pipeline.params import build, load
from pipeline.tables import Output

Log = Callable[[str], None]


def _same(job: Any) -> Any:
    return job


@dataclass(frozen=True)
class Compute:
    """Section `compute`. It changes where shards run and nothing of what they become: no stage depends on it.

    `address` of a Ray cluster (null: one is started on this machine). Each of `workers` (null: as many as have room)
    gets `cpus` and `gpus`, and as many threads as this process has. A shard whose worker is lost is tried `retries`
    times more.
    """

    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    workers: int | None = None
    cpus: float = 1
    gpus: float = 0
    retries: int = 3

    def __post_init__(self) -> None:
        if (self.workers is not None and self.workers < 1) or min(self.cpus, self.gpus, self.retries) < 0:
            raise ValueError("workers must be at least 1; cpus, gpus and retries must not be negative")
        if self.cpus + self.gpus <= 0:
            raise ValueError("a worker needs cpus or gpus")


@dataclass(frozen=True)
class Task:
    """What is done to every shard. All parts can be sent to another process (module-level functions and `partial`).

    `load` makes the models, once per worker; `prepare` makes a job ready without them (reads, decodes), ahead of time
    where there is a thread for it; `work` turns models and what is ready into the result.
    """

    load: Callable[[], Any]
    work: Callable[[Any, Any], Any]
    prepare: Callable[[Any], Any] = _same


@dataclass(frozen=True)
class Shard:
    """The unit of resume. It is finished when all its `files` are; `job` is what the task is given.

    `group` names its part of the run in the log, `rows` counts what it holds.
    """

    files: tuple[str, ...]
    job: Any
    group: str = ""
    rows: int = 0


@dataclass
class Progress:
    """How many of `total` images there are; the time left follows from those made since the start."""

    total: int
    done: int = 0
    made: int = 0
    started: float = field(default_factory=monotonic)

    def kept(self, images: int) -> None:
        """Count images that an earlier run finished."""
        self.done += images

    def add(self, images: int) -> None:
        """Count images made now."""
        self.done += images
        self.made += images

    def __str__(self) -> str:
        left = (monotonic() - self.started) / max(1, self.made) * (self.total - self.done)
        return f"{self.done} of {self.total} images" + (f", about {left:.0f} s left" if self.done < self.total else "")


Pool = Callable[[Sequence[Shard]], Iterator[tuple[Shard, Any]]]


def read_compute(params: Path) -> Compute:
    """Section `compute` of a parameter file; a file without one computes locally. Raises NearsafeError."""
    return build(Compute, load(params).get("compute") or {}, f"{params}: compute")


def run_shards(
    pool: Pool,
    shards: Iterable[Shard],
    output: Output,
    write: Callable[[Shard, Any], None],
    log: Log,
    kept: Callable[[Shard], None] = lambda shard: None,
) -> None:
    """Compute every shard that `output` does not hold yet, and `write` each result as it comes.

    A finished shard is listed in `output` and told to `kept`. `write` raises what ends the run.
    """
    todo: list[Shard] = []
    groups: dict[str, list[bool]] = {}
    for shard in shards:
        done = all([output.done(file) for file in shard.files])  # all of them: each is listed
        groups.setdefault(shard.group, []).append(done)
        kept(shard) if done else todo.append(shard)
    for group, done in groups.items():
        if any(done):
            log(f"{group}: {sum(done)} of {len(done)} shards are finished")
    if todo:
        for shard, result in pool(todo):
            write(shard, result)


@contextmanager
def open_pool(task: Task, compute: Compute, log: Log, here: Any = None) -> Iterator[Pool]:
    """What computes shards, until the block ends. `here`: the task's models, where this process has them already.

    The local engine loads before the block begins; a cluster's workers load when the first shard is due. Raises
    NearsafeError: what `load` raises, and for a cluster that is not there, too small or of other versions.
    """
    if compute.engine == "local":
        models = task.load() if here is None else here
        yield lambda shards: _in_order(task, models, shards)
        return
    from pipeline.cluster import ray_pool

    with ray_pool(task, compute, log) as pool:
        yield pool


def _in_order(task: Task, models: Any, shards: Sequence[Shard]) -> Iterator[tuple[Shard, Any]]:
    for shard, ready in ahead((shard, task.prepare(shard.job)) for shard in shards):
        yield shard, task.work(models, ready)
