"""Memory that is full: what says so, and fewer items at a time in answer to it.

Only what depends on the number of items can be helped so. What was computed before memory was full is repeated from the
same state, so the result is that of the smaller size from the start: the same but for the order of sums.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import NearsafeError

# The words of torch's CPU allocator and of cuBLAS, which raise a plain RuntimeError.
_WORDS = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


class OutOfMemory(NearsafeError):
    """Memory was full where nothing smaller can be tried here."""


def is_full(error: BaseException) -> bool:
    """Whether an exception says that memory is full: a GPU's, or this machine's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def fits(work: Callable[[], None]) -> bool:
    """Do `work`; whether memory was enough for it. What it held is free afterwards. Other exceptions are its own."""
    try:
        work()
    except (RuntimeError, MemoryError) as error:
        if not is_full(error):
            raise
    else:
        return True
    if torch.cuda.is_available():  # outside of the exception, which holds the tensors of the call
        torch.cuda.empty_cache()
    return False


@contextmanager
def explained(message: str) -> Iterator[None]:
    """Memory that is full within becomes OutOfMemory with this message."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_full(error):
            raise
        raise OutOfMemory(message) from None


def in_batches(count: int, size: int, work: Callable[[slice], None]) -> None:
    """`work` over `count` items, `size` at a time, and half as many from where memory is full, with a warning.

    Raises OutOfMemory where a single item is too much.
    """
    start = 0
    while start < count:
        batch = slice(start, min(start + size, count))
        if fits(lambda batch=batch: work(batch)):
            start = batch.stop
            continue
        held = batch.stop - batch.start
        if held == 1:
            raise OutOfMemory("out of memory with one item at a time: free memory, or use a device with more")
        size = (held + 1) // 2
        warnings.warn(f"out of memory with {held} items at a time, {size} from here on; set batch_size", stacklevel=3)
