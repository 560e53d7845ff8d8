"""What sections read: the views over a finished run, its images, its files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from pipeline.layout import Data, Results
from pipeline.report.images import Images
from pipeline.results.database import connect

UNDEFENDED = "original"
TONES = 9  # colours of defences in style.css: d0 is that of the undefended model


@dataclass(frozen=True)
class Run:
    """A finished run. `show_flagged`: images stay as they are."""

    database: duckdb.DuckDBPyConnection
    data: Data
    results: Results
    defences: Sequence[str]
    show_flagged: bool = False
    option: str = ""  # of commands that ask this run again: --data FOLDER, where it is not the default
    images: Images = field(default_factory=Images)

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[dict[str, Any]]:
        """The answer of one SELECT as rows, those with a defence in the order of the run's defences."""
        answer = self.database.execute(sql, list(parameters)).fetchall()
        names = [column[0] for column in self.database.description]
        found = [dict(zip(names, row, strict=True)) for row in answer]
        if found and "defence" in found[0]:
            found.sort(key=lambda row: self.place(row["defence"]))  # stable: the order of the SQL stays within
        return found

    def query(self, view: str) -> str:
        """The command that asks a view of this run."""
        return f'nearsafe query "SELECT * FROM {view}"{self.option}'

    def holds(self, table: str) -> bool:
        """Whether a table or view is known and has a row."""
        known = self.rows("SELECT 1 AS one FROM duckdb_views() WHERE view_name = ?", [table])
        return bool(known and self.rows(f'SELECT 1 AS one FROM "{table}" LIMIT 1'))

    def place(self, defence: str) -> int:
        """Where a defence stands in the run's order; unknown ones stand behind."""
        return self.defences.index(defence) if defence in self.defences else len(self.defences)

    def tone(self, defence: str) -> str:
        """The class of style.css that colours a defence everywhere on the page."""
        return tone(defence, self.defences)


def open_run(data: Path, results: Path, defences: Sequence[str], show_flagged: bool = False) -> Run:
    """The finished run below `data`. Raises NearsafeError where nothing is finished."""
    return Run(connect(data, defences, verify=True), Data(data), Results(results), list(defences), show_flagged)


def tone(defence: str, defences: Sequence[str]) -> str:
    """d0 for the undefended model, d1, d2, ... for the others in their order, again from d1 when they run out."""
    if defence == UNDEFENDED:
        return "d0"
    others = [name for name in defences if name != UNDEFENDED]
    place = others.index(defence) if defence in others else len(others)
    return f"d{1 + place % (TONES - 1)}"


def label(defence: str, seed: int, seeds: Sequence[int]) -> str:
    """How a row names its model: with the training seed where a run has several."""
    return defence if len(seeds) < 2 else f"{defence}, seed {seed}"
