"""What an output directory under way holds, by hash: a later run keeps a finished file only if not a bit changed."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.files import replacing, writing
from pipeline.layout import MANIFEST

JOURNAL = ".written.jsonl"
"""One line for each finished file, as the manifest will list it; gone when the manifest is there."""


def file_hash(path: Path, chunk: int = 1 << 20) -> str:
    """SHA-256 of a file, 64 hexadecimal digits. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(chunk):
            digest.update(block)
    return digest.hexdigest()


class Written:
    """The journal of a directory, and what an earlier run noted there (or in its manifest, where that run finished)."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / JOURNAL
        self.before = _read(folder / MANIFEST) or _read(self.file)
        if self.before:  # before the manifest goes: a run stopped right here loses nothing
            with replacing(self.file) as temporary:
                temporary.write_text("".join(map(_line, self.before.values())), encoding="utf-8")
        else:
            self.file.unlink(missing_ok=True)

    def add(self, entries: Iterable[dict[str, Any]]) -> None:
        """Note finished files: `name` and `sha256`, and what else the manifest says of them."""
        with writing(self.file), self.file.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, entries)))

    def same(self, entry: dict[str, Any]) -> bool:
        """Was the file noted by an earlier run with this very hash?"""
        return self.before.get(entry["name"], {}).get("sha256") == entry["sha256"]


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, sort_keys=True) + "\n"


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """Entries by name. What cannot be read counts as not there: those files are made again."""
    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text)["files"] if file.name == MANIFEST else map(_entry, text.splitlines())
        return {entry["name"]: entry for entry in found if entry}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _entry(line: str) -> dict[str, Any] | None:
    """A line of the journal; None for one that a stopped run left half written."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and {"name", "sha256"} <= entry.keys() else None
