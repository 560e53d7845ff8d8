"""Every prompt set in one table: the world's own, those derived from it, and those of files.

What may not be generated is dropped here and counted (`pipeline.prompts.admit`), and again where images are made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import NearsafeError
from pipeline.ids import NAME_RULE, is_name
from pipeline.prompt_files import PromptFile, read_prompt_file
from pipeline.prompts import OTHERS, FilterRow, admit, beyond, count_dropped, filter_row
from pipeline.schemas import SCHEMAS
from pipeline.tables import read_output
from pipeline.world.prompting import SOURCE, Kind, derive_set

STAGE = "prompts"
Row = dict[str, Any]
_SCHEMA = SCHEMAS["prompts"].schema.append(pa.field(OTHERS, pa.list_(pa.string())))


@dataclass(frozen=True)
class PromptsParams:
    """Section `prompts`. `world`: sets to derive from the world's hazard prompts; `files`: set name to file."""

    world: tuple[Kind, ...] = ()
    files: dict[str, PromptFile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.world)) != len(self.world):
            raise ValueError(f"world: a set is named twice: {', '.join(self.world)}")
        for name in self.files:
            if not is_name(name) or name.startswith("world_"):
                raise ValueError(f"files: {name!r}: {NAME_RULE}; that of a set does not begin with world_")


@dataclass(frozen=True)
class PromptTables:
    """Tables "prompts", "labels" (of prompts that are left) and "filters"; the SHA-256 of each file by its set."""

    prompts: pa.Table
    labels: list[Row]
    filters: list[FilterRow]
    hashes: dict[str, str]


def build_prompts(params: PromptsParams, seed: int, world: Path) -> PromptTables:
    """All sets of `params` after their filters; `world` is the output of the world stage, `seed` the root seed.

    Per set and in order: category (files), empty, too long, age words, duplicate text, limit (files). Raises
    NearsafeError for a set of which nothing is left.
    """
    rows, labels = _world_sets(params.world, seed, world)
    filters: list[FilterRow] = []
    hashes: dict[str, str] = {}
    for name, file in params.files.items():
        found, hashes[name] = read_prompt_file(name, file)
        if file.categories is not None:
            kept = [row for row in found if _in_categories(row, file.categories)]
            filters.append(filter_row(name, "category", ", ".join(file.categories), STAGE, len(found), len(kept)))
            found = kept
        rows += found
    table = pa.Table.from_pylist([{OTHERS: [], **row} for row in rows], schema=_SCHEMA)
    names = list(dict.fromkeys([*table["prompt_set"].to_pylist(), *params.files]))
    admitted, counted = admit(table, stage=STAGE)
    filters += counted
    once = _drop(admitted.table, _repeated(admitted.table))
    filters += count_dropped(admitted.table, once, names, "duplicate", "1", STAGE)
    prompts = once
    for name, file in params.files.items():
        if file.limit is not None:
            cut = _drop(prompts, _of(prompts, name) & beyond(prompts, {name: file.limit}))
            filters += count_dropped(prompts, cut, [name], "limit", str(file.limit), STAGE)
            prompts = cut
    left = set(prompts["prompt_set"].to_pylist())
    for name in names:
        if name not in left:
            steps = ", ".join(f"{r['filter']} {r['n_before']} -> {r['n_after']}" for r in filters if r["set"] == name)
            raise NearsafeError(f"prompts: set {name!r}: no prompt is left: {steps or 'the file has no rows'}")
    ids = set(prompts["prompt_id"].to_pylist())
    asked = {(row["item_id"], row["task"]): row for row in labels if row["item_id"] in ids}  # equal texts ask the same
    return PromptTables(prompts, list(asked.values()), filters, hashes)


def _world_sets(kinds: Sequence[Kind], seed: int, world: Path) -> tuple[list[Row], list[Row]]:
    """Prompts and prompt labels of the world, then of the sets derived from it."""
    prompts = read_output(world, "prompts", allow_empty=True).to_pylist()
    table = read_output(world, "labels", allow_empty=True)
    labels = table.filter(pc.equal(table["shift"], "prompt")).to_pylist()
    plain = [row for row in prompts if row["prompt_set"] == SOURCE]
    if kinds and not plain:
        raise NearsafeError(f"{world}: no prompt of set {SOURCE!r}, from which {', '.join(kinds)} are derived")
    for kind in kinds:
        derived, named = derive_set(kind, plain, seed)
        prompts += derived
        labels += named
    return prompts, labels


def _in_categories(row: Row, categories: Sequence[str]) -> bool:
    """A row may name several categories in one cell; as in I2P's own subsets, a part of the cell is enough."""
    given = (row["category"] or "").casefold()
    return any(category.casefold() in given for category in categories)


def _drop(table: pa.Table, dropped: np.ndarray) -> pa.Table:
    return table.filter(pa.array(~dropped))


def _of(table: pa.Table, name: str) -> np.ndarray:
    return np.array([value == name for value in table["prompt_set"].to_pylist()], dtype=bool)


def _repeated(table: pa.Table) -> np.ndarray:
    """Rows whose id, that is set and text, an earlier row has."""
    _, first = np.unique(np.array(table["prompt_id"].to_pylist(), dtype=str), return_index=True)
    repeated = np.ones(table.num_rows, dtype=bool)
    repeated[first] = False
    return repeated
