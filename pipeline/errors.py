"""Errors a user sees, and how a command line reports them."""

import argparse
import sys
from collections.abc import Callable, Sequence


class NearsafeError(Exception):
    """Base of every error that is the user's to mend: its message is complete, a traceback adds nothing."""


class TableError(NearsafeError):
    """A table does not keep its contract. The message names the file, and the column and row where they exist."""


def run(main: Callable[..., None], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> None:
    """Parse the command line and call `main` with it; a NearsafeError becomes one line and exit status 2."""
    try:
        main(**vars(parser.parse_args(argv)))
    except NearsafeError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
