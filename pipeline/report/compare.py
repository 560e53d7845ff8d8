"""Two runs side by side: the files of `results/` that git holds at another revision, against today's."""

import csv
import io
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.errors import NearsafeError
from pipeline.layout import Results
from pipeline.report.blocks import Block, Cell, Column, Figure, Key, Missing, Panel, Row, Source, Table
from pipeline.report.charts import coloured, quantitative, shaped, sign, spec, svg
from pipeline.report.contents import Section
from pipeline.report.run import Run, label, tone
from pipeline.report.sections.frontier import MEASURES, SIZE, Measure, numbers, plotted
from pipeline.results.report import SECTIONS
from pipeline.results.summary import DIGITS
from pipeline.runs import changes, metrics_rows

_ENDS = ("", "_ci_low", "_ci_high")
# Where plots/tradeoff.csv, which has a row per gallery, keeps each number of view `frontier`.
_REDIRECTION = dict(zip(_ENDS, ("redirection", "ci_low", "ci_high"), strict=True))
_ASR = {end: f"asr{end}" for end in _ENDS}
_ZERO_SHOT = {end: f"zero_shot{end}" for end in _ENDS}

_NUMBERED = [column for one in SECTIONS for column in one.columns]


class Revision:
    """The results of a git revision. Raises NearsafeError where there is no such revision, or it has no results."""

    def __init__(self, name: str, results: Path) -> None:
        self.name = name
        self.results = Path(results).resolve()
        found = self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        if found is None:
            raise NearsafeError(f"--compare {name}: no such revision here; `git log` lists them")
        self.commit = found.decode("ascii").strip()
        self._metrics = self.file(Results(Path()).metrics)
        if self._metrics is None:
            raise NearsafeError(
                f"--compare {name}: this revision has no {self.results.name}/metrics.json; choose one after which "
                f"`dvc repro` had been committed: `git log -- {self.results.name}/metrics.json`"
            )

    def file(self, path: Path) -> bytes | None:
        """A file below results/ at this revision, or None."""
        return self._git("show", f"{self.commit}:./{self.results.name}/{path.as_posix()}")

    def metrics(self) -> list[dict[str, Any]]:
        """Its headline numbers, as pipeline.runs gives them."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / f"{self.name.replace('/', '_')}.metrics.json"
            copy.write_bytes(self._metrics or b"")
            return metrics_rows(copy)

    def points(self) -> list[dict[str, Any]]:
        """The numbers of its plot of safety against utility, in the form of view `frontier`, but for who beats whom;
        none where the file or a column is missing.
        """
        data = self.file(Results(Path()).plots / "tradeoff.csv")
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8")))) if data else []
        needed = {"defence", "seed", "gallery", *_REDIRECTION.values(), *_ASR.values(), *_ZERO_SHOT.values()}
        if not rows or not needed <= rows[0].keys():
            return []
        found = {}
        for row in rows:
            for name, columns in ((f"redirect_{row['gallery']}", _REDIRECTION), ("asr", _ASR)):
                if row[columns[""]] and row["zero_shot"]:
                    same = {"defence": row["defence"], "seed": int(row["seed"]), "safety_name": name}
                    unknown = {"on_frontier": None, "dominated_by": None}
                    point = {**same, **unknown, **_named("safety", columns, row), **_named("utility", _ZERO_SHOT, row)}
                    found[tuple(same.values())] = point
        return list(found.values())

    def _git(self, *command: str) -> bytes | None:
        try:
            done = subprocess.run(["git", *command], cwd=self.results.parent, capture_output=True, check=False)
        except OSError as error:
            raise NearsafeError(f"--compare {self.name}: git cannot be run here ({error})") from error
        return done.stdout if done.returncode == 0 else None


def _named(name: str, columns: dict[str, str], row: dict[str, str]) -> dict[str, float | None]:
    """A number and its interval from a line of CSV, where nothing stands for null."""
    return {name + end: float(row[column]) if row[column] else None for end, column in columns.items()}


def section(revision: Revision) -> Section:
    """The section that opens a page of two runs."""
    return Section("compare", f"{revision.name} against this run", lambda run: _build(run, revision))


def _build(run: Run, revision: Revision) -> list[Block]:
    if not run.results.metrics.is_file():
        raise NearsafeError(f"{run.results.metrics}: nothing to compare with yet; `dvc repro results` writes it")
    return [*_changes(run, revision), _frontiers(run, revision), _pictures(run, revision)]


def _changes(run: Run, revision: Revision) -> list[Block]:
    """Then, now, difference per number, in two tables: what moved, and, folded, what did not."""
    then, now = revision.metrics(), metrics_rows(run.results.metrics)
    spans = {(when, *_key(row)): _span(row) for when, rows in (("before", then), ("after", now)) for row in rows}
    order = {column.name: place for place, column in enumerate(_NUMBERED)}
    rows = changes(then, now)
    rows.sort(key=lambda row: (run.place(row["defence"]), row["defence"], row["seed"], order.get(row["name"], 99)))
    moved = [row for row in rows if row["difference"] != 0]
    apart = sum(row["apart"] for row in rows)
    reading = (
        f"Then: {revision.name} ({revision.commit[:12]}). Now: this run. {len(moved)} of {len(rows)} numbers differ, "
        f"{apart} of them by so much that the intervals do not overlap. Intervals that overlap do not prove that "
        "nothing changed."
    )
    commands = (f"dvc metrics diff {revision.commit[:12]}", f"nearsafe report --compare {revision.name}")
    same = [row for row in rows if row["difference"] == 0]
    first = _table("Numbers that differ", moved, spans, Source("changes", moved, commands), reading)
    rest = replace(_table("Numbers that are the same", same, spans, Source("same", same)), folded=True)
    return [first, rest] if same else [first]


def _table(title: str, rows: list[dict[str, Any]], spans: dict[Any, str], source: Source, reading: str = "") -> Table:
    digits = {column.name: column.digits for column in _NUMBERED}
    titles = {column.name: column.name.replace("_", " ") for column in _NUMBERED}
    seeds = sorted({row["seed"] for row in rows})
    heads = ("defence", "number", "then", "now", "difference", "intervals")
    columns = [Column(head, numeric=head in heads[2:5]) for head in heads]
    body = []
    for row in rows:
        cells = [Cell(label(row["defence"], row["seed"], seeds)), Cell(titles.get(row["name"], row["name"]))]
        places = digits.get(row["name"], 3)
        for key, form in (("before", f".{places}f"), ("after", f".{places}f"), ("difference", f"+.{DIGITS}f")):
            value = row[key]
            text = "-" if value is None else format(value, form)
            cells.append(Cell(text, spans.get((key, *_key(row)), ""), "" if value is None else value))
        cells.append(Cell(_apart(row), sort=int(row["apart"]), tone="some" if row["apart"] else ""))
        body.append(Row(cells, row["defence"]))
    return Table(title, columns, body, source, reading)


def _key(row: dict[str, Any]) -> tuple[str, int, str]:
    return row["defence"], row["seed"], row["name"]


def _span(row: dict[str, Any]) -> str:
    ends = (row["ci_low"], row["ci_high"])
    return "" if None in ends else f"{ends[0]:.3f} – {ends[1]:.3f}"


def _apart(row: dict[str, Any]) -> str:
    if row["before"] is None or row["after"] is None:
        return "only now" if row["before"] is None else "only then"
    return "apart" if row["apart"] else "not apart"


def _frontiers(run: Run, revision: Revision) -> Block:
    """Both runs in each panel, on the same axes; a line joins a model's two points."""
    then = revision.points()
    if not then:
        return Missing(f"{revision.name} has no plot of safety against utility in the form of this version.")
    now = numbers(run)
    defences = list(dict.fromkeys([*run.defences, *(row["defence"] for row in then)]))
    panels, data = [], []
    for measure in MEASURES:
        points = [
            {**point, "when": when, "line": f"{point['defence']} {point['seed']}", "said": f"{point['said']} ({when})"}
            for when, rows in (("then", then), ("now", now))
            for point in plotted(rows, measure)
        ]
        if points:
            alt = f"{measure.title}: {len(points)} points of both runs."
            panels.append(Panel(measure.title, svg(_chart(points, measure, defences)), alt))
            data += [{"measure": measure.title, **{k: p[k] for k in ("when", "name", "x", "y")}} for p in points]
    legend = [Key(name, tone(name, defences), sign(tone(name, defences))) for name in defences]
    reading = f"Hollow: {revision.name}. Solid: this run. A line joins both. Up and right is better."
    commands = (f"dvc plots diff {revision.commit[:12]}",)
    return Figure("Safety against utility, then and now", panels, Source("frontiers", data, commands), reading, legend)


