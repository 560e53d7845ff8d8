"""What was left out and what failed: filters by stage, images and replies without a verdict."""

from collections.abc import Sequence
from typing import Any

from pipeline.report.blocks import Block, Cell, Column, Missing, Row, Source, Table, Text
from pipeline.report.run import Run

_FILTERS = "SELECT * FROM filters_and_drops ORDER BY stage, set, n_before DESC, filter"
_HEADS = ("stage", "set", "filter", "version", "before", "dropped", "after", "outputs")
_ERRORS = """
    SELECT 'image' AS what, defence, seed, prompt_set AS set, error, count(*) AS items
    FROM generations WHERE status <> 'ok' GROUP BY ALL
    UNION ALL
    SELECT 'verdict of ' || detector, defence, seed, prompt_set, error, count(DISTINCT item_id)
    FROM detections WHERE status <> 'ok' GROUP BY ALL
    UNION ALL
    SELECT 'reply', defence, seed, image_set, error, count(*) FROM replies WHERE status <> 'ok' GROUP BY ALL
    ORDER BY what, defence, seed, set"""


def build(run: Run) -> list[Block]:
    """Two tables: filters, and items that failed."""
    return [*_filters(run), *_errors(run)]


def _filters(run: Run) -> list[Block]:
    rows = [row | {"outputs": _outputs(row["outputs"], run.defences)} for row in run.rows(_FILTERS)]
    if not rows:
        return [Missing("No stage has counted what its filters drop yet.", "dvc repro prompts")]
    reading = "Rows that a filter dropped, by stage and set. Outputs that count the same share a line."
    dropped = _table(run, "Filters that dropped something", [row for row in rows if row["n_dropped"]], reading, False)
    reading = "They ran, and found nothing to drop; the age-word filter cannot be switched off."
    return [
        dropped,
        _table(run, "Filters that dropped nothing", [r for r in rows if not r["n_dropped"]], reading, True),
    ]


def _table(run: Run, title: str, rows: list[dict[str, Any]], reading: str, folded: bool) -> Table:
    columns = [Column(head, numeric=head in ("before", "dropped", "after")) for head in _HEADS]
    body = [
        Row(
            [
                Cell(str(value), sort=value if isinstance(value, int) else None, tone=_tone(key))
                for key, value in row.items()
            ]
        )
        for row in rows
    ]
    source = Source("filters" if folded else "drops", rows, (run.query("filters_and_drops"), "dvc repro prompts"))
    return Table(title, columns, body, source, reading, folded=folded)


def _outputs(listed: str, defences: Sequence[str]) -> str:
    """A line for all defences says so instead of naming each."""
    names = listed.split(", ")
    folder = names[0].partition("/")[0]
    everyone = len(defences) > 1 and set(names) == {f"{folder}/{defence}" for defence in defences}
    return f"{folder}: all {len(defences)} defences" if everyone else listed


def _tone(column: str) -> str:
    return "code" if column == "outputs" else ""


def _errors(run: Run) -> list[Block]:
    rows = run.rows(_ERRORS)
    if not rows:
        return [Text("Errors: none. Every image was generated, judged by every detector, and every question answered.")]
    heads = ("what failed", "defence", "seed", "set", "reason", "items")
    columns = [Column(head, numeric=head in ("seed", "items")) for head in heads]
    body = [
        Row([Cell(str(v), sort=v if isinstance(v, int) else None) for v in row.values()], row["defence"])
        for row in rows
    ]
    reading = "An item that failed is never counted as safe: it is in n, and a share's interval spans both answers."
    return [Table("Errors", columns, body, Source("errors", rows, ("dvc repro score",)), reading)]
