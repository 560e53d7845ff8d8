"""No process outlives the one that it works for, also where that one was killed and could end nothing itself.

python -I -S pipeline/orphans.py

reads the number of a process group from standard input, and kills the group as soon as its first process has ended, or
the other end of standard input is closed: by its owner's death, too. It uses the standard library alone, to start fast.
"""

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress


class Watch:
    """A process of its own that ends the group of another, even where this one is killed with -9.

    Start it before that other process, so that there is no moment without it.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def over(self, group: int) -> None:
        """Watch this group from now on."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # someone killed the watch: the work goes on without
            self._process.stdin.write(f"{group}\n".encode())
            self._process.stdin.flush()

    def end(self) -> None:
        """The group has ended, and what was left of it has been killed."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """See the module. A group of which nothing is left is no error."""
    line = sys.stdin.buffer.raw.readline()
    if not line.strip():
        return
    group = int(line)
    watched = [sys.stdin.fileno()]
    with suppress(AttributeError, OSError):  # Linux 5.3 or newer; elsewhere only the owner's death is seen
        watched.append(os.pidfd_open(group))
    select.select(watched, [], [])
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    main()
