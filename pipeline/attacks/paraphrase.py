"""An adversary who words an unsafe caption so that proximal redirection aims far from its true safe scene.

Attack code is here to measure defences, nothing else: it sees captions of the benchmark and frozen embeddings.

A proximal target is the safe caption of the mining pool that is nearest to the unsafe one in the frozen text space
(`safer_clip.md` section 3). SafeR-CLIP leaves open how far that survives an adversary. Ours knows the pool and keeps
the meaning: among the wordings of a caption it takes the one whose nearest safe caption lies farthest from the
caption's true safe partner. A wording drawn at random from the same candidates is the control: what rewording does
without an aim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.agewords import LEXICON_VERSION, filter_age_words
from pipeline.errors import NearsafeError
from pipeline.mining import nearest

STAGE = "paraphrase"
_DECIMALS = 9  # cosines that agree so far are equal


@dataclass(frozen=True)
class ParaphraseParams:
    """Section `paraphrase`: which split of the benchmark is worded anew, and wordings in one forward pass."""

    split: str = "benchmark"
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {self.batch_size}")


class Paraphraser(Protocol):
    """Words captions anew: the world's grammar, or a language model."""

    name: str

    def paraphrase(self, captions: Sequence[str]) -> list[list[str]]:
        """For each caption other wordings of the same meaning, none where it knows none; the caption may be one."""
        ...


class Choice(NamedTuple):
    """Per caption: chosen candidate (Q,) int64, counted from the caption's first; cosines (Q,) float64 of true safe
    caption and nearest safe caption of the pool, for the first candidate and for the chosen one.
    """

    chosen: Tensor
    before: Tensor
    after: Tensor


def candidates(captions: Sequence[str], paraphraser: Paraphraser) -> tuple[list[list[str]], list[dict[str, object]]]:
    """Per caption its different wordings that pass the age-word filter, the caption itself first; rows of "filters".

    Raises NearsafeError for a caption whose own words do not pass.
    """
    written = [
        list(dict.fromkeys([caption, *others]))
        for caption, others in zip(captions, paraphraser.paraphrase(captions), strict=True)
    ]
    kept = []
    for wordings in written:
        refused = filter_age_words((text,) for text in wordings)
        if refused[0]:
            raise NearsafeError(f"{STAGE}: the age-word filter refuses the caption {wordings[0][:80]!r}")
        kept.append([text for text, bad in zip(wordings, refused, strict=True) if not bad])
    before, after = (sum(map(len, lists)) for lists in (written, kept))
    row = {"stage": STAGE, "set": "paraphrases", "filter": "age_words", "version": f"lexicon {LEXICON_VERSION}"}
    return kept, [{**row, "n_before": before, "n_dropped": before - after, "n_after": after}]


def choose(
    wordings: Tensor, counts: Sequence[int], pool: Tensor, truth: Tensor, draws: Sequence[int]
) -> dict[str, Choice]:
    """For each caption the wording whose nearest row of the pool has the lowest cosine to the true safe caption
    ("adversarial"), and the wording number `draws` modulo its count, the caption itself left out where it can be
    ("random").

    wordings (sum of counts, D): embeddings of all candidates, those of one caption after another, `counts` (Q) each.
    pool (M, D): safe captions of the mining pool. truth (Q, D): each caption's true safe caption. All in the frozen
    text space, any length. Ties go to the first wording, and in the pool to the lowest row, as in mining.
    Raises ValueError for counts below 1 or that do not add up.
    """
    if len(counts) != len(truth) or sum(counts) != len(wordings) or min(counts, default=1) < 1:
        raise ValueError(f"expected {len(truth)} counts of at least 1 that sum to {len(wordings)}, got {list(counts)}")
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64))
    target, _ = nearest(wordings, pool)
    aims, true = normalize(pool.double(), dim=1)[target[:, 0]], normalize(truth.double(), dim=1)[owner]
    cosine = (aims * true).sum(1)
    own = cosine.split(list(counts))
    picks = {
        "adversarial": [int(c.round(decimals=_DECIMALS).argmin()) for c in own],  # the first of equal values
        "random": [1 + draw % (count - 1) if count > 1 else 0 for draw, count in zip(draws, counts, strict=True)],
    }
    before = torch.stack([c[0] for c in own])
    return {
        kind: Choice(torch.tensor(pick), before, torch.stack([c[i] for c, i in zip(own, pick, strict=True)]))
        for kind, pick in picks.items()
    }
