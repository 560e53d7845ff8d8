"""Errors a user sees, and how a command line reports them."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from pipeline.orphans import end_with_parent


class NearsafeError(Exception):
    """Base of every error that is the user's to mend: its message is complete, a traceback adds nothing."""


class TableError(NearsafeError):
    """A table does not keep its contract. The message names the file, and the column and row where they exist."""


def run(main: Callable[..., None], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> None:
    """Parse the command line and call `main` with it; a NearsafeError becomes one line and exit status 2.

    A stage's last line is the most memory it held. One that DVC runs ends with DVC: it would be run twice at once.
    """
    if "DVC_STAGE" in os.environ:
        end_with_parent()
    try:
        main(**vars(parser.parse_args(argv)))
    except NearsafeError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    spec = sys.modules["__main__"].__spec__
    if spec is not None and spec.name.startswith("stages.") and (peak := peak_memory()) is not None:
        print(f"{spec.name.removeprefix('stages.')}: peak memory {peak:.0f} MiB", flush=True)


def peak_memory() -> float | None:
    """Most resident memory (MiB) that this process, or one it has waited for, held so far; None where it is unknown."""
    if sys.platform == "win32":
        return None
    import resource

    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return most / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, KiB elsewhere
