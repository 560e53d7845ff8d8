"""A stage that `dvc repro` started ends when DVC does, however that ended: two runs must not write one output.

DVC's own lock ends with it: after `kill -9` the next `dvc repro` would start a stage that still runs a second time.
"""

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import NearsafeError

if TYPE_CHECKING:
    import psutil

_STAGE = "DVC_STAGE"  # DVC sets it for every command that it starts
_EVERY = 0.2  # seconds; DVC takes longer than that to start
_GONE = "the `dvc repro` that started this stage is gone"


def follow_dvc() -> None:
    """End this process soon after the DVC that started it. Raises NearsafeError where that is gone already.

    Does nothing in a process that DVC did not start.
    """
    if _STAGE not in os.environ:
        return
    starter = _starter()
    if starter is not None:
        threading.Thread(target=_follow, args=(starter,), daemon=True).start()


def _starter() -> "psutil.Process | None":
    """The nearest ancestor that is DVC, or else a Python that uses it as a library.

    Between them there may be shells, and what a user put before the command. None where no ancestor is one, as behind
    a scheduler that starts the command elsewhere. Raises NearsafeError where only shells are left below the first
    process: then it was DVC, and died.
    """
    import psutil

    library, lost = None, True
    with suppress(psutil.Error):
        for process in psutil.Process().parents():
            program, *words = [Path(word).name for word in process.cmdline()[:5]] or [""]
            if "dvc" in (program, *words):
                return process
            library = library or (process if program.startswith("python") else None)
            if lost and process.pid == 1:
                raise NearsafeError(f"{_GONE}: run it again")
            lost = lost and "-c" in words[:2]
    return library


def _follow(starter: "psutil.Process") -> None:
    while _lives(starter):
        time.sleep(_EVERY)
    with suppress(OSError, ValueError):  # nobody may be left to read it
        print(f"error: {_GONE}: it ends too", file=sys.stderr, flush=True)
    os._exit(2)  # as abruptly as kill -9, which every stage survives


def _lives(process: "psutil.Process") -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
