"""A run of the stage on entries, and its tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.sources.ingest import ingest
from pipeline.sources.registry import SourcesParams, make_entry
from pipeline.tables import read_manifest, read_output

Tables = dict[str, list[dict[str, Any]]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Tables]:
    """run(name={kind: ...}, knobs={...}) ingests entries whose files lie in tmp_path, and returns all tables."""

    def call(knobs: dict[str, Any] | None = None, out: str = "world", **entries: Any) -> Tables:
        params = SourcesParams(root=tmp_path, entries=entries, **(knobs or {}))
        made = [make_entry(name, entries[name]) for name in sorted(entries)]
        ingest(params, made, tmp_path / out, lambda line: None)
        return tables(tmp_path / out)

    return call


def tables(out: Path) -> Tables:
    """Every table of an output that has rows."""
    names = {entry["table"] for entry in read_manifest(out)["files"] if entry["table"]}
    found = {name: read_output(out, name, allow_empty=True).to_pylist() for name in names}
    return {name: rows for name, rows in found.items() if rows}


def dropped(found: Tables, name: str) -> dict[str, int]:
    """What each filter dropped of an entry, zeros left out."""
    return {row["filter"]: row["n_dropped"] for row in found["filters"] if row["set"] == name and row["n_dropped"]}
