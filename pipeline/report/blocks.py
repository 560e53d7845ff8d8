"""What a section of the page is made of: tables, figures, pictures, sentences. Templates turn them into HTML.

All text here is plain: the templates escape it. Only `Panel.svg` is markup, and charts.py alone makes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

NOT_RUN = "not run"


@dataclass(frozen=True)
class Interval:
    """A small bar in a table cell, in units of its column's scale: all three from 0 to 1."""

    low: float
    value: float
    high: float


@dataclass(frozen=True)
class Cell:
    """One table cell: its text, a smaller line below, what it sorts by, and a tone (a class of style.css)."""

    text: str
    note: str = ""
    sort: float | str | None = None
    tone: str = ""
    bar: Interval | None = None


@dataclass(frozen=True)
class Column:
    """A table's column: its header, a smaller line below it, and whether its cells are numbers."""

    title: str
    note: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Row:
    """A table's row; the filter of the page hides the rows of a `defence`."""

    cells: Sequence[Cell]
    defence: str = ""


@dataclass(frozen=True)
class Source:
    """Where the numbers of a block come from: the rows for download, and the commands that make them again."""

    name: str  # of the downloaded file, without .csv
    rows: Sequence[dict[str, Any]]
    commands: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """A table that can be sorted and filtered in the page."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    source: Source
    reading: str = ""
    notes: Sequence[str] = ()  # in small print below it
    heat: str = ""  # "warm": more is worse; "cool": more is better
    folded: bool = False
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Panel:
    """One plot of a figure; `alt` says what it shows to those who cannot see it."""

    title: str
    svg: Markup
    alt: str
    defence: str = ""


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a name and the class of style.css that colours it."""

    name: str
    tone: str
    shape: str = "●"


@dataclass(frozen=True)
class Figure:
    """Plots side by side that share rows, legend and reading."""

    title: str
    panels: Sequence[Panel]
    source: Source
    reading: str = ""
    legend: Sequence[Key] = ()
    kind: str = field(default="figure", init=False)


@dataclass(frozen=True)
class Picture:
    """An image of the page by its key in the image store, or why there is none; `facts` stand in the larger view."""

    alt: str
    key: str = ""
    facts: Sequence[str] = ()
    tag: str = ""  # a mark on it: "flagged", "right"
    note: str = ""  # a line below it
    tone: str = ""


@dataclass(frozen=True)
class Strip:
    """One line of a grid: a label and its pictures, or texts where a cell has no picture."""

    label: str
    cells: Sequence[Picture]
    note: str = ""
    defence: str = ""


@dataclass(frozen=True)
class Grid:
    """Pictures in lines below headers: prompts or ranks in columns."""

    title: str
    headers: Sequence[str]
    strips: Sequence[Strip]
    commands: Sequence[str] = ()
    reading: str = ""
    lead: Picture | None = None  # what was asked, above the lines
    folded: bool = False
    kind: str = field(default="grid", init=False)


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = field(default="text", init=False)


@dataclass(frozen=True)
class Missing:
    """What this run did not make, and how to make it."""

    text: str
    command: str = ""
    kind: str = field(default="missing", init=False)


@dataclass(frozen=True)
class Record:
    """A text in a fixed-width font that can be opened: parameters."""

    title: str
    text: str
    kind: str = field(default="record", init=False)


Block = Table | Figure | Grid | Text | Missing | Record
