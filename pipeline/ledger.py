"""Numbers of the steps of a training, checked and written down: late on a GPU, where reading one waits for it."""

import math
from dataclasses import dataclass

from torch import Tensor

from pipeline.checkpoint import Log
from pipeline.errors import NearsafeError


@dataclass(frozen=True)
class Step:
    """What one step computed: `values` (T,) float64 of its terms and the gradient's length `norm`, on their device."""

    step: int
    epoch: int
    terms: tuple[str, ...]
    weights: list[float]
    values: Tensor
    norm: Tensor


class Ledger:
    """Steps on their way into the log. `settle` before anything is saved: a bad number then stops the training."""

    def __init__(self, name: str, log: Log) -> None:
        self.name, self.log = name, log
        self._open: list[Step] = []

    def add(self, step: Step) -> None:
        """Take a step; nothing is read from its device yet."""
        self._open.append(step)

    def settle(self) -> None:
        """Append the open steps to the log, in order. Raises NearsafeError naming the first that is not finite."""
        for one in self._open:
            values = one.values.tolist()
            self._check(one.step, dict(zip(one.terms, values, strict=True)))
            self._check(one.step, {"norm of the gradient": float(one.norm)})
            self.log.terms = list(one.terms)
            self.log.epoch.append(one.epoch)
            self.log.value.append(values)
            self.log.weight.append(one.weights)
        self._open = []

    def last(self) -> str:
        """The last settled step's total and terms, in words."""
        values, weights = self.log.value[-1], self.log.weight[-1]
        total = sum(weight * value for weight, value in zip(weights, values, strict=True))
        shown = " ".join(f"{name} {value:.3f}" for name, value in zip(self.log.terms, values, strict=True))
        return f"total {total:.4f} ({shown})"

    def _check(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            if not math.isfinite(value):
                raise NearsafeError(
                    f"{self.name}: step {step}: {name} is {value}; stopped, the last checkpoint is kept. "
                    "Lower lr or set max_grad_norm"
                )
