"""The one place where prompts enter generation: what may not be generated is dropped here, and counted."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.agewords import LEXICON_VERSION, filter_age_words
from pipeline.errors import NearsafeError
from pipeline.ids import content_id
from pipeline.seeds import derive

MAX_CHARACTERS = 2000
STAGE = "generate"
Row = dict[str, Any]
FilterRow = dict[str, Any]
# Every text of a prompt row; the filter reads all of them.
TEXTS = ("text", "category", "prompt_set")
# A column that a table may have besides, a list of strings: the other cells of the file that a prompt came from (a
# pair's other member, an attack's target, a label). The filter reads them too; they are not kept.
OTHERS = "others"


@dataclass(frozen=True)
class Admitted:
    """Prompts that passed `admit`. Generation takes nothing else, and building one checks the filter again."""

    table: pa.Table  # schema "prompts"

    def __post_init__(self) -> None:
        """Raises NearsafeError where a row would not have passed."""
        refused = _empty(self.table) | _too_long(self.table) | _age_words(self.table)
        if refused.any():
            row = int(np.flatnonzero(refused)[0])
            raise NearsafeError(f"prompts: row {row} was not admitted: use pipeline.prompts.admit")

    @property
    def hash(self) -> str:
        """Of the prompts themselves, not of their folder: a set added beside them leaves finished images alone."""
        return content_id(*(json.dumps(row, sort_keys=True) for row in self.table.to_pylist()))


def admit(
    prompts: pa.Table, limit: int | Mapping[str, int] | None = None, stage: str = STAGE
) -> tuple[Admitted, list[FilterRow]]:
    """Prompts that may be generated, and rows of table "filters" with what each filter dropped per prompt set.

    Filters, in order: empty text, more than 2,000 characters, the age-word filter (it has no switch), and where
    `limit` is given all but the first `limit` prompts of each set (a mapping limits the sets that it names).
    `prompts` may have column `others` (see `OTHERS`).
    """
    filters: list[tuple[str, str, Callable[[pa.Table], np.ndarray]]] = [
        ("empty", "1", _empty),
        ("too_long", f"{MAX_CHARACTERS} characters", _too_long),
        ("age_words", f"lexicon {LEXICON_VERSION}", _age_words),
    ]
    names = list(dict.fromkeys(prompts.column("prompt_set").to_pylist()))
    rows: list[FilterRow] = []
    for name, version, dropped in filters:
        kept = prompts.filter(pa.array(~dropped(prompts)))
        rows += count_dropped(prompts, kept, names, name, version, stage)
        prompts = kept
    limits = limit if isinstance(limit, Mapping) else {} if limit is None else dict.fromkeys(names, limit)
    if limits:
        kept = prompts.filter(pa.array(~beyond(prompts, limits)))
        for name in names:
            rows += count_dropped(prompts, kept, [name], "prompts_per_set", str(limits.get(name, "all")), stage)
        prompts = kept
    return Admitted(prompts.drop_columns([OTHERS]) if OTHERS in prompts.column_names else prompts), rows


def count_dropped(
    before: pa.Table, after: pa.Table, names: Sequence[str], name: str, version: str, stage: str
) -> list[FilterRow]:
    """Rows of table "filters" of filter `name`: per prompt set of `names` the rows before, dropped and after."""
    rows = []
    for prompt_set in names:
        n_before, n_after = (pc.sum(pc.equal(t["prompt_set"], prompt_set)).as_py() or 0 for t in (before, after))
        rows.append(filter_row(prompt_set, name, version, stage, n_before, n_after))
    return rows


def filter_row(prompt_set: str, name: str, version: str, stage: str, before: int, after: int) -> FilterRow:
    """A row of table "filters": filter `name` left `after` of the `before` rows of a prompt set."""
    counts = {"n_before": before, "n_dropped": before - after, "n_after": after}
    return {"stage": stage, "set": prompt_set, "filter": name, "version": version, **counts}


def beyond(table: pa.Table, limits: Mapping[str, int]) -> np.ndarray:
    """Mask (N,) bool, True for the rows after the first `limits[name]` of prompt set `name`; other sets are whole."""
    seen: dict[str, int] = {}
    dropped = []
    for name in table["prompt_set"].to_pylist():
        seen[name] = seen.get(name, 0) + 1
        dropped.append(name in limits and seen[name] > limits[name])
    return np.array(dropped, dtype=bool)


def noise_seed(root: int, prompt: Row) -> int:
    """The prompt's own seed, else one derived from its id: the same for every defence and training seed."""
    return prompt["seed"] if prompt["seed"] is not None else derive(root, "generate", prompt["prompt_id"])


def _empty(table: pa.Table) -> np.ndarray:
    return np.array([not text.strip() for text in table["text"].to_pylist()], dtype=bool)


def _too_long(table: pa.Table) -> np.ndarray:
    return np.array([len(text) > MAX_CHARACTERS for text in table["text"].to_pylist()], dtype=bool)


def _age_words(table: pa.Table) -> np.ndarray:
    texts = zip(*(table[column].to_pylist() for column in TEXTS), strict=True)
    if OTHERS not in table.column_names:
        return filter_age_words(texts)
    return filter_age_words((*own, *others) for own, others in zip(texts, table[OTHERS].to_pylist(), strict=True))
