"""The only command that may run several times at once: `dvc --wait-for-lock repro --single-item STAGE`.

Each runs in a process group of its own, so that stopping it also stops the stage's command and what that started.
"""

import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.child import Child
from pipeline.progress import peak_memory

GRACE = 10.0  # seconds between SIGTERM and SIGKILL
TAIL = 4  # last lines that an error quotes; the log has all
_SKIPPED = re.compile(r"^Stage '[^']+' didn't change, skipping")
_CACHED = re.compile(r"^Stage '[^']+' is cached - skipping run")
_RUNNING = re.compile(r"^Running stage '[^']+':")

_REPEATED = re.compile(r"^(Running stage|> |ERROR: failed to reproduce '[^']+': failed to run:)")

Line = Callable[[str, bool], None]  # the text, and whether it is one of a progress bar's many (ended by \r)


@dataclass(frozen=True)
class Result:
    """How a stage's process ended. `reason`: its last words, of a failed one; `peak_mb`: MiB, of one that said so."""

    state: Literal["ran", "cached", "up_to_date", "failed"]
    seconds: float
    reason: str | None = None
    peak_mb: float | None = None


class Processes:
    """The stages that run now, so that a signal can end them all."""

    def __init__(self) -> None:
        self._live: set[Child] = set()
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called: nothing starts any more."""
        return self._cancelled.is_set()

    def cancel(self, *_: object) -> None:
        """End every group: SIGTERM, then SIGKILL to what is left after a while, or at once if called again."""
        again = self._cancelled.is_set()
        self._cancelled.set()
        self._signal(signal.SIGKILL if again else signal.SIGTERM)
        if not again:
            threading.Thread(target=self._kill_later, daemon=True).start()

    def repro(self, root: Path, stage: str, force: bool, device: str, line: Line) -> Result:
        """Bring one stage up to date in the clone `root`; every line it prints goes to `line` as it comes."""
        force_option = ["--force"] if force else []
        command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", *force_option, stage]
        began, said = time.monotonic(), _Said()
        child = Child(command, root, {"CUDA_VISIBLE_DEVICES": device})
        self._live.add(child)
        try:
            if self.cancelled:  # the signal came just before the line above
                self._signal(signal.SIGTERM)
            for whole in child.lines():
                text, passing = whole.rstrip("\r\n"), whole.endswith("\r")
                if not passing:
                    said.hear(text)
                line(text, passing)
        except BaseException:  # of `line`: nobody would read the pipe any more
            child.signal(signal.SIGKILL)
            raise
        finally:
            code = child.wait()
            self._live.discard(child)
        seconds = time.monotonic() - began
        if code:
            return Result("failed", seconds, said.last_words(code), said.peak_mb)
        return Result(said.state, seconds, peak_mb=said.peak_mb)

    def _kill_later(self) -> None:
        time.sleep(GRACE)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for child in list(self._live):
            child.signal(number)


class _Said:
    """What a stage's output means: DVC's own lines say whether it ran."""

    def __init__(self) -> None:
        self.state: Literal["ran", "cached", "up_to_date"] = "ran"
        self.peak_mb: float | None = None
        self._decided = False
        self._tail: deque[str] = deque(maxlen=TAIL)

    def hear(self, text: str) -> None:
        """Take in a line. After DVC has said what it does, words like its own are the stage's."""
        if text.strip() and not _REPEATED.match(text):
            self._tail.append(text)
        self.peak_mb = peak_memory(text) or self.peak_mb
        for pattern, state in ((_SKIPPED, "up_to_date"), (_CACHED, "cached"), (_RUNNING, "ran")):
            if not self._decided and pattern.match(text):
                self.state, self._decided = state, True

    def last_words(self, code: int) -> str:
        """Why it failed, as far as it said."""
        ended = f"ended by {signal.Signals(-code).name}" if code < 0 else "failed"
        return "\n".join([f"{ended}; its last lines:", *self._tail]) if self._tail else ended
