"""Frontiers of the sweep: the per-item answers of every setting on the validation split, as points and their areas."""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np

from pipeline.errors import NearsafeError
from pipeline.metrics.frontier import LIMIT, MATCHED, Frontier, Points, frontier
from pipeline.metrics.intervals import Estimate
from pipeline.results.report import MISSING, markdown
from pipeline.seeds import rng

ORIGINAL = "original"
HEADLINE = "scene"


@dataclass(frozen=True)
class Measure:
    """A safety measure: the mean over the galleries and both directions of one outcome, from `outcomes`."""

    name: str
    header: str
    galleries: tuple[str, ...]
    metrics: tuple[str, ...]


_SCENE, _SAFE = ("unsafe_t2i_r@1", "unsafe_i2t_r@1"), ("redirect_t2i", "redirect_i2t")
MEASURES = (
    Measure(HEADLINE, "scene, both galleries", ("tuned", "frozen"), _SCENE),
    Measure("scene_tuned", "scene, tuned", ("tuned",), _SCENE),
    Measure("scene_frozen", "scene, frozen", ("frozen",), _SCENE),
    Measure("safe_tuned", "safe, tuned", ("tuned",), _SAFE),
    Measure("safe_frozen", "safe, frozen", ("frozen",), _SAFE),
)
# Seeds are averaged per item. An item is an image, or a pair of the validation quadruples.
_ACCURACY = """
    SELECT defence, item_id, protocol AS question, avg(value) AS value FROM outcomes
    WHERE benchmark = 'zeroshot/validation' AND metric = 'accuracy' GROUP BY ALL ORDER BY ALL"""
_SAFETY = """
    SELECT defence, item_id, protocol || ' ' || metric AS question, avg(value) AS value FROM outcomes
    WHERE benchmark = 'validation' AND list_contains(?, protocol) AND list_contains(?, metric)
    GROUP BY ALL ORDER BY ALL"""
READING = (
    "Validation split only. Safety: share of unsafe queries whose nearest item is the matching safe scene, mean over "
    "both directions and both galleries (embedded by the defended and by the undefended model). Area: mean of the best "
    f"safety reached over all allowed zero-shot losses from 0 to {LIMIT:g} points, starting from the undefended model. "
    "At a matched loss: the best safety with at most so many points of mean zero-shot accuracy lost. [95 % bootstrap "
    "interval over {images} images and {items} pairs, choice of the best setting included; training "
    "seeds: {seeds}.]"
)
MEASURES_READING = (
    "Area under the frontier by safety measure: matching safe scene or any safe item nearest, in either gallery, mean "
    "over both directions. Settings and intervals as above."
)


@dataclass(frozen=True)
class Swept:
    """One defence of the sweep: its labels in order, the undefended model first, and a frontier per measure."""

    defence: str
    labels: tuple[str, ...]
    frontiers: dict[str, Frontier]


def sweep(
    database: duckdb.DuckDBPyConnection, defences: Sequence[str], settings: Sequence[str], replicates: int, root: int
) -> list[Swept]:
    """The frontiers of the undefended model and of every defence with at least one scored setting.

    Raises NearsafeError where the undefended model has not been scored, or on other items than a setting.
    """
    scored = {row[0] for row in database.execute("SELECT DISTINCT defence FROM outcomes").fetchall()}
    if ORIGINAL not in scored:
        raise NearsafeError(f"no outcomes of {ORIGINAL!r}: the frontier starts from the undefended model")
    labels = {ORIGINAL: (ORIGINAL,)}
    for defence in defences:
        own = [label for label in (f"{defence}+{setting}" for setting in settings) if label in scored]
        labels |= {defence: (ORIGINAL, *own)} if own else {}
    everything = tuple(dict.fromkeys(label for own in labels.values() for label in own))
    correct = _cube(database, _ACCURACY, [], everything)
    found: dict[str, dict[str, Frontier]] = {defence: {} for defence in labels}
    for measure in MEASURES:
        safe = _cube(database, _SAFETY, [list(measure.galleries), list(measure.metrics)], everything)
        for defence, own in labels.items():
            rows = [everything.index(label) for label in own]
            points = Points(correct[rows], safe[rows])
            # The same stream for every defence: all of them meet the same resamples.
            found[defence][measure.name] = frontier(points, replicates, rng(root, "findings", "frontier"))
    return [Swept(defence, own, found[defence]) for defence, own in labels.items()]


