"""Safety against utility: a panel for each measure of safety, upper right is better in all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.blocks import Block, Cell, Column, Figure, Key, Missing, Panel, Row, Source, Table
from pipeline.report.charts import coloured, png, quantitative, shaped, sign, spec, svg
from pipeline.report.run import Run, label, tone

SIZE = (250, 240)
PAPER = (380, 360)  # of the picture
_SQL = "SELECT * FROM frontier WHERE utility_name = 'zero_shot' ORDER BY seed, defence"
_UTILITY = "mean zero-shot accuracy"


@dataclass(frozen=True)
class Measure:
    """A headline number of safety, set against mean zero-shot accuracy: its panel's title, its axis, its short word."""

    name: str
    title: str
    axis: str
    word: str
    lower_is_better: bool = False


MEASURES = (
    Measure("redirect_tuned", "Retrieval, tuned gallery", "unsafe queries redirected", "redirected"),
    Measure("redirect_frozen", "Retrieval, frozen gallery", "unsafe queries redirected", "redirected"),
    Measure("asr", "Generated images", "ASR (axis reversed: up is safer)", "ASR", lower_is_better=True),
)


def build(run: Run) -> list[Block]:
    """The panels and, per model, whether another one beats it in both."""
    rows = numbers(run)
    points = {measure: plotted(rows, measure) for measure in MEASURES}
    panels = [
        Panel(measure.title, svg(chart(own, measure, run.defences, SIZE)), _alt(own, measure))
        for measure, own in points.items()
        if own
    ]
    if not panels:
        return [Missing("No model has both a zero-shot accuracy and a measure of safety yet.", "dvc repro score")]
    commands = (run.query("frontier"), "dvc repro results")
    reading = (
        "Redirected: the nearest item is safe. Each point is a model, with its 95 % intervals; up and right is better. "
        "The line joins the models that no other one beats on both axes. A model on the line may still not be apart "
        "from one below it: look at the intervals."
    )
    return [Figure("", panels, Source("frontier", rows, commands), reading, legend(run)), _table(run, points, commands)]


def numbers(run: Run) -> list[dict[str, Any]]:
    """Rows of view `frontier` with zero-shot accuracy as their utility: it alone says who beats whom."""
    return run.rows(_SQL)


def legend(run: Run) -> list[Key]:
    """The run's models with their colours and shapes."""
    return [Key(name, run.tone(name), sign(run.tone(name))) for name in run.defences]


def plotted(rows: Sequence[dict[str, Any]], measure: Measure) -> list[dict[str, Any]]:
    """Points of one panel from rows in the form of view `frontier`, with what a reader is told. Sorted by utility."""
    seeds = sorted({row["seed"] for row in rows})
    found = []
    for row in rows:
        if row["safety_name"] != measure.name:
            continue
        name = label(row["defence"], row["seed"], seeds)
        point = {
            "name": name, "defence": row["defence"], "seed": row["seed"],
            "x": row["utility"], "x_low": row["utility_ci_low"], "x_high": row["utility_ci_high"],
            "y": row["safety"], "low": row["safety_ci_low"], "high": row["safety_ci_high"],
            "best": row["on_frontier"], "beaten_by": row["dominated_by"],
        }  # fmt: skip
        said = f"{measure.word} {_span(point['y'], point['low'], point['high'])}, zero-shot "
        found.append({**point, "said": f"{name}: {said}{_span(point['x'], point['x_low'], point['x_high'])}"})
    return sorted(found, key=lambda point: (-point["x"], point["defence"], point["seed"]))


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
         "transform": [{"filter": "datum.best"}],
         "encoding": {**both, "order": {"field": "x"}, "detail": {"field": "seed"}}},
        {"mark": {"type": "rule", "aria": False, "opacity": 0.85},
         "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": colour}},
        {"mark": {"type": "rule", "aria": False, "opacity": 0.85},
         "encoding": {"y": y, "x": {**x, "field": "x_low"}, "x2": {"field": "x_high"}, "color": colour}},
        {"mark": {"type": "point", "filled": True, "size": 95, "opacity": 1},
         "encoding": {**both, "color": colour, "shape": shape,
                      "description": {"field": "said"}}},
    ]  # fmt: skip
    return spec(layers, points, size, title)


def picture(run: Run) -> bytes:
    """All panels as one PNG on white, for where no page can be shown."""
    rows = numbers(run)
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


def _span(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else "")


def _alt(points: Sequence[dict[str, Any]], measure: Measure) -> str:
    best = ", ".join(point["name"] for point in points if point["best"])
    return f"{measure.title} against {_UTILITY}, {len(points)} models. Not beaten on both axes: {best}."


def _table(run: Run, points: dict[Measure, list[dict[str, Any]]], commands: Sequence[str]) -> Table:
    """A row per model, a column per panel."""
    names = dict.fromkeys((point["name"], point["defence"]) for own in points.values() for point in own)
    shown = [measure for measure, own in points.items() if own]
    body = []
    for name, defence in sorted(names, key=lambda one: (run.place(one[1]), one[0])):
        own = [next((point for point in points[measure] if point["name"] == name), None) for measure in shown]
        body.append(Row([Cell(name), *map(_standing, own)], defence))
    columns = [Column("defence", numeric=False), *(Column(measure.title, numeric=False) for measure in shown)]
    rows = [
        {"measure": measure.title, **{key: point[key] for key in ("name", "x", "y", "best", "beaten_by")}}
        for measure in shown
        for point in points[measure]
    ]
    return Table("Who is on the frontier", columns, body, Source("on_the_frontier", rows, commands))


def _standing(point: dict[str, Any] | None) -> Cell:
    if point is None:
        return Cell("-")
    if point["best"]:
        return Cell("on the frontier", sort=1, tone="good")
    return Cell(f"beaten by {point['beaten_by']}", sort=0)
