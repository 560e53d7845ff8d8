"""A child process of our own making: the environment it gets, its lines as they come, and its whole group's end."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

from pipeline.orphans import Watch

# As the Makefile sets them: nothing may reach a model hub or report usage, and hashes of strings do not vary.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONHASHSEED": "0",
}
_LINE_END = re.compile(rb"(?<=\n)|(?<=\r)(?!\n|\Z)")  # the place after it; a last \r may be half of \r\n
# How long each signal may take before the next, stronger one.
_GRACE = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables for DVC and its stages: offline, unbuffered, and this environment's own `python` and `dvc` first."""
    base = os.environ if base is None else base
    path = os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", os.defpath)])
    return {**base, **OFFLINE, "PATH": path, "PYTHONUNBUFFERED": "1"}


class Child:
    """A command in a session of its own, so that a signal reaches it and all that it started, or none of them.

    Nothing of it is left when its first process ends, or when this process does, be it by `kill -9`.
    """

    def __init__(self, command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> None:
        self._watch = Watch()
        self._process = subprocess.Popen(
            command, cwd=folder, env={**environment(), **(env or {})}, start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._watch.over(self._process.pid)

    def lines(self) -> Iterator[str]:
        """What it prints, errors too, each with the end it had: \\n, or \\r where a progress bar draws over itself."""
        assert self._process.stdout is not None
        return lines(self._process.stdout)

    def wait(self) -> int:
        """Its exit status. What it left running is killed."""
        code = self._process.wait()
        self.signal(signal.SIGKILL)
        self._watch.end()
        return code

    def stop(self) -> None:
        """End the whole group: ask with SIGINT, then SIGTERM, then SIGKILL. What it still prints is dropped."""
        try:
            for number, seconds in _GRACE:
                self.signal(number)
                if self._gone(seconds):
                    break
        except KeyboardInterrupt:  # asked again: at once
            self.signal(signal.SIGKILL)
            self._gone(_GRACE[-1][1])
        self._watch.end()

    def signal(self, number: int) -> None:
        """Send a signal to the whole group, as far as it is there."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _gone(self, seconds: float) -> bool:
        """Whether every process of the group ended within so many seconds."""
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(BlockingIOError):  # a full pipe would keep it from ending
                while os.read(self._process.stdout.fileno(), 65536):
                    pass
            self._process.poll()
            try:
                os.killpg(self._process.pid, 0)
            except ProcessLookupError:
                return True
            except PermissionError:  # macOS says so of a group of zombies
                return self._process.poll() is not None
            time.sleep(0.05)
        return False


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and a closed terminal do what Ctrl-C does: raise KeyboardInterrupt, so that children are ended."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def lines(pipe: IO[bytes]) -> Iterator[str]:
    """Lines of a pipe as they come, each with the end it had."""
    rest = b""
    while chunk := pipe.read1(65536):  # type: ignore[attr-defined]
        *whole, rest = _LINE_END.split(rest + chunk)
        yield from (line.decode(errors="replace") for line in whole)
    if rest:
        yield rest.decode(errors="replace")
