"""One optimizer step: its inputs loaded, its gradient in parts that fit into memory, its numbers kept."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline import memory, seeds
from pipeline.defences.protocol import Terms
from pipeline.ledger import Step
from pipeline.memory import OutOfMemory
from pipeline.team import Team
from pipeline.two_pass import two_pass

if TYPE_CHECKING:
    from pipeline.training import Job

Report = Callable[[str], None]


@dataclass(frozen=True)
class Work:
    """What a step reads, loaded: where its pairs lie, and the inputs of each part of this process's share of them.

    `rows` are the share's pairs, `size` of them make a part.
    """

    step: int
    epoch: int
    count: int
    index: Any
    rows: Tensor
    size: int
    parts: list[Any]


@dataclass
class Learner:
    """What every step of a training works on. `feed`: the data's feed for the defence and the model.

    `pairs`: so many pass through the towers at a time, None for all of a share; less from where memory was full.
    """

    job: "Job"
    feed: Any
    model: nn.Module
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    pairs: int | None
    team: Team | None = None
    report: Report = print

    def load(self, step: int, epoch: int, rows: Tensor) -> Work:
        """A step's inputs, on the model's device."""
        mine = rows if self.team is None else self.team.share(rows)
        size = min(self.pairs or len(mine), len(mine))
        return Work(step, epoch, len(rows), self.feed.index(rows), mine, size, self._parts(mine, size))

    def step(self, work: Work) -> Step:
        """One optimizer step, in parts half as large where memory is full, and says so; its numbers, on the device.

        Until the gradient is whole nothing is changed that a step starts from: weights and the optimizer's state are
        those of the last step, and a step's randomness is derived from its number. Raises OutOfMemory for one pair that
        does not fit, and for a member of a team at once, as the others wait for it.
        """
        found: list[tuple[Terms, Tensor]] = []
        while True:
            if self.pairs is not None and self.pairs < work.size:
                work = replace(work, size=self.pairs, parts=self._parts(work.rows, self.pairs))
            if memory.fits(lambda work=work: found.append(self._gradient(work))):
                break
            self.optimizer.zero_grad(set_to_none=True)
            name = self.job.name
            where = f"{name}: step {work.step}: out of memory with {work.size} pairs in the towers at a time"
            if work.size == 1:
                raise OutOfMemory(f"{where}: lower train.batch_size; the last checkpoint is kept")
            if self.team is not None:
                raise OutOfMemory(where)
            self.pairs = (work.size + 1) // 2
            self.report(f"{where}, {self.pairs} from here on: train.micro_batch")
        self.optimizer.step()
        terms, norm = found[0]
        values = torch.stack([value.detach().double() for _, value in terms.values()])
        return Step(work.step, work.epoch, tuple(terms), [float(weight) for weight, _ in terms.values()], values, norm)

    def _parts(self, rows: Tensor, size: int) -> list[Any]:
        return [self.feed.load(part, first=number == 0) for number, part in enumerate(rows.split(size))]

    def _gradient(self, work: Work) -> tuple[Terms, Tensor]:
        """A step's terms and the length of their gradient, which is left in the parameters, clipped."""
        device = next(iter(self.parameters.values())).device
        self.optimizer.zero_grad(set_to_none=True)
        if self.team is None and len(work.parts) == 1:
            with self._drawn(work.step, device):
                batch = self.feed.assemble(work.index, self.feed.encode(self.model, work.parts[0]))
            terms = self.job.defence.terms(batch)
            sum(weight * value for weight, value in terms.values()).backward()
        else:
            rank = () if self.team is None else (f"process {self.team.rank}",)
            drawn = lambda number: self._drawn(work.step, device, *rank, f"part {number}")  # noqa: E731
            score = self.job.defence.terms
            terms = two_pass(self.feed, self.model, work.index, work.count, work.parts, drawn, score, self.team)
        limit = self.job.params.max_grad_norm
        limit = math.inf if limit is None else limit
        return terms, nn.utils.clip_grad_norm_(list(self.parameters.values()), limit)

    @contextmanager
    def _drawn(self, step: int, device: torch.device, *part: str) -> Iterator[None]:
        """Dropout of a step (of a part of it) from a generator of its own, and the precision of the job."""
        job = self.job
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seeds.derive(job.root_seed, "train", str(job.seed), "dropout", str(step), *part))
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=job.dtype == torch.bfloat16):
                yield
