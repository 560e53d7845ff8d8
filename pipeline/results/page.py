"""A page that people write and a program fills: tables between markers are rewritten, everything else is left alone.

<!-- table: NAME -->
... rewritten ...
<!-- end -->
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from pipeline.errors import NearsafeError
from pipeline.results.summary import write_text

_START = re.compile(r"<!-- table: (\S+) -->")
_END = "<!-- end -->"


def fill(page: str, tables: Mapping[str, str], known: Collection[str], where: str) -> str:
    """`page` with the block of every name in `tables` replaced; blocks of other `known` names stay as they are.

    `where` opens every error. Raises NearsafeError naming the line of a marker that is unknown, opened twice, never
    closed, or closed without having been opened.
    """
    kept: list[str] = []
    name, opened, seen = None, 0, set()
    for number, line in enumerate(page.splitlines(keepends=True), 1):
        mark = line.strip()
        start = _START.fullmatch(mark)
        if start and name is not None:
            raise NearsafeError(f"{where}, line {opened}: table {name!r} is not closed before the next, line {number}")
        if mark == _END and name is None:
            raise NearsafeError(f"{where}, line {number}: {_END} without a table that it closes")
        if start:
            name, opened = start[1], number
            if name not in known:
                raise NearsafeError(
                    f"{where}, line {number}: unknown table {name!r}; known: {', '.join(sorted(known))}"
                )
            if name in seen:
                raise NearsafeError(f"{where}, line {number}: table {name!r} stands there twice")
            seen.add(name)
            kept.append(line)
            if name in tables:
                kept.append(f"\n{tables[name].strip()}\n\n")
        elif mark == _END:
            name = None
            kept.append(line)
        elif name is None or name not in tables:
            kept.append(line)
    if name is not None:
        raise NearsafeError(f"{where}, line {opened}: table {name!r} is never closed; end it with {_END}")
    return "".join(kept)


def fill_file(path: Path, tables: Mapping[str, str], known: Collection[str]) -> list[str]:
    """Fill a page on disk, atomically; return the names of `tables` that it has no place for. Raises NearsafeError."""
    try:
        page = path.read_text(encoding="utf-8")
    except OSError as error:
        raise NearsafeError(f"{path}: cannot be read: {error.strerror or error}") from error
    filled = fill(page, tables, known, str(path))
    if filled != page:
        write_text(path, filled)
    return [name for name in tables if f"<!-- table: {name} -->" not in page]
