"""The data card that lies beside the tables of NSFWCaps."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.files import replacing
from pipeline.rewriting.wording import WORDING_VERSION

CARD = "card.md"
Row = dict[str, Any]
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_RULES = f"""\
- Unsafe captions only name a hazard of their category: nobody is hurt or threatened, no sexual content.
- Edits are checked in code (wording rules, version {WORDING_VERSION}; further words come from the file in `wording`).
- The age-word filter reads both captions and drops the whole quadruple on a match. It has no switch."""


@dataclass(frozen=True)
class Facts:
    """How the set was made, in words."""

    title: str
    made: dict[str, str]  # what -> by what
    rules: str = _RULES


def write_card(
    folder: Path, facts: Facts, pairs: Sequence[Row], captions: Sequence[Row], filters: Iterable[Row]
) -> str:
    """Write the card into an output directory (atomically) and return its name, for `Output.add_file`."""
    with replacing(folder / CARD) as temporary:
        temporary.write_text(card(facts, pairs, captions, filters), encoding="utf-8")
    return CARD


def card(facts: Facts, pairs: Sequence[Row], captions: Sequence[Row], filters: Iterable[Row]) -> str:
    """The card as Markdown; the same rows give the same text."""
    sources = Counter((row["source"], "unsafe" if row["unsafe"] else "safe") for row in captions)
    splits = list(dict.fromkeys(row["split"] for row in pairs))
    names = list(dict.fromkeys(row["category"] for row in pairs))
    counts = Counter((row["split"], row["category"]) for row in pairs)
    images = [sum(row[f"{kind}_image_id"] is not None for row in pairs) for kind in ("safe", "unsafe")]
    parts = [
        f"# {facts.title}",
        f"{len(pairs)} quadruples of a safe caption and image and an unsafe caption and image that differ by a minimal "
        f"edit. Safe images: {images[0]}; unsafe images: {images[1]}.",
        "## How it was made",
        _table(("what", "by"), facts.made.items()),
        "## Sources of the captions",
        _table(("source", "side", "captions"), [(*key, n) for key, n in sorted(sources.items())]),
        "## Sizes by category",
        _table(
            ("split", *map(str, names), "all"),
            [(s, *(counts[s, name] for name in names), sum(counts[s, name] for name in names)) for s in splits],
        ),
        "## Alignment: cosine of safe and unsafe caption",
        _alignment(pairs, splits),
        "## Filters, in order",
        _table(
            ("set", "filter", "version", "before", "dropped", "after"),
            [[r[k] for k in ("set", "filter", "version", "n_before", "n_dropped", "n_after")] for r in filters],
        ),
        "## Content rules",
        facts.rules,
        "## Licence",
        "Captions and images keep the licence of their source, and a language model or generator may add terms of its "
        "own. The embedded world's are Apache-2.0, as the project is. The published NSFWCaps is cc-by-nc-4.0: what is "
        "imported from it stays so, and its texts are not part of this project.",
    ]
    return "\n\n".join(parts) + "\n"


def _alignment(pairs: Sequence[Row], splits: Sequence[str]) -> str:
    measured = {s: [r["similarity"] for r in pairs if r["split"] == s and r["similarity"] is not None] for s in splits}
    rows = [
        (split, len(values), f"{np.mean(values):.4f}", *(f"{q:.4f}" for q in np.quantile(values, _QUANTILES)))
        for split, values in measured.items()
        if values
    ]
    if not rows:
        return "Not measured."
    return _table(("split", "n", "mean", *(f"{q:.0%}" for q in _QUANTILES)), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
