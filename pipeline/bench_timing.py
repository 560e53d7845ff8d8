"""Clocks and scales of the benchmarks: seconds, memory, and the device's own matrix rate."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import psutil
import torch


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call; CUDA's queue is emptied before and after."""
    _wait()
    start = time.perf_counter()
    call()
    _wait()
    return time.perf_counter() - start


@cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of one large square matrix product, the best of several."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty(size, size, device=device, dtype=dtype)
    torch.mm(a, b, out=out)
    return 2 * size**3 / min(seconds(lambda: torch.mm(a, b, out=out)) for _ in range(10))


def extra_memory(call: Callable[[], object]) -> float:
    """Call it once; the most memory (MiB) it took beyond what was held before: CUDA's, or this process's resident."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with _watched() as most:
        before = most[0]
        call()
    return (most[0] - before) / 2**20


@contextmanager
def _watched() -> Iterator[list[int]]:
    """Resident memory of this process, looked at every few milliseconds: a list of one number, its most so far."""
    process, stop = psutil.Process(), threading.Event()
    most = [process.memory_info().rss]

    def watch() -> None:
        while not stop.wait(0.005):
            most[0] = max(most[0], process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        stop.set()
        thread.join()


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
