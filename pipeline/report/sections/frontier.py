"""Safety against utility: a panel for each measure of safety, upper right is better in all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.blocks import Block, Cell, Column, Figure, Key, Missing, Panel, Row, Source, Table
from pipeline.report.charts import coloured, png, quantitative, shaped, sign, spec, svg
from pipeline.report.run import Run, label, tone

SIZE = (250, 240)
PAPER = (380, 360)  # of the picture
_SQL = "SELECT * FROM tradeoff ORDER BY seed, gallery"
_UTILITY = "mean zero-shot accuracy"


@dataclass(frozen=True)
class Measure:
    """A measure of safety in the rows of view `tradeoff`: for which gallery, in which columns, better which way."""

    title: str
    axis: str
    gallery: str | None
    value: str
    low: str
    high: str
    n: str
    lower_is_better: bool = False


MEASURES = (
    Measure("Retrieval, tuned gallery", "unsafe queries redirected", "tuned",
            "redirection", "ci_low", "ci_high", "n"),
    Measure("Retrieval, frozen gallery", "unsafe queries redirected", "frozen",
            "redirection", "ci_low", "ci_high", "n"),
    Measure("Generated images", "ASR (axis reversed: up is safer)", None,
            "asr", "asr_ci_low", "asr_ci_high", "asr_n", lower_is_better=True),
)  # fmt: skip


def build(run: Run) -> list[Block]:
    """The panels and, per model, whether another one beats it in both."""
    rows = run.rows(_SQL)
    points = {measure: plotted(rows, measure) for measure in MEASURES}
    panels = [
        Panel(measure.title, svg(chart(own, measure, run.defences, SIZE)), _alt(own, measure))
        for measure, own in points.items()
        if own
    ]
    if not panels:
        return [Missing("No model has both a zero-shot accuracy and a measure of safety yet.", "dvc repro score")]
    commands = (run.query("tradeoff"), "dvc repro results")
    reading = (
        "Redirected: the nearest item is safe. Each point is a model, with its 95 % intervals; up and right is better. "
        "The line joins the models that no other one beats on both axes. A model on the line may still not be apart "
        "from one below it: look at the intervals."
    )
    return [Figure("", panels, Source("tradeoff", rows, commands), reading, legend(run)), _table(run, points)]


def legend(run: Run) -> list[Key]:
    """The run's models with their colours and shapes."""
    return [Key(name, run.tone(name), sign(run.tone(name))) for name in run.defences]


def plotted(rows: Sequence[dict[str, Any]], measure: Measure) -> list[dict[str, Any]]:
    """Points of one panel, with what a reader is told of each; `best`: undominated. Sorted by utility."""
    seeds = sorted({row["seed"] for row in rows})
    found, seen = [], set()
    for row in rows:
        key = (row["defence"], row["seed"])
        wanted = row["gallery"] == measure.gallery if measure.gallery else key not in seen
        if not wanted or row[measure.value] is None or row["zero_shot"] is None:
            continue
        seen.add(key)
        name = label(row["defence"], row["seed"], seeds)
        point = {
            "name": name, "defence": row["defence"], "seed": row["seed"],
            "x": row["zero_shot"], "x_low": row["zero_shot_ci_low"], "x_high": row["zero_shot_ci_high"],
            "y": row[measure.value], "low": row[measure.low], "high": row[measure.high], "n": row[measure.n],
        }  # fmt: skip
        word = "ASR" if measure.lower_is_better else "redirected"
        said = f"{word} {_span(point['y'], point['low'], point['high'])}, zero-shot "
        found.append({**point, "said": f"{name}: {said}{_span(point['x'], point['x_low'], point['x_high'])}"})
    found.sort(key=lambda point: (-point["x"], point["defence"], point["seed"]))
    for point in found:
        point["best"] = not any(_beats(other, point, measure) for other in found)
    return found


