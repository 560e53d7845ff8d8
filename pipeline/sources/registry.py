"""Sources by kind: the module of a kind, and the typed section `sources` of params.yaml."""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pipeline.sources
from pipeline.errors import NearsafeError
from pipeline.ids import NAME_RULE, is_name
from pipeline.params import build, section
from pipeline.sources.protocol import Source

# Modules of this folder that are no kind of source.
_SHARED = frozenset({"protocol", "registry", "ingest", "readers", "pictures", "seen", "convert", "segments", "nesting"})


@dataclass(frozen=True)
class SourcesParams:
    """Section `sources`. `root`: folder that every path of an entry counts from; `entries`: name to options.

    `max_broken`: the share of a source's rows that may be broken before the run is refused. `shard_rows`: a shard ends
    when one of its tables has so many rows.
    """

    root: Path = Path("pipeline/sources")
    entries: dict[str, Any] = field(default_factory=dict)
    max_broken: float = 0.05
    shard_rows: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.max_broken <= 1 or self.shard_rows < 1:
            raise ValueError("max_broken is a share from 0 to 1, shard_rows at least 1")
        for name in self.entries:
            if not is_name(name) or name == "world":
                raise ValueError(f"entries: {name!r}: {NAME_RULE}; that of a source is not world")


@dataclass(frozen=True)
class Entry:
    """One entry of `sources.entries`, ready to use. `copy`: its images become bytes of the tables, not paths."""

    name: str
    kind: str
    source: Source
    copy: bool = False


def kinds() -> list[str]:
    """Names of the kinds that exist: the modules of this folder."""
    found = pkgutil.iter_modules(pipeline.sources.__path__)
    return sorted(m.name for m in found if m.name not in _SHARED and not m.ispkg and not m.name.startswith("_"))


def read_sources(params: Path) -> tuple[SourcesParams, list[Entry]]:
    """Section `sources` of a parameter file and its entries, in order of their names. Raises NearsafeError."""
    knobs = section(f"{params}:sources", SourcesParams)
    return knobs, [
        make_entry(name, knobs.entries[name], f"{params}: sources.entries") for name in sorted(knobs.entries)
    ]


def make_entry(name: str, values: Any, where: str = "sources.entries") -> Entry:
    """The source of one entry: a mapping with `kind`, perhaps `copy`, and the kind's options. `where` opens errors.

    Raises NearsafeError for an unknown kind, listing the known ones, and for what `pipeline.params.build` refuses.
    """
    where = f"{where}.{name}"
    if not isinstance(values, Mapping) or values.get("kind") not in kinds():
        given = values.get("kind") if isinstance(values, Mapping) else values
        raise NearsafeError(f"{where}.kind: unknown kind of source {given!r}; known: {', '.join(kinds())}")
    copy = values.get("copy", False)
    if not isinstance(copy, bool):
        raise NearsafeError(f"{where}.copy: expected true or false, got {copy!r}")
    module = importlib.import_module(f"pipeline.sources.{values['kind']}")
    own = {key: value for key, value in values.items() if key not in ("kind", "copy")}
    return Entry(name, values["kind"], build(module.Source, own, where), copy)
