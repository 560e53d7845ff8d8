"""Errors a user sees, and how a command line reports them."""

import argparse
import errno
import sys
from collections.abc import Callable, Sequence


_WRITABLE = "make the place writable, or name another"
_DISK = {
    **dict.fromkeys((errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)), "free some space"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), _WRITABLE),
}


class NearsafeError(Exception):
    """Base of every error that is the user's to mend: its message is complete, a traceback adds nothing."""


class TableError(NearsafeError):
    """A table does not keep its contract. The message names the file, and the column and row where they exist."""


def printable(text: str) -> str:
    """`text` on one line: line ends, control characters and what is no Unicode, as a file's name may have, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def run(main: Callable[..., None], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> None:
    """Parse the command line and call `main` with it; a NearsafeError becomes one line and exit status 2, and so does a
    disk that is full or must not be written to.

    A stage's last line is the most memory it held.
    """
    try:
        main(**vars(parser.parse_args(argv)))
    except NearsafeError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in _DISK:
            raise
        said = f"{error.filename}: {error.strerror}" if error.filename else " ".join(str(error).split())
        print(f"error: {said}; {_DISK[error.errno]}, then run it again", file=sys.stderr)
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