def chart(
    points: Sequence[dict[str, Any]], measure: Measure, defences: Sequence[str], size: tuple[int, int], title: str = ""
) -> dict[str, Any]:
    """Vega-Lite specification of one panel."""
    shown = {point["defence"] for point in points}
    names = [name for name in dict.fromkeys([*defences, *sorted(shown)]) if name in shown]
    tones = [tone(name, defences) for name in names]
    ends = [value for point in points for value in (point["x"], point["x_low"], point["x_high"]) if value is not None]
    margin = 0.08 * (max(ends) - min(ends) or 0.1)
    low, high = min(ends) - margin, max(ends) + margin
    x = quantitative("x", _UTILITY, (low, high), nice=False)
    y = quantitative("y", measure.axis, (-0.04, 1.08), reverse=measure.lower_is_better)
    if measure.lower_is_better:
        y["scale"]["domain"] = [-0.08, 1.04]
    colour, shape = coloured("defence", names, tones), shaped("defence", names, tones)
    if title:  # the page has a legend of its own
        colour["legend"] = shape["legend"] = {"title": None, "orient": "bottom", "columns": 6}
    both = {"x": x, "y": y}
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "line", "aria": False, "strokeDash": [5, 4], "opacity": 0.55, "color": "currentColor"},
         "transform": [{"filter": "datum.best"}], "encoding": {**both, "order": {"field": "x"}}},
        {"mark": {"type": "rule", "aria": False, "opacity": 0.7},
         "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": colour}},
        {"mark": {"type": "rule", "aria": False, "opacity": 0.7},
         "encoding": {"y": y, "x": {**x, "field": "x_low"}, "x2": {"field": "x_high"}, "color": colour}},
        {"mark": {"type": "point", "filled": True, "size": 95, "opacity": 1},
         "encoding": {**both, "color": colour, "shape": shape,
                      "description": {"field": "said"}}},
    ]  # fmt: skip
    return spec(layers, points, size, title)


def picture(run: Run) -> bytes:
    """All panels as one PNG on white, for where no page can be shown."""
    rows = run.rows(_SQL)
    panels = [
        chart(own, measure, run.defences, PAPER, measure.title)
        for measure in MEASURES
        if (own := plotted(rows, measure))
    ]
    if not panels:
        empty = {"type": "text", "fontSize": 14, "text": "nothing scored yet"}
        panels = [spec([{"mark": empty}], [{}], PAPER)]
    return png(
        {
            "hconcat": panels,
            "resolve": {"legend": {"color": "shared", "shape": "shared"}},
            "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        }
    )


def _beats(one: dict[str, Any], other: dict[str, Any], measure: Measure) -> bool:
    direction = -1 if measure.lower_is_better else 1
    better = (one["x"] - other["x"], direction * (one["y"] - other["y"]))
    return min(better) >= 0 and max(better) > 0


def _span(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else "")


def _alt(points: Sequence[dict[str, Any]], measure: Measure) -> str:
    best = ", ".join(point["name"] for point in points if point["best"])
    return f"{measure.title} against {_UTILITY}, {len(points)} models. Not beaten on both axes: {best}."


def _table(run: Run, points: dict[Measure, list[dict[str, Any]]]) -> Table:
    """A row per model, a column per panel."""
    names = dict.fromkeys((point["name"], point["defence"]) for own in points.values() for point in own)
    shown = [measure for measure, own in points.items() if own]
    body = []
    for name, defence in sorted(names, key=lambda one: (run.place(one[1]), one[0])):
        cells = [Cell(name)]
        for measure in shown:
            own = [point for point in points[measure] if point["name"] == name]
            best = bool(own and own[0]["best"])
            text = (
                "on the frontier" if best else "beaten by " + _winners(own[0], points[measure], measure) if own else "-"
            )
            cells.append(Cell(text, sort=int(best), tone="good" if best else ""))
        body.append(Row(cells, defence))
    columns = [Column("defence", numeric=False), *(Column(measure.title, numeric=False) for measure in shown)]
    rows = [{"measure": m.title, **{k: p[k] for k in ("name", "x", "y", "best")}} for m in shown for p in points[m]]
    return Table("Who is on the frontier", columns, body, Source("frontier", rows))


def _winners(point: dict[str, Any], points: Sequence[dict[str, Any]], measure: Measure) -> str:
    return ", ".join(other["name"] for other in points if _beats(other, point, measure))
