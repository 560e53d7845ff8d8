"""Threads beside the models: work on many items at once in order, and the next item made ahead of time.

For work that lets other Python threads run: decoding and resizing (Pillow), networks (onnxruntime), files.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

A = TypeVar("A")
T = TypeVar("T")
_END: Any = object()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel(work: Callable[[A], T], items: Sequence[A]) -> list[T]:
    """`work` of every item, in their order, over as many threads as there are cores. Raises what the first one does.

    Threads live for the call, so that a process forked later (a data loader's) inherits none.
    """
    count = min(cores(), len(items))
    if count < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, items))


def stream(work: Callable[[A], T], items: Iterable[A], workers: int | None = None) -> Iterator[T]:
    """As `parallel`, over items that are made one by one: at most two per worker are on their way at once."""
    workers = workers or cores()
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items, the next one being made in a thread while the caller works on this one: at most two are held."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, iterator, _END)
        while (item := coming.result()) is not _END:
            coming = thread.submit(next, iterator, _END)
            yield item
