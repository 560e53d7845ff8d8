"""Batches of which some items fail: each is found, the others keep their results."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pipeline.memory import OutOfMemory, fits

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_LONGEST = 500  # characters of a reason


@dataclass(frozen=True)
class Failed:
    """Why an item has no result: the exception's type, a colon and its message."""

    reason: str


def attempt(
    items: Sequence[_Item], size: int, work: Callable[[Sequence[_Item]], Sequence[_Result]],
    errors: tuple[type[Exception], ...],
) -> Iterator[tuple[_Item, _Result | Failed]]:  # fmt: skip
    """Every item, in order, with its result of `work` over `size` of them, or with what it raises for this one alone.

    Where one of `errors` comes out of several items, these are tried one by one. Memory that is full is no item's
    fault: half as many are tried from there on, with a warning. Raises OutOfMemory where a single one is too much; any
    other exception is passed on.
    """
    start = 0
    while start < len(items):
        batch = items[start : start + size]
        results: list[_Result] = []
        failed, fitted = None, True
        try:
            fitted = fits(lambda batch=batch, results=results: results.extend(work(batch)))
        except errors as error:
            failed = Failed(f"{type(error).__name__}: {str(error).strip()[:_LONGEST]}")
        if not fitted:
            if len(batch) == 1:
                raise OutOfMemory("out of memory with one item at a time: free memory, or use a device with more")
            size = (len(batch) + 1) // 2
            text = f"out of memory with {len(batch)} items at a time, {size} from here on; set batch_size"
            warnings.warn(text, stacklevel=2)
            continue
        if failed is None:
            yield from zip(batch, results, strict=True)
        elif len(batch) == 1:
            yield batch[0], failed
        else:
            yield from attempt(batch, 1, work, errors)
        start += len(batch)
