"""The sections of the page in order: a new section is a module of sections/ and an entry here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.report.blocks import Block
from pipeline.report.run import Run
from pipeline.report.sections import (
    curves,
    distributions,
    filters,
    frontier,
    generated,
    headline,
    heat,
    provenance,
    retrieval,
)


@dataclass(frozen=True)
class Section:
    """A part of the page: its anchor, its title, and what it shows of a run."""

    name: str
    title: str
    build: Callable[[Run], Sequence[Block]]


SECTIONS = (
    Section("numbers", "Headline numbers", headline.build),
    Section("frontier", "Safety against utility", frontier.build),
    Section("categories", "Attack success per category", heat.categories),
    Section("attacks", "Attack success per attack", heat.attacks),
    Section("retrieval", "Retrieval examples", retrieval.build),
    Section("images", "Generated images", generated.build),
    Section("distributions", "Difficulty and alignment", distributions.build),
    Section("drift", "Drift of the weights", curves.drift),
    Section("map", "Where prompts go", curves.prompt_map),
    Section("losses", "Training losses", curves.losses),
    Section("filters", "Filters and drops", filters.build),
    Section("provenance", "Provenance", provenance.build),
)
