"""One training loop for every trained defence: adapters or a full fine-tune, losses against the frozen model."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import CLIPModel

from pipeline import checkpoint, seeds
from pipeline.checkpoint import Log
from pipeline.curriculum import epoch_rows
from pipeline.defences.protocol import Batch, TokenBatch
from pipeline.defences.registry import Defence
from pipeline.errors import NearsafeError
from pipeline.models.adapters import TOWERS, Lora, trainable
from pipeline.models.clip import Clip
from pipeline.models.finetune import tune
from pipeline.precision import Precision
from pipeline.token_set import TokenSet
from pipeline.training_set import TrainingSet

Report = Callable[[str], None]
_OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass(frozen=True)
class TrainParams:
    """Knobs that all trained defences share; an entry under `defences` may override any under its own `train`.

    `lora` null trains every parameter of the defence's towers (des.md section 4). Constant learning rate; Adam without
    weight decay by default (safer_clip.md section 5). `curriculum`: epoch 1 sees easy pairs, 2 also medium ones, from 3
    on all. `categories`: only pairs of these categories of unsafe content; the pool of safe captions stays whole.
    `checkpoint_seconds`: wall time between checkpoints. `log_every`: steps between printed lines; the log table has
    every step.
    """

    batch_size: int
    epochs: int
    lr: float
    max_grad_norm: float | None
    precision: Precision
    curriculum: bool
    lora: Lora | None
    checkpoint_seconds: float
    log_every: int
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = 0.0
    categories: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if min(self.batch_size, self.epochs, self.log_every) < 1 or self.lr <= 0 or self.weight_decay < 0:
            raise ValueError("batch_size, epochs and log_every must be 1 or more, lr above 0, weight_decay 0 or more")
        if self.categories == ():
            raise ValueError("categories: empty; leave it out to train on all")


@dataclass(frozen=True)
class Job:
    """One training: a defence, its data, knobs, the training seed and the root seed it is derived under."""

    defence: Defence
    data: TrainingSet | TokenSet
    params: TrainParams
    seed: int
    root_seed: int
    dtype: torch.dtype

    @property
    def name(self) -> str:
        return f"{self.defence.name} seed {self.seed}"


@dataclass(frozen=True)
class Trained:
    """`fixed`: tensors of the method that belong to the checkpoint, such as directions it pushed along; often none."""

    model: CLIPModel
    log: Log
    fixed: Mapping[str, Tensor]


def train(job: Job, clip: Clip, state: Path, report: Report = print) -> Trained:
    """Train `clip` (changed in place) and return the plain model and the log of every step.

    `state` is the checkpoint file: written every `checkpoint_seconds` and at the end, continued from when it is there.
    A continued run takes the same steps as an uninterrupted one: batches, dropout and initial adapters are derived from
    names. Raises NearsafeError naming defence, step and term when a loss or the gradient is not finite, for a category
    that no pair has, and when curriculum and categories leave an epoch empty.
    """
    ends = _last_steps(job)
    steps = ends[-1]
    feed = job.data.feed(job.defence, clip)
    tuned = tune(clip.model, job.params.lora, _generator(job, "adapters"), job.defence.towers)
    model = tuned.model
    model.train()
    parameters = trainable(model)
    optimizer = _OPTIMIZERS[job.params.optimizer](
        parameters.values(), lr=job.params.lr, weight_decay=job.params.weight_decay
    )
    done, log = checkpoint.restore(state, parameters, optimizer)
    if done:
        report(f"{job.name}: continuing after step {done} of {steps}")
    saved = shown = time.monotonic()
    since = done
    for step, epoch, rows in _batches(job):
        if step <= done:
            continue
        with _seeded(job, step, clip.model.device):
            batch = feed.batch(model, rows)
        values = _step(job, batch, parameters, optimizer, step)
        _append(log, epoch, values)
        if step in ends:
            log.drift.append([tuned.drift(tower) for tower in TOWERS])
        if step % job.params.log_every == 0 or step == steps:
            pace = (time.monotonic() - shown) / (step - since)
            shown, since = time.monotonic(), step
            report(f"{job.name}: {_progress(epoch, step, steps, values)}, {pace:.2f} s/step")
        if time.monotonic() - saved >= job.params.checkpoint_seconds or step == steps:
            checkpoint.save(state, parameters, optimizer, step, log)
            saved = time.monotonic()
    return Trained(tuned.finish(), log, feed.fixed)


@contextmanager
def _seeded(job: Job, step: int, device: torch.device) -> Iterator[None]:
    """Dropout of a step from a generator of its own, and the precision of the job."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seeds.derive(job.root_seed, "train", str(job.seed), "dropout", str(step)))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=job.dtype == torch.bfloat16):
            yield


