"""Which ids and families a run has met: an index on disk, so that memory stays the same for any number of rows."""

import sqlite3
from pathlib import Path

from pipeline.files import writing

_TABLES = """
CREATE TABLE IF NOT EXISTS ids (id TEXT PRIMARY KEY, segment INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS families (family TEXT PRIMARY KEY, split TEXT, segment INTEGER) WITHOUT ROWID;
"""


class Seen:
    """Ids and families with the segment that brought them: what an unfinished segment brought can be undone."""

    def __init__(self, path: Path, segments: int) -> None:
        """Open or make the index; what came after the first `segments` segments is forgotten.

        Raises sqlite3.DatabaseError for one that is damaged, NearsafeError for a disk that does not take it.
        """
        self._path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path)
            # A crash loses no more than the run since the last segment, which is done again anyway.
            self._base.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {_TABLES}")
            if segments and self._base.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("the index is damaged")
            for table in ("ids", "families"):
                self._base.execute(f"DELETE FROM {table} WHERE segment >= ?", (segments,))
            self._base.commit()
        self.segment = segments

    def add(self, item: str) -> bool:
        """Note an id; False where it was known."""
        with writing(self._path):
            return self._base.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (item, self.segment)).rowcount > 0

    def has(self, item: str) -> bool:
        """Is this id known?"""
        return self._base.execute("SELECT 1 FROM ids WHERE id = ?", (item,)).fetchone() is not None

    def split_of(self, family: str, split: str) -> str:
        """The split of a family: the first that asked for it."""
        with writing(self._path):
            self._base.execute("INSERT OR IGNORE INTO families VALUES (?, ?, ?)", (family, split, self.segment))
        return self._base.execute("SELECT split FROM families WHERE family = ?", (family,)).fetchone()[0]

    def commit(self) -> None:
        """The segment is on disk; what follows belongs to the next."""
        with writing(self._path):
            self._base.commit()
        self.segment += 1

    def close(self) -> None:
        """Close the file, so that it can be removed."""
        self._base.close()
