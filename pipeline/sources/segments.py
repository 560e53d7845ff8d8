"""Shards of all tables, written a segment at a time; an interrupted run goes on after its last whole segment.

A segment ends when a table has `shard_rows` rows, or when the images in memory are large. Its shards are written first,
then the index of ids, then the state: what a crash leaves of an unfinished segment is written again.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.files import replacing
from pipeline.layout import shard_file
from pipeline.sources.seen import Seen
from pipeline.tables import Output

TABLES = ("captions", "images", "pairs", "classes", "labels", "prompts", "origins")
REQUIRED = TABLES[:-1]
"""Tables that later stages read: a shard without rows is written where the sources have none."""
_RESUME = ".resume"
_STATE, _INDEX = "state.json", "seen.sqlite"
_IMAGE_BYTES = 64 << 20


class Segments:
    """Buffers of rows for each table, and the state of the run beside the output."""

    def __init__(self, out: Path, spec: dict[str, Any], inputs: str, shard_rows: int) -> None:
        """`inputs` is a hash of the user's files and of the code: where it differs, the run begins anew."""
        folder = out / _RESUME
        state = _read_state(folder / _STATE, inputs)
        self.output = Output(out, spec, resume=state is not None)
        # The output was emptied where its own specification differs; a shard may have been lost or damaged, too.
        if state is None or not (folder / _STATE).exists() or not self._finished(state["shards"]):
            self.output = Output(out, spec)
            state = {"inputs": inputs, "segments": 0, "shards": dict.fromkeys(TABLES, 0), "entries": {}}
        self.state = state
        self.seen = Seen(folder / _INDEX, state["segments"])
        self._file, self._limit = folder / _STATE, shard_rows
        self._clear()

    def add(self, rows: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Take up the rows of one record."""
        for table, row in rows:
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
        self.state["entries"][entry] = progress
        with replacing(self._file) as temporary:
            temporary.write_text(json.dumps(self.state), encoding="utf-8")
        self._clear()

    def finish(self) -> None:
        """Write the tables that have no row, remove the state (its index is closed), and write the manifest."""
        for table in REQUIRED:
            if not self.state["shards"][table]:
                self.output.write(shard_file(table, 0), table, [])
        self.output.finish()

    def _finished(self, shards: dict[str, int]) -> bool:
        return all(self.output.done(shard_file(table, n)) for table, count in shards.items() for n in range(count))

    def _clear(self) -> None:
        self._rows: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
        self._bytes = 0


def fingerprint(root: Path, out: Path, code: str) -> str:
    """A hash of the names, sizes and times of all files below `root` (those of `out` left out), and of `code`.

    It never leaves the state file.
    """
    own = os.path.realpath(out)
    digest = hashlib.sha256(code.encode())
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(n for n in folders if n != "__pycache__" and os.path.realpath(f"{folder}/{n}") != own)
        for name in sorted(files):
            found = os.stat(os.path.join(folder, name))
            digest.update(f"{folder}\0{name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _read_state(path: Path, inputs: str) -> dict[str, Any] | None:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) and state.get("inputs") == inputs else None