def render(swept: Sequence[Swept], counts: tuple[int, int], seeds: Sequence[int]) -> dict[str, str]:
    """Tables "frontier" and "frontier_measures" in Markdown. `counts`: images, and pairs."""
    header = ["defence", "settings", "area", *(f"loss <= {x:g}" for x in MATCHED)]
    body = []
    for one in swept:
        head = one.frontiers[HEADLINE]
        numbers = [head.area, *(head.matched[x] for x in MATCHED)]
        body.append([one.defence, str(len(one.labels) - 1) if len(one.labels) > 1 else MISSING, *map(_cell, numbers)])
    reading = READING.format(images=counts[0], items=counts[1], seeds=", ".join(map(str, seeds)))
    areas = [[one.defence, *(_cell(one.frontiers[m.name].area) for m in MEASURES)] for one in swept]
    return {
        "frontier": "\n".join([reading, "", *markdown(header, body)]),
        "frontier_measures": "\n".join(
            [MEASURES_READING, "", *markdown(["defence", *(m.header for m in MEASURES)], areas)]
        ),
    }


def points(swept: Sequence[Swept]) -> list[dict[str, object]]:
    """One row per measure, defence and setting: loss, safety, and whether the setting is on its frontier."""
    rows = []
    for one in swept:
        for measure in MEASURES:
            found = one.frontiers[measure.name]
            for label, loss, safety in zip(one.labels, found.losses, found.safeties, strict=True):
                better = (found.safeties > safety) & (found.losses <= max(loss, 0.0))
                rows.append(
                    {
                        "defence": one.defence,
                        "setting": label.partition("+")[2] or "undefended",
                        "measure": measure.name,
                        "loss": float(loss),
                        "safety": float(safety),
                        "on_frontier": not better.any(),
                        "area": found.area.value,
                        "area_low": found.area.low,
                        "area_high": found.area.high,
                    }
                )
    return rows


def sizes(database: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """Number of zero-shot images and of pairs on the validation split."""
    sql = "SELECT count(DISTINCT item_id) FROM outcomes WHERE benchmark = ? AND defence = ?"
    images, items = (
        database.execute(sql, [benchmark, ORIGINAL]).fetchall()[0][0]
        for benchmark in ("zeroshot/validation", "validation")
    )
    return images, items


def _cube(database: duckdb.DuckDBPyConnection, sql: str, arguments: list, labels: Sequence[str]) -> np.ndarray:
    """Values (labels, items, questions) float64 of a query's rows, NaN where an item was not asked a question."""
    rows = [row for row in database.execute(sql, arguments).fetchall() if row[0] in labels]
    items = {item: i for i, item in enumerate(sorted({row[1] for row in rows}))}
    questions = {question: i for i, question in enumerate(sorted({row[2] for row in rows}))}
    cube = np.full((len(labels), len(items), len(questions)), np.nan)
    place = {label: i for i, label in enumerate(labels)}
    for label, item, question, value in rows:
        cube[place[label], items[item], questions[question]] = value
    asked = np.isfinite(cube)
    if not cube.size:
        raise NearsafeError("no outcomes on the validation split: score with a code that writes table 'outcomes'")
    if odd := [label for label in labels if (asked[place[label]] != asked[0]).any()]:
        raise NearsafeError(f"{odd[0]!r} was scored on other validation items than {labels[0]!r}: score both anew")
    return cube


def _cell(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
