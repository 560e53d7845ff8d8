"""One training loop for every trained defence: adapters or a full fine-tune, losses against the frozen model."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import CLIPModel

from pipeline import checkpoint, memory, seeds
from pipeline.checkpoint import Log
from pipeline.curriculum import epoch_rows
from pipeline.defences.registry import Defence
from pipeline.errors import NearsafeError
from pipeline.ledger import Ledger
from pipeline.models.adapters import TOWERS, Lora, trainable
from pipeline.models.clip import Clip
from pipeline.models.finetune import tune
from pipeline.parallel import ahead
from pipeline.precision import Attention, Compile, Precision, pick_attention, pick_compile
from pipeline.steps import Learner, Report
from pipeline.team import Team
from pipeline.token_set import TokenSet
from pipeline.training_set import TrainingSet

_OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass(frozen=True)
class TrainParams:
    """Knobs that all trained defences share; an entry under `defences` may override any under its own `train`.

    `lora` null trains every parameter of the defence's towers (des.md section 4). Constant learning rate; Adam without
    weight decay by default (safer_clip.md section 5). `curriculum`: epoch 1 sees easy pairs, 2 also medium ones, from 3
    on all. `categories`: only pairs of these categories of unsafe content; the pool of safe captions stays whole.
    `checkpoint_seconds`: wall time between checkpoints. `log_every`: steps between printed lines; the log table has
    every step.

    What only costs or saves time and memory, and may move the last bits of a weight: `attention` and `compile`
    (`pipeline.precision` has the rules of auto). `micro_batch`: pairs that pass through the towers at a time, null for
    the whole batch; the loss is the whole batch's all the same (`pipeline.two_pass`). Where memory is full it is
    halved, and the step taken again. `processes`: how many train together, each its share of `batch_size`; auto is one
    a GPU. `image_memory_mib`: decoded images beyond that lie in a mapped file beside the checkpoints while the training
    runs.
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
    attention: Attention = "auto"
    compile: Compile = "auto"
    micro_batch: int | None = None
    processes: int | Literal["auto"] = 1
    image_memory_mib: float = 8192

    def __post_init__(self) -> None:
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"micro_batch must be 1 or more, or null, got {self.micro_batch}")
        if self.processes != "auto" and not 1 <= self.processes <= self.batch_size:
            raise ValueError(f"processes must be auto, or from 1 to batch_size, got {self.processes}")
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


def train(job: Job, clip: Clip, state: Path, report: Report = print, team: Team | None = None) -> Trained:
    """Train `clip` (changed in place) and return the plain model and the log of every step.

    `state` is the checkpoint file: written every `checkpoint_seconds` and at the end, continued from when it is there.
    A continued run takes the same steps as an uninterrupted one: batches, dropout and initial adapters are derived from
    names. With a `team` every member calls this; the first one writes and reports, and alone has the log. Raises
    NearsafeError naming defence, step and term when a loss or the gradient is not finite, for a category that no pair
    has, and when curriculum and categories leave an epoch empty; OutOfMemory where smaller parts of a batch do not
    help, and for a member of a team at once, as the others wait for it.
    """
    ends = _last_steps(job)
    steps, leads, device = ends[-1], team is None or team.rank == 0, clip.model.device
    feed = job.data.feed(job.defence, clip)
    before = clip.model.config._attn_implementation
    attention, _ = pick_attention(job.params.attention, device, job.dtype)
    if attention != before:
        clip.model.set_attn_implementation(attention)
    tuned = tune(clip.model, job.params.lora, _generator(job, "adapters"), job.defence.towers)
    model = tuned.model
    model.train()
    parameters = trainable(model)
    optimizer = make_optimizer(job, parameters, device)
    done, log = checkpoint.restore(state, parameters, optimizer)
    if done and leads:
        report(f"{job.name}: continuing after step {done} of {steps}")
    towers = [getattr(clip.model, f"{tower}_model") for tower in job.defence.towers]
    if pick_compile(job.params.compile, device, steps)[0]:
        for tower in towers:
            tower.compile()
    ledger = Ledger(job.name, log)
    saved = shown = time.monotonic()
    since = done
    learner = Learner(job, feed, model, parameters, optimizer, job.params.micro_batch, team, report)
    loaded = (learner.load(*work) for work in _batches(job) if work[0] > done)
    full = f"{job.name}: out of memory, whatever train.micro_batch: lower train.batch_size; the last checkpoint is kept"
    with memory.explained(full), closing(ahead(loaded)) as works:
        for work in works:
            step = work.step
            ledger.add(learner.step(work))
            shows, ends_epoch = step % job.params.log_every == 0 or step == steps, step in ends
            saves = leads and (time.monotonic() - saved >= job.params.checkpoint_seconds or step == steps)
            if device.type != "cuda" or shows or ends_epoch or saves:  # reading a number waits for the GPU
                ledger.settle()
            if ends_epoch and leads:
                log.drift.append([tuned.drift(tower) for tower in TOWERS])
            if shows and leads:
                pace = (time.monotonic() - shown) / (step - since)
                shown, since = time.monotonic(), step
                report(f"{job.name}: epoch {work.epoch} step {step}/{steps} {ledger.last()}, {pace:.2f} s/step")
            if saves:
                checkpoint.save(state, parameters, optimizer, step, log)
                saved = time.monotonic()
    for tower in towers:
        tower._compiled_call_impl = None
    if attention != before:
        clip.model.set_attn_implementation(before)
    return Trained(tuned.finish(), log, feed.fixed)


def make_optimizer(job: Job, parameters: dict[str, nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
    """Fused on CUDA, one kernel for all parameters; elsewhere as torch chooses."""
    fused = {"fused": True} if device.type == "cuda" else {}
    return _OPTIMIZERS[job.params.optimizer](
        parameters.values(), lr=job.params.lr, weight_decay=job.params.weight_decay, **fused
    )


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


def steps_of(job: Job) -> int:
    """How many optimizer steps a training takes. Raises NearsafeError as `train` does."""
    return _last_steps(job)[-1]


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
