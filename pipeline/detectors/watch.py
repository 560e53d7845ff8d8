"""Image detectors in a process of their own: a call that never returns, or ends the process, costs one image.

A native call cannot be stopped from within its process, and a thread that waits for it stays behind. So the detectors
are loaded a second time in a helper, `python -m pipeline.detectors.watch`: it gets images through a socket and answers
with findings, the same functions on the same bytes. One that does not answer in time is killed, and started again for
the next image. It ends with the process that started it, however that one ends.
"""

import ctypes
import os
import pickle
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Timer
from typing import Any

import torch
from PIL import Image

from pipeline.detectors.base import Detector, Failed, Finding, Lost, in_words
from pipeline.detectors.registry import DetectorParams, Judge, load_judges, load_world_detector
from pipeline.errors import NearsafeError

_ROOT = Path(__file__).resolve().parents[2]
_CALL, _LOADING = 30.0, 600.0  # seconds: of a call beside those of its images, and until the models are loaded
_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)

Load = Callable[[], Sequence[Detector]]


class Helper:
    """The process that runs what `load` makes (a module-level function or `partial`); started when first asked."""

    def __init__(self, load: Load, seconds: float) -> None:
        self.load, self.seconds = load, seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._line: Connection | None = None

    def detect(self, name: str, images: Sequence[Image.Image]) -> list[list[Finding]]:
        """What detector `name` finds. Raises Lost for no answer in time and for a process that ended, Failed for an
        exception there, NearsafeError where the models cannot be loaded.
        """
        if self._line is None:
            self._start()
        return self._ask((name, list(images)), _CALL + self.seconds * len(images))

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._finalizer()
            self._process = self._line = None

    def _start(self) -> None:
        here, there = socket.socketpair()
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", __name__, str(there.fileno()), str(os.getpid())]
        with there:
            self._process = subprocess.Popen(
                command, env={**os.environ, "PYTHONPATH": path}, pass_fds=[there.fileno()], stdin=subprocess.DEVNULL
            )
        self._line = Connection(here.detach())
        self._finalizer = weakref.finalize(self, _end, self._process, self._line)
        try:
            self._ask((self.load, torch.get_num_threads()), _LOADING)
        except Failed as error:
            raise NearsafeError(f"the detectors cannot be loaded in a process of their own: {error}") from None

    def _ask(self, question: Any, seconds: float) -> Any:
        """The answer to a question, within so many seconds. Raises as `detect`."""
        assert self._process is not None and self._line is not None
        late: list[bool] = []
        timer = Timer(seconds, _stop, (self._process, late))
        timer.daemon = True
        timer.start()
        try:
            self._line.send(question)
            failed, answer = self._line.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            status = self._process.wait()
            how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            self.close()
            raise Lost(f"no answer within {seconds:g} s" if late else f"the detector's process {how}") from None
        except BaseException:  # Ctrl-C: its answer would be taken for that to the next question
            self.close()
            raise
        finally:
            timer.cancel()
        if failed:
            raise Failed(answer)
        return answer


class Watched:
    """A detector of a helper, in place of the one that is loaded here."""

    def __init__(self, detector: Detector, helper: Helper) -> None:
        self.name, self.hash = detector.name, detector.hash
        self.labels: Collection[str] = detector.labels
        self.helper = helper

    def detect(self, images: Sequence[Image.Image]) -> list[list[Finding]]:
        """See `Helper.detect`."""
        return self.helper.detect(self.name, images)


def watched(
    judges: Sequence[Judge], params: DetectorParams, folder: Path, device: torch.device | str
) -> Sequence[Judge]:
    """The judges with their detectors in one helper; as they are where `seconds_per_image` is null, or none is on.

    `params`, `folder` (the world's detector) and `device` are what the judges were loaded with.
    """
    if params.seconds_per_image is None or not judges:
        return judges
    helper = Helper(partial(_load, params, folder, device), params.seconds_per_image)
    return [Judge(Watched(judge.detector, helper), judge.rules) for judge in judges]


def _load(params: DetectorParams, folder: Path, device: torch.device | str) -> Sequence[Detector]:
    return [judge.detector for judge in load_judges(params, load_world_detector(folder, device))]


def _stop(process: subprocess.Popen[bytes], late: list[bool]) -> None:
    late.append(True)
    process.kill()


def _end(process: subprocess.Popen[bytes], line: Connection) -> None:
    line.close()
    process.kill()
    process.wait()


def _serve(line: Connection) -> None:
    """Answer questions until the other side is gone: (failed, answer), the answer being a reason where it failed."""
    detectors: dict[str, Detector] = {}
    while True:
        try:
            first, second = line.recv()
        except EOFError:
            return
        try:
            if detectors:
                line.send((False, detectors[first].detect(second)))
            else:
                torch.set_num_threads(second)
                detectors = {detector.name: detector for detector in first()}
                line.send((False, None))
        except Exception as error:  # a library's: the process lives on
            line.send((True, in_words(error)))


def _die_with(parent: int) -> None:
    """On Linux the kernel kills this process when its parent ends, even amid a call that never returns."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _die_with(int(sys.argv[2]))
    with suppress(BrokenPipeError, ConnectionResetError):
        _serve(Connection(int(sys.argv[1])))
