"""Shards of all tables, written a segment at a time; an interrupted run goes on after its last whole segment.

A segment ends when a table has `shard_rows` rows, or when the images in memory are large. Its shards are written first,
then the index of ids, then the state: what a crash leaves of an unfinished segment is written again.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import NearsafeError
from pipeline.files import replacing
from pipeline.layout import shard_file
from pipeline.sources.convert import FILES
from pipeline.sources.seen import Seen
from pipeline.tables import Output

TABLES = ("captions", "images", "pairs", "classes", "labels", "prompts", "origins")
REQUIRED = TABLES[:-1]
"""Tables that later stages read: a shard without rows is written where the sources have none."""
_RESUME = ".resume"
_STATE, _INDEX = "state.json", "seen.sqlite"
_DIGEST = "images.sha256"
_IMAGE_BYTES = 64 << 20


class Segments:
    """Buffers of rows for each table, and the state of the run beside the output."""

    def __init__(self, out: Path, spec: dict[str, Any], inputs: str, shard_rows: int) -> None:
        """`inputs` is a hash of the user's files and of the code: where it differs, the run begins anew."""
        folder = out / _RESUME
        self._file, self._limit = folder / _STATE, shard_rows
        self.state = _read_state(self._file, inputs) or {}
        self.output = Output(out, spec, resume=bool(self.state))
        # The output was emptied where its own specification differs; a shard may have been lost or damaged, too.
        if not (self.state and self._file.exists() and self._finished(self.state["shards"]) and self._open(folder)):
            self.output = Output(out, spec)
            shards = dict.fromkeys(TABLES, 0)
            self.state = {"inputs": inputs, "segments": 0, "shards": shards, "files": "", "entries": {}}
            self._open(folder)
        self._clear()

    def add(self, rows: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Take up the rows of one record."""
        for table, row in rows:
            if table == FILES:
                self._files = hashlib.sha256(f"{self._files}{row['image_id']}{row['sha256']}".encode()).hexdigest()
                continue
            self._rows[table].append(row)
            if table == "images":
                self._bytes += len(row["image"]["bytes"] or b"")

    @property
    def full(self) -> bool:
        """Is it time for `commit`?"""
        return self._bytes >= _IMAGE_BYTES or any(len(rows) >= self._limit for rows in self._rows.values())

    def commit(self, entry: str, progress: dict[str, Any]) -> None:
        """Write the segment, and with it how far `entry` has come."""
        shards = self.state["shards"]
        for table, rows in self._rows.items():
            if rows:
                self.output.write(shard_file(table, shards[table]), table, rows)
                shards[table] += 1
        self.seen.commit()
        self.state["segments"] += 1
        self.state["files"] = self._files
        self.state["entries"][entry] = progress
        with replacing(self._file) as temporary:
            temporary.write_text(json.dumps(self.state), encoding="utf-8")
        self._clear()

    def finish(self) -> None:
        """Write the tables that have no row, remove the state (its index is closed), and write the manifest.

        Where images stayed files, `images.sha256` stands for their bytes: one hash over the ids and the SHA-256 of all,
        in the order of the tables. So a file that is replaced under its name changes the output and all made of it.
        """
        for table in REQUIRED:
            if not self.state["shards"][table]:
                self.output.write(shard_file(table, 0), table, [])
        if self.state["files"]:
            (self.output.path / _DIGEST).write_text(f"{self.state['files']}\n", encoding="utf-8")
            self.output.add_file(_DIGEST)
        self.output.finish()

    def _open(self, folder: Path) -> bool:
        """Open the index of ids; False where that of an interrupted run is gone or damaged."""
        if self.state["segments"] and not (folder / _INDEX).is_file():
            return False
        try:
            self.seen = Seen(folder / _INDEX, self.state["segments"])
        except sqlite3.DatabaseError:
            return False
        return True

    def _finished(self, shards: dict[str, int]) -> bool:
        return all(self.output.done(shard_file(table, n)) for table, count in shards.items() for n in range(count))

    def _clear(self) -> None:
        self._rows: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
        self._bytes = 0
        self._files: str = self.state["files"]


def fingerprint(root: Path, out: Path, code: str) -> str:
    """A hash of the names, sizes and times of all files below `root` (those of `out` left out), and of `code`.

    Links to files and folders are followed. It never leaves the state file. Raises NearsafeError for a link that leads
    nowhere.
    """
    digest = hashlib.sha256(code.encode())
    for path in _walk(str(root), {os.path.realpath(root), os.path.realpath(out)}):
        try:
            found = os.stat(path)
        except OSError as error:
            raise NearsafeError(_unreadable(path, error)) from None
        # The time of the last change of any kind, too: a file may be replaced by one that brings its own time along.
        facts = f"\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}\n"
        digest.update(os.fsencode(path) + facts.encode())
    return digest.hexdigest()


def _walk(root: str, known: set[str]) -> Iterator[str]:
    """Paths of all files below `root`, in order of names; no folder twice, and none of `known`, by their real paths.

    Raises NearsafeError for a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise NearsafeError(_unreadable(str(error.filename), error))

    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        kept = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(folder, name))
            if name != "__pycache__" and real not in known:
                known.add(real)
                kept.append(name)
        folders[:] = kept
        yield from (os.path.join(folder, name) for name in sorted(files))


def _unreadable(path: str, error: OSError) -> str:
    if os.path.islink(path):
        return f"{path}: a link to {os.readlink(path)}, which cannot be read ({error.strerror}): mend or remove it"
    return f"{path}: cannot be read: {error.strerror}"


def _read_state(path: Path, inputs: str) -> dict[str, Any] | None:
    """The state of an interrupted run of the same files and code, if it is whole."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        whole = set(state["shards"]) == set(TABLES) and isinstance(state["entries"], dict)
        counts = all(type(count) is int for count in (state["segments"], *state["shards"].values()))
        return state if state["inputs"] == inputs and whole and counts and isinstance(state["files"], str) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
