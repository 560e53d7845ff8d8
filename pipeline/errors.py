"""Errors a user sees, and how a command line reports them."""

import argparse
import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

_FULL = {
    errno.ENOSPC: "the disk is full: make room and run it again",
    errno.EDQUOT: "the disk quota is used up: make room and run it again",
    errno.EFBIG: "a file may not become that large here: raise the limit (ulimit -f) and run it again",
    errno.EROFS: "the file system is read-only: make it writable, or choose another place",
}
_REFUSED = {  # these may come from reading, too
    errno.EACCES: "permission denied: make it writable, or choose another place",
    errno.EPERM: "not permitted: make it writable, or choose another place",
    errno.EIO: "the disk is full or damaged: make room and run it again",
}
# How safetensors, SQLite and DuckDB tell what is no OSError.
_TOLD = {"disk is full": errno.ENOSPC, "disk I/O error": errno.EIO, "readonly database": errno.EROFS}
_NUMBER = re.compile(r"(?:os error |Os { code: )(\d+)")


def printable(text: str) -> str:
    """`text` on one line: line ends, control characters and what is no Unicode, as a file's name may have, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class NearsafeError(Exception):
    """Base of every error that is the user's to mend: its message is complete, a traceback adds nothing."""

    def __str__(self) -> str:
        """The message on one line, whatever a file's name or text in it may hold."""
        return printable(super().__str__())


class TableError(NearsafeError):
    """A table does not keep its contract. The message names the file, and the column and row where they exist."""


def reason(error: Exception) -> str:
    """Why a file cannot be read: the first line of a library's message, or what kind of error it is."""
    said = str(error).splitlines()
    return said[0] if said and said[0] else type(error).__name__


def disk_error(error: Exception, path: Path | str | None, wrote: bool = True) -> NearsafeError | None:
    """What keeps a disk from taking `path` (full, read-only, no permission), in one line; None for any other error.

    Knows the errors of Python, Arrow, safetensors, SQLite and DuckDB. With `wrote` false the error may come from
    anything: then only what cannot come from reading counts, and the file that `error` names, if any, is named.
    """
    text, number = str(error), error.errno if isinstance(error, OSError) else None
    if number is None and (found := _NUMBER.search(text)):
        number = int(found[1])
    if number is None:
        told = _TOLD | {os.strerror(code): code for code in (*_FULL, *_REFUSED)}
        number = next((code for words, code in told.items() if words in text), None)
    reasons = _FULL | _REFUSED if wrote else _FULL
    if number not in reasons:
        return None
    place = path if wrote else getattr(error, "filename", None) or path or "a file"
    return NearsafeError(f"{place}: cannot be written: {reasons[number]}")


def run(main: Callable[..., None], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> None:
    """Parse the command line and call `main` with it; a NearsafeError becomes one line and exit status 2.

    So does a disk that cannot be written. A stage's last line is the most memory it held. A stage that DVC started
    ends with DVC: `pipeline.following`.
    """
    from pipeline.following import follow_dvc

    options = vars(parser.parse_args(argv))
    try:
        follow_dvc()
        main(**options)
    except NearsafeError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Exception as error:
        if (told := disk_error(error, options.get("out"), wrote=False)) is None:
            raise
        print(f"error: {printable(str(told))}", file=sys.stderr)
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
