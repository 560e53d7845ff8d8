"""Who may run where: every GPU to one stage at a time, and slots for the stages that need none."""

import os
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile

_NONE = ("", "cpu", "-1", "NoDevFiles")  # in place of ids


class Devices:
    """Leases for stages. `gpus`: values for CUDA_VISIBLE_DEVICES; none at all is one turn for GPU stages on the CPU."""

    def __init__(self, gpus: list[str], cpu_slots: int) -> None:
        self._gpus: queue.Queue[str] = queue.Queue()
        for gpu in gpus or [""]:  # without a GPU its stages run one at a time instead of waiting for ever
            self._gpus.put(gpu)
        self._slots = threading.Semaphore(cpu_slots)

    @contextmanager
    def lease(self, gpu: bool, stopped: Callable[[], bool]) -> Iterator[str | None]:
        """Wait for a turn; yields the stage's CUDA_VISIBLE_DEVICES, or None once `stopped` says so."""
        device = self._wait(gpu, stopped)
        try:
            yield device
        finally:
            if device is not None:
                self._give_back(gpu, device)

    def _wait(self, gpu: bool, stopped: Callable[[], bool]) -> str | None:
        while not stopped():
            device = self._take(gpu)
            if device is not None and stopped():  # it came free because what held it was stopped
                self._give_back(gpu, device)
            elif device is not None:
                return device
        return None

    def _take(self, gpu: bool) -> str | None:
        """A turn that comes within a moment, else None."""
        if not gpu:
            return "" if self._slots.acquire(timeout=0.2) else None
        try:
            return self._gpus.get(timeout=0.2)
        except queue.Empty:
            return None

    def _give_back(self, gpu: bool, device: str) -> None:
        if gpu:
            self._gpus.put(device)
        else:
            self._slots.release()


def find_gpus(given: str | None = None) -> list[str]:
    """Ids of the GPUs to use: those `given` ("0,1", UUIDs too; "" or "cpu" is none), those this process was given, all.

    The number of GPUs is asked of nvidia-smi: torch would cost seconds and hold memory on a device.
    """
    visible = given if given is not None else os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        ids = [part.strip() for part in visible.split(",")]
        seen = list(takewhile(lambda part: part not in _NONE, ids))  # CUDA itself sees no GPU behind an invalid id
        return list(dict.fromkeys(seen))
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.split() if answer.returncode == 0 else []
