"""What training did: how far weights moved, where prompts went in the text tower's space, how losses fell."""

import math
from collections.abc import Sequence
from typing import Any

from pipeline.report.blocks import Block, Figure, Key, Missing, Panel, Source
from pipeline.report.charts import coloured, quantitative, shaped, sign, spec, svg
from pipeline.report.run import UNDEFENDED, Run, label, tone

SIZE = (330, 230)
_POINTS = 80  # of a loss curve: longer ones are drawn as means over equal parts


def drift(run: Run) -> list[Block]:
    """Length of the weight change after each epoch, a panel per tower."""
    rows = [row for row in run.rows("SELECT * FROM drift_curve ORDER BY seed, tower, epoch") if row["l2"] is not None]
    if not rows:
        return [Missing("No training run has logged its weight drift yet.", "dvc repro train")]
    seeds = sorted({row["seed"] for row in rows})
    names = list(dict.fromkeys(row["defence"] for row in rows))
    tones = [run.tone(name) for name in names]
    highest = max(row["l2"] for row in rows)
    panels = []
    for tower in ("text", "vision"):
        own = [
            {**row, "line": f"{row['defence']} {row['seed']}",
             "said": f"{label(row['defence'], row['seed'], seeds)}: epoch {row['epoch']}, L2 {row['l2']:.2f}"}
            for row in rows if row["tower"] == tower
        ]  # fmt: skip
        if not own:
            continue
        encoding = {"x": quantitative("epoch", "epoch"),
                    "y": quantitative("l2", "L2 of the weight change", (0, highest * 1.05)),
                    "color": coloured("defence", names, tones), "detail": {"field": "line"}}  # fmt: skip
        layers = [
            {"mark": {"type": "line", "aria": False, "strokeWidth": 1.8}, "encoding": encoding},
            {"mark": {"type": "point", "filled": True, "size": 38, "opacity": 1},
             "encoding": {**encoding, "shape": shaped("defence", names, tones), "description": {"field": "said"}}},
        ]  # fmt: skip
        last = {row["defence"]: row["l2"] for row in own}
        alt = f"{tower} tower, L2 after the last epoch: " + ", ".join(f"{name} {l2:.2f}" for name, l2 in last.items())
        panels.append(Panel(f"{tower.capitalize()} tower", svg(spec(layers, own, SIZE)), alt))
    legend = [Key(name, tone, sign(tone)) for name, tone in zip(names, tones, strict=True)]
    commands = (run.query("drift_curve"), "dvc repro train")
    reading = "Weights of each tower against the undefended ones, adapters merged, after each epoch; axes are shared."
    return [Figure("", panels, Source("drift", rows, commands), reading, legend)]


def prompt_map(run: Run) -> list[Block]:
    """Prompts on two axes of the undefended token states, before and after, a panel per defence on shared axes."""
    rows = run.rows(
        "SELECT * FROM projections WHERE seed = (SELECT min(seed) FROM projections) ORDER BY prompt_id, model"
    )
    if not rows:
        return [Missing("This run holds no projections of prompts of both kinds.", "dvc repro score")]
    columns = ("defence", "seed", "prompt_id", "prompt_set", "unsafe", "model", "x", "y")
    x, y = ((math.floor(min(r[k] for r in rows)) - 1, math.ceil(max(r[k] for r in rows)) + 1) for k in "xy")
    panels = []
    for defence in dict.fromkeys(row["defence"] for row in rows):
        if defence == UNDEFENDED:
            continue
        own = [{**{k: row[k] for k in ("x", "y", "model")}, "kind": "unsafe" if row["unsafe"] else "safe"}
               for row in rows if row["defence"] == defence]  # fmt: skip
        encoding = {"x": quantitative("x", "first axis", x, nice=False),
                    "y": quantitative("y", "second axis", y, nice=False),
                    "color": coloured("kind", ("safe", "unsafe"), ("d1", "d2")),
                    "shape": {"field": "kind", "type": "nominal", "legend": None,
                              "scale": {"domain": ["safe", "unsafe"], "range": ["circle", "triangle-up"]}}}  # fmt: skip
        layers = [
            {"mark": {"type": "point", "aria": False, "filled": when == "defended", "size": 22,
                      "opacity": 0.85 if when == "defended" else 0.75},
             "transform": [{"filter": f"datum.model == '{when}'"}], "encoding": encoding}
            for when in ("undefended", "defended")
        ]  # fmt: skip
        moved = " and ".join(
            f"{kind} prompts moved by {_moved(own, kind):.1f} on average" for kind in ("safe", "unsafe")
        )
        panels.append(Panel(defence, svg(spec(layers, own, (250, 210))), f"{defence}: {moved}.", defence))
    if not panels:
        return [Missing("No defended model has projections yet.", "dvc repro score")]
    legend = [Key("safe, before", "d1 pale", "○"), Key("safe, after", "d1", "●"),
              Key("unsafe, before", "d2 pale", "△"), Key("unsafe, after", "d2", "▲")]  # fmt: skip
    commands = (run.query("projections"), "dvc repro score")
    reading = (
        "Token states of safe and unsafe prompts on the first two principal axes of the undefended text tower's; "
        "before hollow, after solid. All panels share their axes."
    )
    data = [{key: row[key] for key in columns} for row in rows]
    return [Figure("", panels, Source("projections", data, commands), reading, legend)]


