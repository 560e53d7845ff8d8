"""The page: one HTML file that loads nothing. Equal inputs give equal bytes, so no time of building is in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from pipeline.files import replacing
from pipeline.layout import Report
from pipeline.report.blocks import Block
from pipeline.report.contents import SECTIONS, Section
from pipeline.report.csp import csv_uri, data_uri, policy
from pipeline.report.run import Run
from pipeline.report.sections.frontier import picture
from pipeline.report.verdict import verdict
from pipeline.results.summary import write_text

TEMPLATES = Path(__file__).parent / "templates"
TITLE = "nearsafe: what safety costs"


@dataclass(frozen=True)
class _Built:
    name: str
    title: str
    blocks: Sequence[Block]


def write_report(run: Run, out: Report, first: Sequence[Section] = (), last: Sequence[Section] = ()) -> None:
    """Write the page and the frontier's picture, each atomically; sections `first` and `last` stand around its own."""
    write_text(out.page, render(run, first, last))
    with replacing(out.frontier) as temporary:
        temporary.write_bytes(picture(run))


def render(run: Run, first: Sequence[Section] = (), last: Sequence[Section] = ()) -> str:
    """The page as text."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    sections = [_Built(one.name, one.title, one.build(run)) for one in (*first, *SECTIONS[:-1], *last, SECTIONS[-1])]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=TITLE,
            verdict=verdict(run),
            run=run,
            sections=sections,
            style=style,
            script=script,
            policy=policy(style, script),
            metrics=_metrics(run),
        )
    )


def _environment() -> jinja2.Environment:
    """Every text is escaped; a name that a template mistypes is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["csv_uri"] = csv_uri
    environment.filters["number"] = _number
    environment.globals["anchor"] = _Anchors()
    return environment


class _Anchors:
    """Ids of blocks: unique in a page, the same in the next one."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self) -> str:
        self._count += 1
        return f"b{self._count}"


def _number(value: Any) -> str:
    """A number for an SVG attribute."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _metrics(run: Run) -> str:
    """The headline numbers as results/metrics.json, to download; "" where there is none."""
    file = run.results.metrics
    return data_uri(file.read_bytes(), "application/json") if file.is_file() else ""
