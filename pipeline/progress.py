"""What DVC prints, with how far it has come and about how long the rest will take.

A stage that still has to run is expected to take as long as when it last ran, at the speed that this run has shown so
far. One that has not run before: as long as those of its kind in this run (`attack_score@des` and
`attack_score@original` are of one kind); a kind that is new, too: as long as the mean stage. Stages that DVC skips cost
nothing and teach nothing.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

State = Literal["ran", "cached", "up_to_date", "failed"]
_STARTS = re.compile(r"^(Running s|S)tage '([^']+)'(:| is cached)?")
_FAILED = re.compile(r"^ERROR: failed to reproduce(?: stages:)? ((?:'[^']+'(?:, and |, | and )?)+)(?:: (.*))?")
# The last line of a stage that ran to its end: pipeline/errors.py.
_PEAK = re.compile(r"^\w+: peak memory (\d+) MiB\s*$")
# The ratio of this run's seconds to those of earlier runs says little while both are small.
_SETTLED = 10.0


@dataclass(frozen=True)
class Done:
    """How a stage ended. `seconds`: of one that ran or failed while running; `peak_mb`: MiB, of one that said so."""

    state: State
    seconds: float | None = None
    reason: str | None = None
    peak_mb: float | None = None


class Progress:
    """Follows a run by its lines. `planned`: names of the stages that DVC will come to.

    `stale`: those of them that it will run (None: not known, as if all). `past`: seconds of stages in earlier runs.
    """

    def __init__(
        self,
        planned: Collection[str],
        stale: Collection[str] | None = None,
        past: Mapping[str, float] | None = None,
    ) -> None:
        self.planned, self.seen = frozenset(planned), set[str]()
        self.past = dict(past or {})
        self.durations: dict[str, list[float]] = {}
        self.ended: dict[str, Done] = {}
        self.stale = self.planned if stale is None else frozenset(stale)
        self._running: tuple[str, float] | None = None
        self._peak: float | None = None

    @property
    def running(self) -> str | None:
        """The stage that runs now."""
        return self._running[0] if self._running else None

    def line(self, text: str, seconds: float) -> str:
        """The line, `seconds` after the start; where a stage begins or is skipped, it says where the run stands."""
        if failed := _FAILED.match(text):
            self._fail(re.findall("'([^']+)'", failed[1]), failed[2], seconds)
            return text
        found = _STARTS.match(text)
        if not found:
            self._peak = peak_memory(text) or self._peak
            return text
        self.end(seconds)
        name = found[2]
        if found[1] == "Running s":
            self._running = (name, seconds)
        else:
            self.ended[name] = Done("cached" if found[3] == " is cached" else "up_to_date")
        self.seen.add(name)
        count = f"{len(self.seen)} of {len(self.planned | self.seen)}"
        left = self.left()
        rest = "time left not known yet" if left is None else f"about {duration(left)} left"
        return f"[{count}, {duration(seconds)}, {rest}] {text}"

    def end(self, seconds: float, state: State = "ran", reason: str | None = None) -> None:
        """The stage that runs has ended, `seconds` after the start of the run. Nothing happens where none runs."""
        if self._running:
            name, began = self._running
            self.ended[name] = Done(state, seconds - began, reason, self._peak)
            if state == "ran":
                self.durations.setdefault(kind(name), []).append(seconds - began)
            self._running = None
        self._peak = None

    def left(self) -> float | None:
        """Seconds that the running stage and those to come will take; None while nothing is known of a stage."""
        waiting = [*(self.stale - self.seen), *([self._running[0]] if self._running else [])]
        expected = [self._expected(name) for name in waiting]
        return None if None in expected else float(sum(expected))

    def _expected(self, stage: str) -> float | None:
        if stage in self.past:
            return self.past[stage] * self._speed()
        if alike := self.durations.get(kind(stage)):
            return fmean(alike)
        if alike := [seconds for name, seconds in self.past.items() if kind(name) == kind(stage)]:
            return fmean(alike) * self._speed()
        if known := [value for values in self.durations.values() for value in values]:
            return fmean(known)
        return fmean(self.past.values()) if self.past else None

    def _speed(self) -> float:
        """This run's seconds over those of earlier runs, for stages that both know; 1 to begin with."""
        both = [
            (done.seconds, self.past[name]) for name, done in self.ended.items() if done.seconds and name in self.past
        ]
        now, before = (sum(column) for column in zip(*both, strict=True)) if both else (0.0, 0.0)
        return (now + _SETTLED) / (before + _SETTLED)

    def _fail(self, names: Iterable[str], reason: str | None, seconds: float) -> None:
        if self.running in (names := list(names)):
            self.end(seconds, "failed", reason)
        else:
            self.end(seconds)
        for name in names:  # with --keep-going DVC names the failed ones at the end
            known = self.ended.get(name, Done("failed"))
            self.ended[name] = Done("failed", known.seconds, reason, known.peak_mb)
            self.seen.add(name)


def peak_memory(line: str) -> float | None:
    """MiB that a stage held at most, if this is the line that says so."""
    found = _PEAK.match(line)
    return float(found[1]) if found else None


def kind(stage: str) -> str:
    """The stage without its item: all of one kind do the same work on different entries."""
    return stage.partition("@")[0]


def duration(seconds: float) -> str:
    """Seconds in words, about: "40 s", "12 min", "2 h 5 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
