"""docs/reliability.md from what the fault tests counted; text outside the generated block is kept.

python -m tests.faults.page data/bench/faults.jsonl
"""

import argparse
import html
import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from pipeline.files import replacing

PAGE = Path(__file__).resolve().parents[2] / "docs/reliability.md"
BEGIN, END = "<!-- counted: begin -->", "<!-- counted: end -->"
_NOTES = 4  # different notes of a subject that are shown


def read(log: Path) -> list[dict[str, Any]]:
    """Lines of the log. One that a killed test left half is skipped. Raises FileNotFoundError."""
    rows = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"subject", "tried", "survived"} <= row.keys():
            rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: a row for each subject, by name, with its sums, and one for all."""
    subjects: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        subjects.setdefault(row["subject"], []).append(row)
    lines = ["| subject | tried | survived | note |", "|---|---:|---:|---|"]
    for subject in sorted(subjects):
        found = subjects[subject]
        notes = list(dict.fromkeys(row["note"] for row in found if row.get("note")))
        more = f"; and {len(notes) - _NOTES} more" if len(notes) > _NOTES else ""
        cells = (subject, *_sums(found), "; ".join(notes[:_NOTES]) + more)
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    tried, survived = _sums(rows)
    return [*lines, f"| **all** | **{tried}** | **{survived}** | |"]


def fill(page: str, rows: Sequence[dict[str, Any]], day: date, machine: str) -> str:
    """The page with its generated block anew. Raises ValueError for a page without the two markers."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"expected one {BEGIN} and one {END}")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    block = [f"{day.isoformat()}, {machine}.", "", *table(rows)]
    return f"{before}{BEGIN}\n" + "\n".join(block) + f"\n{END}{after}"


def main(log: Path, page: Path) -> None:
    """Fill the block of `page`."""
    written = datetime.fromtimestamp(log.stat().st_mtime, UTC).date()
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    filled = fill(page.read_text(encoding="utf-8"), read(log), written, machine)
    with replacing(page) as temporary:
        temporary.write_text(filled, encoding="utf-8")


def _sums(rows: Sequence[dict[str, Any]]) -> tuple[int, int]:
    return sum(row["tried"] for row in rows), sum(row["survived"] for row in rows)


def _cell(value: object) -> str:
    return " ".join(html.escape(str(value), quote=False).split()).replace("|", "\\|")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("log", type=Path, nargs="?", default=Path("data/bench/faults.jsonl"))
    arguments.add_argument("--page", type=Path, default=PAGE)
    return arguments


if __name__ == "__main__":
    main(**vars(parser().parse_args()))
