"""Detectors that go wrong over images of given colours: a module of its own, because the helper imports it."""

import os
import signal
import time
from collections.abc import Sequence

from PIL import Image

from pipeline.detectors.base import Detector, Finding

GOOD = [Finding("none", 0.9), Finding("knife", 0.1)]
GARBAGE = {
    "nan": [Finding("knife", float("nan"))],
    "inf": [Finding("knife", float("inf"))],
    "above 1": [Finding("knife", 1.5)],
    "below 0": [Finding("knife", -0.1)],
    "no number": [Finding("knife", "0.5")],
    "no score": [Finding("knife", None)],
    "unknown label": [Finding("spoon", 0.5)],
    "no label": [Finding(None, 0.5)],
    "box outside": [Finding("knife", 0.5, (64.0, 0.0, 5.0, 5.0))],
    "box on the other side": [Finding("knife", 0.5, (-9.0, 0.0, 9.0, 5.0))],
    "box not finite": [Finding("knife", 0.5, (float("nan"), 0.0, 5.0, 5.0))],
    "box with a negative side": [Finding("knife", 0.5, (1.0, 1.0, -5.0, 5.0))],
    "box of three numbers": [Finding("knife", 0.5, (1.0, 1.0, 5.0))],
    "a dict": {"knife": 0.5},
    "pairs": [("knife", 0.5)],
    "none at all": None,
}
FAULTS = ("raise", "memory", "hang", "kill", "segfault", "exit", *GARBAGE)


def image(number: int, fault: str = "") -> Image.Image:
    """A picture whose first pixel says what a bad detector does over it."""
    found = Image.new("RGB", (64, 64), (90, 120, 60))
    found.putpixel((0, 0), (FAULTS.index(fault) + 1 if fault else 0, number, 0))
    return found


class Bad:
    """A detector of one hazard that sees none, but where the picture says otherwise."""

    name, hash, labels = "world", "bad", ("none", "knife")

    def __init__(self) -> None:
        self.calls = 0

    def detect(self, images: Sequence[Image.Image]) -> list:
        self.calls += 1
        return [self.one(picture) for picture in images]

    def one(self, picture: Image.Image) -> object:
        number = picture.getpixel((0, 0))[0]
        fault = FAULTS[number - 1] if 0 < number <= len(FAULTS) else ""
        if fault == "raise":
            raise ValueError("no such\n  colour")
        if fault == "memory":
            raise MemoryError
        if fault == "hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # as deaf as a native call
            time.sleep(3600)
        if fault in ("kill", "segfault"):
            os.kill(os.getpid(), signal.SIGKILL if fault == "kill" else signal.SIGSEGV)
        if fault == "exit":
            os._exit(3)
        return GARBAGE.get(fault, GOOD)


def load() -> list[Detector]:
    return [Bad()]


def cannot() -> list[Detector]:
    raise OSError("weights are gone")
