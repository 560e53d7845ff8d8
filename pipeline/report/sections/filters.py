"""What was left out and what failed: filters by stage, images and replies without a verdict."""

from pipeline.report.blocks import Block, Cell, Column, Missing, Row, Source, Table, Text
from pipeline.report.run import Run

# Every defence's stage filters the same prompts: equal counts are one row.
_FILTERS = """
    FROM (SELECT stage, set, filter, version, n_before, n_dropped, n_after, count(*) AS outputs FROM filters GROUP BY ALL)
    ORDER BY n_dropped = 0, stage, set, n_before DESC, filter"""
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
    rows = run.rows(_FILTERS)
    if not rows:
        return [Missing("No stage has counted what its filters drop yet.", "dvc repro prompts")]
    heads = ("stage", "set", "filter", "version", "before", "dropped", "after", "outputs")
    columns = [Column(head, numeric=number > 3) for number, head in enumerate(heads)]
    body = [
        Row([Cell(str(v), sort=v if isinstance(v, int) else "", tone="some" if k == "n_dropped" and v else "")
             for k, v in row.items()]) for row in rows
    ]  # fmt: skip
    commands = ('nearsafe query "SELECT * FROM filters"', "dvc repro prompts")
    reading = (
        "Rows that a filter dropped, by stage and set; the age-word filter cannot be switched off. Outputs: how many "
        "outputs (models) count the same."
    )
    return [Table("Filters", columns, body, Source("filters", rows, commands), reading)]


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
    reading = "An item that failed is never counted as safe: it is left out of n, and here."
    return [Table("Errors", columns, body, Source("errors", rows, ("dvc repro score",)), reading)]