def _chart(points: Sequence[dict[str, Any]], measure: Measure, defences: Sequence[str]) -> dict[str, Any]:
    names = list(dict.fromkeys(point["defence"] for point in points))
    tones = [tone(name, defences) for name in names]
    x = quantitative("x", "mean zero-shot accuracy")
    y = quantitative("y", measure.axis, (-0.06, 1.06), reverse=measure.lower_is_better)
    both = {"x": x, "y": y, "color": coloured("defence", names, tones)}
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "line", "aria": False, "opacity": 0.5},
         "encoding": {**both, "detail": {"field": "line"}, "order": {"field": "when", "sort": "descending"}}}
    ]  # fmt: skip
    for when, filled in (("then", False), ("now", True)):
        layers.append(
            {"mark": {"type": "point", "filled": filled, "size": 80, "opacity": 1},
             "transform": [{"filter": f"datum.when == '{when}'"}],
             "encoding": {**both, "shape": shaped("defence", names, tones), "description": {"field": "said"}}}
        )  # fmt: skip
    return spec(layers, points, SIZE)


def _pictures(run: Run, revision: Revision) -> Block:
    """results/generations.png of both runs, as they are: flagged images were pixelated when they were written."""
    now = run.results.picture.read_bytes() if run.results.picture.is_file() else None
    panels = []
    for title, data in ((revision.name, revision.file(Results(Path()).picture)), ("this run", now)):
        if data:
            try:
                key, (width, height) = run.images.keep(data)
            except OSError as error:
                raise NearsafeError(f"generations.png of {title}: not a readable picture ({error})") from error
            markup = Markup('<svg viewBox="0 0 {} {}" aria-hidden="true"><use href="#i-{}"/></svg>')
            panels.append(Panel(title, markup.format(width, height, key), f"Generated images of {title}"))
    if not panels:
        return Missing("Neither run has a picture of generated images.")
    source = Source("", (), (f"git show {revision.commit[:12]}:./{revision.results.name}/generations.png",))
    reading = "The same prompts and noise down each column, rows as in that run. Flagged images are pixelated."
    return Figure("Generated images, then and now", panels, source, reading)
