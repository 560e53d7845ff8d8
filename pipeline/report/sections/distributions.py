"""The training pairs and the benchmark: how hard, how close. Drawn as bars and as a field of counts."""

from typing import Any

from pipeline.report.blocks import Block, Figure, Key, Missing, Panel, Source
from pipeline.report.charts import quantitative, spec, svg
from pipeline.report.run import Run

SIZE = (330, 210)
_LEVELS = {"easy": "d3", "medium": "d5", "hard": "d2"}
_BIN = 0.05
_FIELD = f"""
    SELECT floor(given / {_BIN}) * {_BIN} AS given, floor(nearest / {_BIN}) * {_BIN} AS nearest, count(*) AS pairs
    FROM alignment GROUP BY ALL ORDER BY ALL"""
_TIGHT = """
    SELECT split, floor(similarity / 0.025) * 0.025 AS bin, count(*) AS pairs
    FROM pairs WHERE collection = 'nsfwcaps' AND similarity IS NOT NULL GROUP BY ALL ORDER BY ALL"""


def build(run: Run) -> list[Block]:
    """Cosines per difficulty bucket, given against nearest partner, alignment of the benchmark's pairs."""
    return [*_buckets(run), *_field(run), *_benchmark(run)] or [
        Missing("The training pairs have no targets and buckets yet.", "dvc repro mine_pairs bucket_difficulty")
    ]


def _buckets(run: Run) -> list[Block]:
    rows = run.rows("SELECT * FROM bucket_cosines ORDER BY difficulty, target, bin")
    if not rows:
        return []
    ends = (min(row["bin"] for row in rows), max(row["bin"] for row in rows) + _BIN)
    top = max(row["share"] for row in rows)
    panels = []
    for target, title in (("given", "With the given safe caption"), ("nearest", "With the nearest safe caption")):
        own = [{**row, "end": row["bin"] + _BIN, "said": _said(row)} for row in rows if row["target"] == target]
        names = [level for level in _LEVELS if any(row["difficulty"] == level for row in own)]
        colour = {"field": "difficulty", "type": "nominal", "legend": None,
                  "scale": {"domain": names, "range": [f"var(--{_LEVELS[n]})" for n in names]}}  # fmt: skip
        encoding = {"x": quantitative("bin", "cosine in the frozen text space", ends, nice=False),
                    "x2": {"field": "end"},
                    "y": {**quantitative("share", "share of the bucket's pairs", (0, top)), "stack": None},
                    "color": colour,
                    "y2": {"datum": 0}, "description": {"field": "said"}}  # fmt: skip
        bars = {"mark": {"type": "rect", "opacity": 0.22}, "encoding": encoding}  # fmt: skip
        steps = {"x": encoding["x"], "y": encoding["y"], "color": colour}
        outline = {"mark": {"type": "line", "interpolate": "step-after", "aria": False, "strokeWidth": 2},
                   "encoding": steps}  # fmt: skip
        means = {n: _mean([row for row in own if row["difficulty"] == n]) for n in names}
        alt = f"{title}: mean cosine " + ", ".join(f"{name} {mean:.2f}" for name, mean in means.items())
        panels.append(Panel(title, svg(spec([bars, outline], own, SIZE)), alt))
    legend = [Key(level, tone, "■") for level, tone in _LEVELS.items() if any(r["difficulty"] == level for r in rows)]
    commands = (run.query("bucket_cosines"), "dvc repro bucket_difficulty")
    reading = "Cosine of unsafe and safe caption, in bins of 0.05, for the pairs of each bucket."
    return [
        Figure("Difficulty of the training pairs", panels, Source("bucket_cosines", rows, commands), reading, legend)
    ]


def _field(run: Run) -> list[Block]:
    rows = run.rows(_FIELD)
    if not rows:
        return []
    shown = [
        {**row, "given_end": row["given"] + _BIN, "nearest_end": row["nearest"] + _BIN,
         "said": f"given {row['given']:.2f}, nearest {row['nearest']:.2f}: {row['pairs']} pairs"} for row in rows
    ]  # fmt: skip
    low = min(min(row["given"], row["nearest"]) for row in rows)
    ends = (low, 1.0)
    x = {**quantitative("given", "cosine with the given safe caption", ends, nice=False)}
    y = {**quantitative("nearest", "cosine with the nearest safe caption", ends, nice=False)}
    square = {
        "mark": {"type": "rect", "color": "var(--d1)"},
        "encoding": {"x": x, "x2": {"field": "given_end"}, "y": y, "y2": {"field": "nearest_end"},
                     "opacity": {"field": "pairs", "type": "quantitative", "legend": None,
                                 "scale": {"type": "sqrt", "range": [0.3, 1]}},
                     "description": {"field": "said"}},
    }  # fmt: skip
    line = {"mark": {"type": "line", "aria": False, "strokeDash": [4, 4], "opacity": 0.5, "color": "currentColor"},
            "data": {"values": [{"given": low, "nearest": low}, {"given": 1, "nearest": 1}]},
            "encoding": {"x": x, "y": y}}  # fmt: skip
    pairs = run.rows("SELECT pair_id, tightness, difficulty, given, nearest, own_partner FROM alignment")
    own = sum(bool(row["own_partner"]) for row in pairs)
    alt = f"Given against nearest cosine of {len(pairs)} pairs; for {own} the nearest safe caption is the given one."
    commands = (run.query("alignment"), "dvc repro mine_pairs")
    reading = f"Each square counts pairs. Above the dashed line the mined safe caption is closer. {alt}"
    panel = Panel("", svg(spec([square, line], shown, (330, 300))), alt)
    return [Figure("Given against mined partner", [panel], Source("alignment", pairs, commands), reading)]


def _benchmark(run: Run) -> list[Block]:
    rows = run.rows(_TIGHT)
    if not rows:
        return []
    ends = (min(row["bin"] for row in rows), max(row["bin"] for row in rows) + 0.025)
    panels = []
    for split in dict.fromkeys(row["split"] for row in rows):
        own = [{**row, "end": row["bin"] + 0.025, "said": f"{row['bin']:.3f}: {row['pairs']} pairs"}
               for row in rows if row["split"] == split]  # fmt: skip
        bars = {
            "mark": {"type": "rect", "color": "var(--d1)", "opacity": 0.8},
            "encoding": {"x": quantitative("bin", "alignment", ends, nice=False), "x2": {"field": "end"},
                         "y": quantitative("pairs", "pairs", zero=True), "y2": {"datum": 0},
                         "description": {"field": "said"}},
        }  # fmt: skip
        total = sum(row["pairs"] for row in own)
        panels.append(Panel(f"Split {split}, {total} pairs", svg(spec([bars], own, SIZE)), f"{split}: {total} pairs"))
    commands = ("nearsafe query \"SELECT * FROM pairs WHERE collection = 'nsfwcaps'\"", "dvc repro build_nsfwcaps")
    reading = "NSFWCaps: cosine of the unsafe and the safe caption of each quadruple, as the builder measured it."
    return [Figure("Alignment of the benchmark", panels, Source("nsfwcaps_alignment", rows, commands), reading)]


def _said(row: dict[str, Any]) -> str:
    return f"{row['difficulty']}, cosine {row['bin']:.2f} to {row['bin'] + _BIN:.2f}: {row['pairs']} pairs"


def _mean(rows: list[dict[str, Any]]) -> float:
    return sum((row["bin"] + _BIN / 2) * row["share"] for row in rows)
