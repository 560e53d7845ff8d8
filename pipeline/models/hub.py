"""Model folders that came from a hub: where they lie, what was fetched, and whether they still are that.

A hub id is written as the folder `hub/<org>/<name>`. `nearsafe fetch` (pipeline/fetching.py) fills it and leaves
`nearsafe.json` in it; everything here is offline.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import NearsafeError

ROOT = "hub"
RECORD = "nearsafe.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DEPTH = 3  # a model inside a fetched folder: hub/<org>/<name>/<part>/<part>


@dataclass(frozen=True)
class Record:
    """What `nearsafe fetch` got: hub id, commit, and (size in bytes, SHA-256) of every file by its path in `folder`."""

    folder: Path
    id: str
    revision: str
    files: Mapping[str, tuple[int, str]]


def hub_id(folder: Path) -> str | None:
    """`org/name` of a folder hub/<org>/<name>, or of one inside it; None for any other folder."""
    folder = Path(folder)
    if folder.is_absolute() and folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    parts = folder.parts
    return "/".join(parts[1:3]) if len(parts) >= 3 and parts[0] == ROOT and ".." not in parts else None


def missing(folder: Path) -> str:
    """What to say of a model folder that is not there, with the command that gets it."""
    if name := hub_id(folder):
        return f"{folder}: no such model folder: `nearsafe fetch` gets {name} (its commit is pinned in section `hub`)"
    return (
        f"{folder}: no such model folder: put a transformers or diffusers folder there, or set it to hub/<org>/<name> "
        "and run `nearsafe fetch`"
    )


def no_weights(folder: Path) -> str:
    """What to say of a model folder without any .safetensors file."""
    return f"{folder}: not a model folder: it holds no .safetensors file"


def is_commit(revision: Any) -> bool:
    """Is it a full commit, 40 hexadecimal digits? A branch or a tag moves, and is no pin."""
    return isinstance(revision, str) and bool(_COMMIT.fullmatch(revision))


def find_record(folder: Path) -> Record | None:
    """The record of a fetched folder, or of the one that `folder` is a part of; None where there is none.

    Raises NearsafeError for a record that cannot be read.
    """
    folder = Path(folder)
    for place in (folder, *list(folder.parents)[:_DEPTH]):
        if (place / RECORD).is_file():
            return _read(place)
    return None


def _read(folder: Path) -> Record:
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files = {str(name): (int(fact["size"]), str(fact["sha256"])) for name, fact in found["files"].items()}
        return Record(folder, str(found["id"]), str(found["revision"]), files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NearsafeError(f"{folder / RECORD}: not a record of `nearsafe fetch`: {error}") from error


def write_record(record: Record) -> None:
    """Write `record.folder`/nearsafe.json."""
    files = {name: {"size": size, "sha256": digest} for name, (size, digest) in sorted(record.files.items())}
    text = json.dumps({"id": record.id, "revision": record.revision, "files": files}, indent=1)
    (record.folder / RECORD).write_text(text + "\n", encoding="utf-8")


def verify(folder: Path, revision: str | None = None) -> Record | None:
    """Compare every file of a fetched folder with its record; None for a folder that was not fetched.

    Raises NearsafeError naming the first file that is changed or gone, and for another revision than `revision`.
    """
    record = find_record(folder)
    if record is None:
        return None
    check_revision(record, revision)
    check(record, {name: sha256(record.folder / name) for name in record.files if (record.folder / name).is_file()})
    return record


def check_revision(record: Record, revision: str | None) -> None:
    """Raises NearsafeError where the folder is of another revision than the pin."""
    if revision is not None and record.revision != revision:
        raise NearsafeError(
            f"{record.folder / RECORD}: the folder is of revision {record.revision}, the pin of {record.id} is "
            f"{revision}: `nearsafe fetch` gets that one"
        )


def check(record: Record, sums: Mapping[str, str], part: str = "") -> None:
    """Compare SHA-256 sums by path, of the files below `part`. Raises NearsafeError naming the first that differs."""
    for name in sorted({*sums, *(name for name in record.files if name.startswith(part))}):
        known, found = record.files.get(name), sums.get(name)
        if known is None or found != known[1]:
            what = "is gone" if found is None else "was not fetched" if known is None else "is not the file fetched"
            raise NearsafeError(
                f"{record.folder / name}: {what} from {record.id} at {record.revision[:12]}: remove the folder and run "
                "`nearsafe fetch`, or copy it out of hub/ to change it"
            )


def sha256(file: Path, block: int = 1 << 20) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with Path(file).open("rb") as stream:
        while data := stream.read(block):
            digest.update(data)
    return digest.hexdigest()