def losses(run: Run) -> list[Block]:
    """Weighted loss terms per step, a panel per defence."""
    rows = run.rows("SELECT * FROM loss_curve WHERE seed = (SELECT min(seed) FROM loss_curve) ORDER BY term, step")
    if not rows:
        return [Missing("No training run has logged its losses yet.", "dvc repro train")]
    panels = []
    for defence in dict.fromkeys(row["defence"] for row in rows):
        own = [row for row in rows if row["defence"] == defence]
        shown = _thinned(own)
        encoding = {"x": quantitative("step", "step"), "y": quantitative("value", "weighted loss"),
                    "detail": {"field": "term"}, "description": {"field": "said"}}  # fmt: skip
        thin = {"type": "line", "strokeWidth": 1, "opacity": 0.9, "color": "var(--d6)"}
        thick = {"type": "line", "strokeWidth": 2, "color": f"var(--{tone(defence, run.defences)})"}
        layers = [
            {"mark": thin, "transform": [{"filter": "datum.term != 'total'"}], "encoding": encoding},
            {"mark": thick, "transform": [{"filter": "datum.term == 'total'"}], "encoding": encoding},
        ]
        total = [row["value"] for row in own if row["term"] == "total"]
        fell = f"total from {total[0]:.2f} to {total[-1]:.2f} in {len(total)} steps" if total else "no total"
        panels.append(Panel(defence, svg(spec(layers, shown, (250, 150))), f"{defence}: {fell}.", defence))
    commands = (run.query("loss_curve"), "dvc repro train")
    reading = (
        "Total in the defence's colour, its weighted terms thin. First training seed. Each panel has its own axes."
    )
    data = _thinned(rows, ("defence", "seed"))
    return [Figure("", panels, Source("loss", data, commands), reading)]


def _thinned(rows: Sequence[dict[str, Any]], keep: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Each curve with at most _POINTS points: means over equal parts."""
    curves: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        curves.setdefault((*(row[key] for key in keep), row["term"]), []).append(row)
    found = []
    for own in curves.values():
        size = math.ceil(len(own) / _POINTS)
        for start in range(0, len(own), size):
            part = own[start : start + size]
            value = math.fsum(row["value"] for row in part) / len(part)
            end = part[-1]
            point = {"step": end["step"], "term": end["term"], "value": value}
            extra = {key: end[key] for key in keep} if keep else {"said": f"{end['defence']}: {end['term']}"}
            found.append({**extra, **point})
    return found


def _moved(rows: Sequence[dict[str, Any]], kind: str) -> float:
    """Mean distance on the map between a prompt's states; rows come in pairs, defended before undefended."""
    own = [row for row in rows if row["kind"] == kind]
    before = [row for row in own if row["model"] == "undefended"]
    after = [row for row in own if row["model"] == "defended"]
    steps = [math.dist((a["x"], a["y"]), (b["x"], b["y"])) for a, b in zip(before, after, strict=False)]
    return math.fsum(steps) / len(steps) if steps else 0.0
