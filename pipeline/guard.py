"""Nothing outlives a parent that was killed: a small process waits for its end, then ends all that it had started.

A parent that ends as it should ends its children itself; one that gets `kill -9` cannot. `pipeline.orphans` ends the
group of one child; this ends what is in no group that we know, such as Prefect's temporary server.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

_MARK = "NEARSAFE_GUARD"  # in the environment of what is guarded: the marks of its guards, separated by commas
_DONE = b"done"
_TRIES, _PAUSE = 50, 0.1  # until no child is left that one of them had just started


@contextmanager
def guarded() -> Iterator[None]:
    """Whatever this process starts inside the block is killed if this process is gone before the block ends."""
    mark, before = uuid4().hex, os.environ.get(_MARK)
    command = [sys.executable, "-P", __file__, mark]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **quiet)
    os.environ[_MARK] = f"{before},{mark}" if before else mark
    try:
        yield
    finally:
        if before is None:
            del os.environ[_MARK]
        else:
            os.environ[_MARK] = before
        try:
            guard.communicate(_DONE)
        except OSError:  # it is gone, and not needed any more
            guard.wait()


def end_all(mark: str) -> None:
    """Kill every process that has the mark, and those that they start meanwhile."""
    import psutil

    for _ in range(_TRIES):
        found = 0
        for process in psutil.process_iter():
            try:
                if mark in process.environ().get(_MARK, "").split(",") and process.status() != psutil.STATUS_ZOMBIE:
                    process.kill()
                    found += 1
            except (psutil.Error, OSError):  # not ours, or gone
                continue
        if not found:
            return
        time.sleep(_PAUSE)


if __name__ == "__main__":
    if sys.stdin.buffer.read() != _DONE:
        end_all(sys.argv[1])
