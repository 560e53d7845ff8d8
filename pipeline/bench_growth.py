"""How time and memory grow with the size of the work: N doubled three times, in one run."""

import math
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.bench_timing import extra_memory, seconds
from pipeline.precision import pick_device

DOUBLINGS = 3


@dataclass(frozen=True)
class Growth:
    """The same work at `smallest`, and at two, four and eight times that many things of `unit`.

    `make(n, folder)` prepares n things (files in the empty `folder`) and returns the call that is timed. `turns`: at
    most so many, for calls that take minutes.
    """

    title: str
    unit: str
    smallest: int
    make: Callable[[int, Path], Callable[[], object]]
    turns: int = 3

    @property
    def sizes(self) -> list[int]:
        """All N, ascending."""
        return [self.smallest << doubling for doubling in range(DOUBLINGS + 1)]


def measure_growth(growth: Growth, repeats: int) -> list[dict[str, Any]]:
    """A row per size, in turns over the sizes after one warm-up each; seconds are medians.

    `exponent` is log2 of the time over that of half the size: 1 is linear, 2 quadratic; none at the first size.
    """
    turns = min(repeats, growth.turns)
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in growth.sizes]
        calls = [growth.make(n, folder) for n, folder in zip(growth.sizes, folders, strict=True)]
        memory = [extra_memory(call) for call in calls]  # the warm-up, too
        times = [[seconds(call) for call in calls] for _ in range(turns)]
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    return [
        {
            "title": growth.title, "device": pick_device()[0].type, "turns": turns, "n": n, "unit": growth.unit,
            "seconds": taken, "rate": n / taken, "extra_mib": held,
            "exponent": None if before is None else math.log2(taken / before),
        }
        for n, taken, before, held in zip(growth.sizes, medians, [None, *medians], memory, strict=False)
    ]  # fmt: skip


def describe_growth(row: dict[str, Any]) -> str:
    """One line of a row."""
    growing = "" if row["exponent"] is None else f", N^{row['exponent']:.2f} from half of it"
    return (
        f"{row['title']}, {row['n']:,} {row['unit']}: {row['seconds'] * 1e3:.0f} ms, "
        f"{row['rate']:.3g} {row['unit']}/s{growing}; {row['extra_mib']:.0f} MiB more"
    )


def growths_of(module: Any) -> Iterator[Growth]:
    """What a benchmark's module grows: its `growths()`, if it has one."""
    yield from getattr(module, "growths", lambda: ())()
