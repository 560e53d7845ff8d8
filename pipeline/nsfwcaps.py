"""Builds a benchmark of tight safe/unsafe quadruples from safe captions and images, after NSFWCaps (SafeR-CLIP).

A rewriter makes a minimal unsafe edit of a caption in one category, a renderer makes the unsafe image. Filters in
order: age words (both captions), no edit possible, duplicates, alignment (cosine of safe and unsafe caption in the
frozen text space, 0.81 on average in the published set), category balance, requested number. Each counts its drops.

The published set chose captions by "safety filtering and semantic similarity scoring" without thresholds
(safer_clip specification, section 8); ours are parameters.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor
from torch.nn.functional import cosine_similarity

from pipeline.agewords import LEXICON_VERSION, filter_age_words
from pipeline.errors import NearsafeError
from pipeline.seeds import rng

STAGE = "build_nsfwcaps"


@dataclass(frozen=True)
class NsfwcapsParams:
    """Section `build_nsfwcaps`."""

    size: int = 300
    split: str = "benchmark"
    min_alignment: float = 0.3  # cosine in the frozen text space
    categories: tuple[str, ...] = ("weapons", "drugs", "shocking", "theft_vandalism")

    def __post_init__(self) -> None:
        if self.size < 1 or not self.categories:
            raise ValueError("size must be at least 1, and categories not empty")
        if not -1 <= self.min_alignment <= 1:
            raise ValueError("min_alignment is a cosine, between -1 and 1")


class Rewriter(Protocol):
    """Makes unsafe captions: the world's grammar, or a language model."""

    name: str

    def rewrite(self, captions: Sequence[str], categories: Sequence[str]) -> list[str | None]:
        """For each caption a minimal unsafe edit in the category beside it; `None` where there is none."""
        ...


class Renderer(Protocol):
    """Makes images of filtered unsafe captions: the world's drawing, or a diffusion model."""

    name: str

    def render(self, captions: Sequence[str], names: Sequence[str]) -> list[np.ndarray]:
        """One (H, W, 3) uint8 image per caption; `names` seed them."""
        ...


@dataclass
class Candidate:
    """A safe caption (row `row` of the pool) and its proposed unsafe edit."""

    row: int
    caption: str
    category: str
    unsafe: str | None = None
    alignment: float = 0.0


def propose(captions: Sequence[str], params: NsfwcapsParams, rewriter: Rewriter, seed: int) -> list[Candidate]:
    """One candidate per caption that passes the age-word filter; categories go round in a seeded order."""
    kept = np.flatnonzero(~filter_age_words((caption,) for caption in captions))
    order = rng(seed, STAGE, "order").permutation(kept)
    names = [params.categories[i % len(params.categories)] for i in range(len(order))]
    candidates = [Candidate(int(row), captions[row], name) for row, name in zip(order, names, strict=True)]
    edits = rewriter.rewrite([c.caption for c in candidates], [c.category for c in candidates])
    for candidate, edit in zip(candidates, edits, strict=True):
        candidate.unsafe = edit
    return candidates


def select(
    captions: Sequence[str], params: NsfwcapsParams, rewriter: Rewriter, embed: Callable[[list[str]], Tensor], seed: int
) -> tuple[list[Candidate], list[dict[str, object]]]:
    """The benchmark's candidates and the rows of table "filters". `embed` gives (N, D) frozen text embeddings.

    Raises NearsafeError naming the counts where fewer than `params.size` quadruples are left.
    """
    candidates = propose(captions, params, rewriter, seed)
    counts = [("age_words_safe", f"lexicon {LEXICON_VERSION}", len(captions), len(candidates))]

    def keep(name: str, version: str, chosen: list[Candidate]) -> None:
        nonlocal candidates
        counts.append((name, version, len(candidates), len(chosen)))
        candidates = chosen

    keep("no_edit", rewriter.name, [c for c in candidates if c.unsafe and c.unsafe != c.caption])
    refused = filter_age_words((c.unsafe,) for c in candidates)
    keep(
        "age_words_unsafe",
        f"lexicon {LEXICON_VERSION}",
        [c for c, bad in zip(candidates, refused, strict=True) if not bad],
    )
    keep("duplicate", "1", unique(candidates))
    measure_alignment(candidates, embed)
    keep(
        "alignment", f"cosine >= {params.min_alignment}", [c for c in candidates if c.alignment >= params.min_alignment]
    )
    keep("category_balance", "equal counts", balanced(candidates, params))
    if len(candidates) < params.size:
        left = ", ".join(f"{name} {before} -> {after}" for name, _, before, after in counts)
        raise NearsafeError(
            f"build_nsfwcaps.size: asked for {params.size} quadruples, {len(candidates)} are left: {left}"
        )
    keep("requested_size", str(params.size), candidates[: params.size])
    rows = [
        {
            "stage": STAGE,
            "set": "nsfwcaps",
            "filter": f"{i}_{name}",
            "version": version,
            "n_before": before,
            "n_dropped": before - after,
            "n_after": after,
        }
        for i, (name, version, before, after) in enumerate(counts)
    ]
    return candidates, rows


def unique(candidates: list[Candidate]) -> list[Candidate]:
    """The first candidate of each safe and of each unsafe text."""
    seen: set[str] = set()
    chosen = []
    for candidate in candidates:
        if not {candidate.caption, str(candidate.unsafe)} & seen:
            chosen.append(candidate)
        seen |= {candidate.caption, str(candidate.unsafe)}
    return chosen


def measure_alignment(candidates: list[Candidate], embed: Callable[[list[str]], Tensor]) -> None:
    """Set each candidate's cosine of safe and unsafe caption."""
    if not candidates:
        return
    safe, unsafe = embed([c.caption for c in candidates]), embed([str(c.unsafe) for c in candidates])
    for candidate, value in zip(candidates, cosine_similarity(safe, unsafe).tolist(), strict=True):
        candidate.alignment = value


def balanced(candidates: list[Candidate], params: NsfwcapsParams) -> list[Candidate]:
    """At most ceil(size / categories) of each category, interleaved so that any prefix is balanced too."""
    quota = -(-params.size // len(params.categories))
    taken: Counter[str] = Counter()
    ranked = []
    for candidate in candidates:
        if taken[candidate.category] < quota:
            ranked.append((taken[candidate.category], params.categories.index(candidate.category), candidate))
            taken[candidate.category] += 1
    return [candidate for _, _, candidate in sorted(ranked, key=lambda r: r[:2])]
