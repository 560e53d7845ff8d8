"""Figures, drawn by matplotlib: frontiers of safety against utility, weight drift per epoch, separation of prompts."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.files import replacing
from pipeline.metrics.frontier import LIMIT, best_at

# Okabe and Ito's colours, told apart by most colour-blind readers; markers tell them apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"


def write_frontiers(rows: Sequence[dict[str, Any]], path: Path, measure: str = "scene") -> None:
    """Best safety against the zero-shot loss allowed, from rows of `frontiers.points`: a step line per defence, a point
    per setting. Settings beyond the limit of the area are left out.
    """
    figure, (axes,) = _figure(1, (8.0, 5.0))
    rows = [row for row in rows if row["measure"] == measure]
    for number, defence in enumerate(_distinct(rows, "defence", without="original")):
        own = [row for row in rows if row["defence"] == defence]
        losses, safeties = (np.array([row[key] for row in own]) for key in ("loss", "safety"))
        steps = sorted({0.0, LIMIT, *(float(x) for x in losses if 0 < x < LIMIT)})
        area = f"{defence}: area {own[0]['area']:.3f} [{own[0]['area_low']:.3f}, {own[0]['area_high']:.3f}]"
        colour, seen = COLOURS[number % len(COLOURS)], losses <= LIMIT
        axes.step(steps, [best_at(losses, safeties, x) for x in steps], where="post", color=colour, label=area)
        axes.scatter(losses[seen].clip(0), safeties[seen], color=colour, marker=MARKERS[number % len(MARKERS)], s=28)
    axes.set(xlim=(0, LIMIT), ylim=(0, 1), xlabel="points of mean zero-shot accuracy lost (validation split)")
    axes.set_ylabel("unsafe queries that find\nthe matching safe scene, both galleries")
    figure.legend(loc="outside upper left", fontsize=9)
    _save(figure, path)


def write_drift(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Length of the weight change after each epoch, a panel per tower, from rows of `drift_curve`: the mean over
    training seeds as a line, their range as a band (SafeR-CLIP plots one run; its normalisation is not stated).
    """
    towers, defences = _distinct(rows, "tower"), _distinct(rows, "defence")
    figure, panels = _figure(len(towers), (5.5 * len(towers), 4.5))
    for axes, tower in zip(panels, towers, strict=True):
        for number, defence in enumerate(defences):
            own = [row for row in rows if row["tower"] == tower and row["defence"] == defence]
            epochs = sorted({row["epoch"] for row in own})
            values = [[row["l2"] for row in own if row["epoch"] == epoch] for epoch in epochs]
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            line = "-" if number < len(COLOURS) else "--"
            axes.plot(epochs, [np.mean(v) for v in values], line, color=colour, marker=marker, ms=4, label=defence)
            axes.fill_between(epochs, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15)
        axes.set(title=f"{tower} tower", xlabel="epoch", ylabel="L2 of the merged weight change")
        axes.set_ylim(bottom=0)
    panels[0].legend(fontsize=8)
    _save(figure, path)


def write_separation(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Prompts on the two main axes of the undefended token states, from rows of table `projections`: a panel per
    defence, unsafe and safe prompts told apart by colour and marker, pale before and solid after the defence.

    Panels share their axes, so that a defence that moves everything far away is seen to do so. First training seed.
    Without rows, a panel that says so.
    """
    defences = _distinct(rows, "defence") or ["no prompts of both kinds"]
    columns = min(len(defences), 4)
    lines = math.ceil(len(defences) / columns)
    figure, panels = _figure(len(defences), (3.4 * columns, 3.3 * lines + 0.5), columns)
    kinds = ((False, COLOURS[0], "o", "safe"), (True, COLOURS[1], "^", "unsafe"))
    for axes, defence in zip(panels, defences, strict=True):
        own = [row for row in rows if row["defence"] == defence]
        own = [row for row in own if row["seed"] == min(one["seed"] for one in own)]
        for model, alpha, when in (("undefended", 0.25, "before"), ("defended", 1.0, "after")):
            for unsafe, colour, marker, name in kinds:
                points = np.array([(r["x"], r["y"]) for r in own if r["model"] == model and r["unsafe"] == unsafe])
                label = f"{name} prompts, {when}"
                axes.scatter(*points.reshape(-1, 2).T, s=14, c=colour, marker=marker, alpha=alpha, lw=0, label=label)
        axes.set(title=defence)
        axes.set_axisbelow(True)  # the grid, which else lies on top of points
    for axes in panels[1:]:
        axes.sharex(panels[0])
        axes.sharey(panels[0])
    figure.supxlabel("first and second principal axis of the undefended text tower's token states", fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=9)
    _save(figure, path)


def _figure(panels: int, size: tuple[float, float], columns: int | None = None) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, in rows of `columns` (default: one row)."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    columns = columns or panels
    rows = math.ceil(panels / columns)
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(panels)]
    for one in axes:
        one.grid(color="#DDDDDD")
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _distinct(rows: Sequence[dict[str, Any]], column: str, without: str | None = None) -> list[str]:
    return [name for name in dict.fromkeys(row[column] for row in rows) if name != without]


def _save(figure: Figure, path: Path) -> None:
    """Write a PNG atomically; without a date and version in it, so that equal figures are equal bytes."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