def _step(
    job: Job,
    batch: Batch | TokenBatch,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    step: int,
) -> dict[str, tuple[float, float]]:
    """One optimizer step; returns name to (weight, value) of every term."""
    terms = job.defence.terms(batch)
    values = torch.stack([value.detach().double() for _, value in terms.values()]).tolist()
    _check_finite(job, step, dict(zip(terms, values, strict=True)))
    optimizer.zero_grad(set_to_none=True)
    sum(weight * value for weight, value in terms.values()).backward()
    limit = math.inf if job.params.max_grad_norm is None else job.params.max_grad_norm
    norm = nn.utils.clip_grad_norm_(list(parameters.values()), limit)
    _check_finite(job, step, {"norm of the gradient": float(norm)})
    optimizer.step()
    return {name: (float(terms[name][0]), value) for name, value in zip(terms, values, strict=True)}


def _batches(job: Job) -> Iterator[tuple[int, int, Tensor]]:
    """(step, epoch, rows), both counted from 1; each epoch covers its pairs once, the last batch may be smaller."""
    step = 0
    for epoch in range(1, job.params.epochs + 1):
        rows = _rows(job, epoch)
        order = torch.randperm(len(rows), generator=_generator(job, "order", str(epoch)))
        for batch in rows[order].split(job.params.batch_size):
            step += 1
            yield step, epoch, batch


def _rows(job: Job, epoch: int) -> Tensor:
    """The pairs of an epoch, ascending. Raises NearsafeError for a category that the training pairs do not have."""
    rows = torch.from_numpy(epoch_rows(job.data.levels, epoch, job.params.curriculum))
    wanted = job.params.categories
    if wanted is None:
        return rows
    if unknown := [name for name in wanted if name not in job.data.categories]:
        known = ", ".join(job.data.categories)
        raise NearsafeError(f"{job.name}: train.categories: no pair of category {unknown[0]!r}; known: {known}")
    numbers = torch.tensor([job.data.categories.index(name) for name in wanted])
    return rows[torch.isin(job.data.category[rows], numbers)]


def _last_steps(job: Job) -> list[int]:
    """The last step of each epoch, counted from 1."""
    steps, ends = 0, []
    for epoch in range(1, job.params.epochs + 1):
        count = len(_rows(job, epoch))
        if not count:
            raise NearsafeError(f"{job.name}: {_why_empty(job, epoch)}")
        steps += math.ceil(count / job.params.batch_size)
        ends.append(steps)
    return ends


def _why_empty(job: Job, epoch: int) -> str:
    """No single category is empty, so an epoch without pairs is the work of the curriculum, alone or with them."""
    if job.params.categories is None:
        return f"the curriculum leaves epoch {epoch} without pairs: change bucket_difficulty.values"
    names = ", ".join(job.params.categories)
    return (
        f"the curriculum leaves epoch {epoch} without pairs of train.categories {names}: change "
        "bucket_difficulty.values, or the categories"
    )


def _generator(job: Job, *names: str) -> torch.Generator:
    """Randomness of a training seed: the same for every defence, so that two defences see the same batches."""
    return seeds.generator(job.root_seed, "train", str(job.seed), *names)


def _check_finite(job: Job, step: int, values: dict[str, float]) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise NearsafeError(
                f"{job.name}: step {step}: {name} is {value}; stopped, the last checkpoint is kept. "
                "Lower lr or set max_grad_norm"
            )


def _append(log: Log, epoch: int, values: dict[str, tuple[float, float]]) -> None:
    log.terms = list(values)
    log.epoch.append(epoch)
    log.value.append([value for _, value in values.values()])
    log.weight.append([weight for weight, _ in values.values()])


def _progress(epoch: int, step: int, steps: int, values: dict[str, tuple[float, float]]) -> str:
    total = sum(weight * value for weight, value in values.values())
    shown = " ".join(f"{name} {value:.3f}" for name, (_, value) in values.items())
    return f"epoch {epoch} step {step}/{steps} total {total:.4f} ({shown})"
