"""What DVC prints, with how far it has come and about how long the rest will take.

dvc dag --dot TARGET > plan.dot
dvc repro TARGET 2>&1 | python -m pipeline.progress --plan plan.dot

A stage that still has to run is expected to take as long as those of its kind that have run (`attack_score@des` and
`attack_score@original` are of one kind); a kind that has not run yet, as long as the mean stage. Stages that DVC skips
cost nothing and teach nothing.
"""

import argparse
import re
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from statistics import fmean

from pipeline.errors import NearsafeError, run

_STARTS = re.compile(r"^(Running s|S)tage '([^']+)'")
_NODE = re.compile(r'^"([^"]+)";$', re.MULTILINE)


class Progress:
    """Follows a run by its lines. `planned`: names of the stages that DVC will come to."""

    def __init__(self, planned: Collection[str]) -> None:
        self.planned, self.seen = frozenset(planned), set[str]()
        self.durations: dict[str, list[float]] = {}
        self._running: tuple[str, float] | None = None

    def line(self, text: str, seconds: float) -> str:
        """The line, `seconds` after the start; where a stage begins or is skipped, it says where the run stands."""
        found = _STARTS.match(text)
        if not found:
            return text
        if self._running:
            name, began = self._running
            self.durations.setdefault(kind(name), []).append(seconds - began)
        self._running = (found[2], seconds) if found[1] == "Running s" else None
        self.seen.add(found[2])
        count = f"{len(self.seen)} of {len(self.planned | self.seen)}"
        left = self.left()
        rest = "time left not known yet" if left is None else f"about {duration(left)} left"
        return f"[{count}, {duration(seconds)}, {rest}] {text}"

    def left(self) -> float | None:
        """Seconds that the running stage and those to come will take; None while no stage has run."""
        waiting = [*(self.planned - self.seen), *([self._running[0]] if self._running else [])]
        if not waiting:
            return 0.0
        if not self.durations:
            return None
        known = {name: fmean(values) for name, values in self.durations.items()}
        typical = fmean(value for values in self.durations.values() for value in values)
        return sum(known.get(kind(name), typical) for name in waiting)


def kind(stage: str) -> str:
    """The stage without its item: all of one kind do the same work on different entries."""
    return stage.partition("@")[0]


def duration(seconds: float) -> str:
    """Seconds in words, about: "40 s", "12 min", "2 h 5 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def planned_stages(plan: Path) -> list[str]:
    """Names of the stages in what `dvc dag --dot` printed. Raises NearsafeError for a file that cannot be read."""
    try:
        return _NODE.findall(plan.read_text(encoding="utf-8"))
    except OSError as error:
        raise NearsafeError(f"{plan}: cannot be read: {error.strerror or error}") from error


def follow(lines: Iterable[str], planned: Collection[str], clock: Callable[[], float]) -> Iterator[str]:
    """Each line as it comes, stages with their progress. `clock` gives seconds from any start."""
    progress, start = Progress(planned), clock()
    for line in lines:
        yield progress.line(line.rstrip("\n"), clock() - start)


def main(plan: Path) -> None:
    """Copy standard input to standard output, with progress."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops DVC; its last words still pass through here
    sys.stdin.reconfigure(errors="replace")
    for line in follow(sys.stdin, planned_stages(plan), time.monotonic):
        print(line, flush=True)


def parser() -> argparse.ArgumentParser:
    """Command line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--plan", type=Path, required=True, help="what `dvc dag --dot TARGET` printed")
    return arguments


if __name__ == "__main__":
    run(main, parser())
