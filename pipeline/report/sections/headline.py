"""The headline tables: those of results/table.md, with a bar for every interval and the provenance of every column."""

from collections.abc import Sequence
from typing import Any

from pipeline.report.blocks import Block, Cell, Column, Interval, Missing, Row, Source, Table
from pipeline.report.run import UNDEFENDED, Run, label
from pipeline.report.sections.heat import heat
from pipeline.results.report import MISSING, SECTIONS, Section, facts, shared_counts
from pipeline.results.report import Column as Number

LOWER_IS_BETTER = frozenset(
    {
        "asr", "drift_text", "drift_vision", "false_positive_rate", "frechet_distance", "unsafe_replies",
        "unsafe_replies_real", "unsafe_replies_safe",
    }
)  # fmt: skip
_SHADED = (
    "Shaded: the best defended model of a column, and those whose interval overlaps its. The undefended model is not "
    "in this race."
)
Numbers = dict[tuple[str, int, str], dict[str, Any]]


def build(run: Run) -> list[Block]:
    """A table per section of the results table, of the numbers that exist."""
    rows = run.rows("SELECT * FROM headline ORDER BY seed, name")
    numbers = {(row["defence"], row["seed"], row["name"]): row for row in rows if row["value"] is not None}
    runs = list(dict.fromkeys((row["defence"], row["seed"]) for row in rows))
    tables: list[Block] = []
    for section in SECTIONS:
        shown = [column for column in section.columns if any(column.name == key[2] for key in numbers)]
        if shown:
            tables.append(_table(run, section, shown, runs, numbers))
    if not tables:
        return [Missing("No model has been scored yet.", "dvc repro score")]
    return [*tables, *_zero_shot(run)]


def span(row: dict[str, Any], digits: int = 3) -> str:
    """Value and 95 % interval of a number as text."""
    text = f"{row['value']:.{digits}f}"
    if row["ci_low"] is not None and row["ci_high"] is not None:
        text += f" [{row['ci_low']:.{digits}f}, {row['ci_high']:.{digits}f}]"
    return text


def _table(
    run: Run, section: Section, columns: Sequence[Number], runs: Sequence[tuple[str, int]], numbers: Numbers
) -> Table:
    seeds = sorted({seed for _, seed in runs})
    shared = shared_counts(columns, numbers)
    leading = {column.name: _leading(column.name, numbers) for column in columns}
    scales = {column.name: _scale(column.name, numbers) for column in columns}
    body = []
    for defence, seed in runs:
        cells = [Cell(label(defence, seed, seeds))]
        for column in columns:
            row = numbers.get((defence, seed, column.name))
            tone = "good" if (defence, seed) in leading[column.name] else ""
            cells.append(_cell(row, column.digits, shared[column.name] is None, scales[column.name], tone))
        body.append(Row(cells, defence))
    header = [Column("defence", numeric=False)]
    header += [
        Column(c.header, _direction(c.name) + (f", n={shared[c.name]}" if shared[c.name] else "")) for c in columns
    ]
    names = {column.name for column in columns}
    rows = [row for key, row in numbers.items() if key[2] in names]
    behind = {
        column.header: dict.fromkeys(facts(row) for key, row in numbers.items() if key[2] == column.name)
        for column in columns
    }
    notes = [f"{title}: {' / '.join(found)}" for title, found in behind.items()]
    name = "headline_" + "_".join(section.title.lower().replace(":", "").split()[:6])
    reading = f"{section.reading} {_SHADED}" if any(leading.values()) else section.reading
    return Table(
        section.title, header, body, Source(name, rows, (run.query("headline"), "dvc repro results")), reading, notes
    )


def _cell(row: dict[str, Any] | None, digits: int, with_n: bool, scale: float, tone: str) -> Cell:
    if row is None:
        return Cell(MISSING)
    low, value, high = row["ci_low"], row["value"], row["ci_high"]
    if low is None or high is None:
        return Cell(f"{value:.{digits}f}", f"n={row['n']}" if with_n else "", value, tone)
    note = f"{low:.{digits}f} – {high:.{digits}f}" + (f", n={row['n']}" if with_n else "")
    places = [min(1.0, max(0.0, x / scale)) for x in (low, value, high)]
    return Cell(f"{value:.{digits}f}", note, value, tone, Interval(*places))


def _direction(name: str) -> str:
    return "lower is better" if name in LOWER_IS_BETTER else "higher is better"


def _scale(name: str, numbers: Numbers) -> float:
    """What the right end of a column's bars means: 1 for shares, else the largest end of an interval."""
    ends = [row["ci_high"] or row["value"] for key, row in numbers.items() if key[2] == name]
    return max([1.0, *ends])


def _leading(name: str, numbers: Numbers) -> set[tuple[str, int]]:
    """The best defended model by a number, and those not apart from it; none where there is no one to compare with."""
    own = {key[:2]: row for key, row in numbers.items() if key[2] == name and key[0] != UNDEFENDED}
    if len(own) < 2:
        return set()
    sign = -1 if name in LOWER_IS_BETTER else 1
    best = max(own.values(), key=lambda row: sign * row["value"])
    return {key for key, row in own.items() if not apart(row, best)}


def apart(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two numbers' intervals do not overlap; without intervals, whether they differ."""
    ends = [one["ci_low"], one["ci_high"], other["ci_low"], other["ci_high"]]
    if any(end is None for end in ends):
        return one["value"] != other["value"]
    return one["ci_low"] > other["ci_high"] or other["ci_low"] > one["ci_high"]


def _zero_shot(run: Run) -> list[Block]:
    """Accuracy per task: where the mean comes from."""
    tables: list[Block] = []
    for shift in ("base", "shifted"):
        rows = run.rows("SELECT * FROM zero_shot WHERE shift = ? ORDER BY task = 'mean' DESC, task, seed", [shift])
        if rows:
            style = "the drawing style that tuning saw" if shift == "base" else "a style that no tuning saw"
            found = [{**row, "value": row["accuracy"], "column": row["task"]} for row in rows]
            reading = f"Accuracy in {style}; mean is over the attribute tasks, hazards left out. Higher is better."
            source = Source(f"zero_shot_{shift}", rows, (run.query("zero_shot"), "dvc repro results"))
            tables.append(heat(run, f"Zero-shot per task: {shift}", found, source, reading, warmth="cool"))
    return tables
