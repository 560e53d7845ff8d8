"""Batches of which some items fail: each is found, the others keep their results."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pipeline.memory import OutOfMemory, is_full

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_LONGEST = 500  # characters of a reason


@dataclass(frozen=True)
class Failed:
    """Why an item has no result: the exception's type, a colon and its message."""

    reason: str


def attempt(
    items: Sequence[_Item], work: Callable[[Sequence[_Item]], Sequence[_Result]], errors: tuple[type[Exception], ...]
) -> Iterator[tuple[_Item, _Result | Failed]]:
    """Every item, in order, with its result of `work` over all of them, or with what `work` raises for it alone.

    Where one of `errors` comes out of several items, they are tried one by one. Memory that is full is no item's fault:
    half of them are tried at a time, with a warning. Raises OutOfMemory where a single one is too much; any other
    exception is passed on.
    """
    results = None
    try:
        results = work(items)
    except (*errors, MemoryError, RuntimeError) as error:
        full = is_full(error)
        if not full and not isinstance(error, errors):
            raise
        failed = Failed(f"{type(error).__name__}: {str(error).strip()[:_LONGEST]}")
    if results is not None:
        yield from zip(items, results, strict=True)
        return
    # Outside of the exception, which holds the tensors of the call.
    if len(items) == 1 and full:
        raise OutOfMemory("out of memory with one item at a time: free memory, or use a device with more")
    if len(items) == 1:
        yield items[0], failed
        return
    size = (len(items) + 1) // 2 if full else 1
    if full:
        warnings.warn(f"out of memory with {len(items)} items at a time, {size} now; set batch_size", stacklevel=2)
    for start in range(0, len(items), size):
        yield from attempt(items[start : start + size], work, errors)
