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
    images: Images = field(default_factory=Images)

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[dict[str, Any]]:
        """The answer of one SELECT as rows, those with a defence in the order of the run's defences."""
        found = self.database.execute(sql, list(parameters)).to_arrow_table().to_pylist()
        if found and "defence" in found[0]:
            found.sort(key=lambda row: self.place(row["defence"]))  # stable: the order of the SQL stays within
        return found

    def holds(self, table: str) -> bool:
        """Whether a table or view is known and has a row."""
        known = self.database.execute("SELECT 1 FROM duckdb_views() WHERE view_name = ?", [table]).fetchone()
        return bool(known and self.database.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone())

    def place(self, defence: str) -> int:
        """Where a defence stands in the run's order; unknown ones stand behind."""
        return self.defences.index(defence) if defence in self.defences else len(self.defences)

    def tone(self, defence: str) -> str:
        """The class of style.css that colours a defence everywhere on the page."""
        return tone(defence, self.defences)


def open_run(data: Path, results: Path, defences: Sequence[str], show_flagged: bool = False) -> Run:
    """The finished run below `data`. Raises NearsafeError where nothing is finished."""
    return Run(connect(data, defences), Data(data), Results(results), list(defences), show_flagged)


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
