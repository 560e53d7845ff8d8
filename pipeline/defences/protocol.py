"""What a defence is: one module of this folder with the names below, and one entry under `defences` in params.yaml.

    KIND: Kind                              "none" exports the base model, "trained" is tuned by the training loop,
                                            "inference" leaves the model and acts inside the sampler, "imported" is a
                                            checkpoint of others: its Params have layout, folder and hash
    class Params                            frozen dataclass: the entry's keys besides `method` and `train`
    INPUT: Input                            trained only, optional: "pooled" (default) gets projected embeddings of
                                            captions and images, "tokens" gets token states of prompts
    TOWERS: tuple[str, ...]                 trained only, optional: the towers that are tuned; default both, and the
                                            text tower alone where INPUT is "tokens", which has no other
    def terms(batch, params) -> Terms       trained only: the loss, term by term, of a Batch or of a TokenBatch
    def targets(frozen, params) -> dict     trained only, optional: the method's own tables, (P, ...) each, made once of
                                            Frozen or FrozenTokens; a batch carries its rows of them in `own`
    def callbacks(params) -> Sequence       inference only: callbacks for the sampler loop (pipeline.models.callbacks)

Pooled only, optional:

    def reference(params) -> Reference      what `ref_*` of a batch are; default "frozen"

Tokens only, optional. Such a defence needs prompts alone: pairs without images train.

    def live_texts(params) -> tuple[str]    texts that every batch encodes with the tower in training, with gradient
    def frozen_texts(params) -> tuple[str]  further texts whose undefended states the method wants
    def fixed(frozen, params) -> dict       tensors made once from FrozenTokens; every batch carries them whole, and the
                                            checkpoint keeps them in defence.safetensors

The loss of a batch is the sum of weight times value over `terms`; each term is logged (one of weight 0 only that), and
named when it is NaN. A defence imports torch, numpy, `protocol`, `losses`, `token_losses`, `pipeline.errors` and
`pipeline.mining`, and nothing else of ours, so that DVC can track it as one file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["none", "trained", "inference", "imported"]
Reference = Literal["frozen", "live"]
Input = Literal["pooled", "tokens"]
Tower = Literal["text", "vision"]
Terms = dict[str, tuple[float, Tensor]]


@dataclass(frozen=True)
class Frozen:
    """All P training pairs under the undefended model: embeddings (P, D), normalised, in order of pair ids.

    `nearest` (P, K) int64: the pairs whose safe captions are nearest to the unsafe caption, nearest first.
    `category` (P,) int64: a number for each category of unsafe content.
    """

    text_safe: Tensor
    text_unsafe: Tensor
    image_safe: Tensor
    image_unsafe: Tensor
    nearest: Tensor
    category: Tensor


@dataclass(frozen=True)
class Batch:
    """Embeddings of B quadruples, each (B, D), not necessarily normalised.

    The first four come from the towers in training and carry gradients; those of a tower outside `TOWERS` are the
    frozen ones. `ref_*` and `prox_*` are rows of the tables that the `embed` stage wrote with the undefended model.
    Only a defence whose `reference` is "live" gets as `ref_*` a second, gradient-free forward of the model in training
    itself: the aliased reference of safe_clip.md section 4, kept to show what that bug costs.
    """

    text_safe: Tensor
    text_unsafe: Tensor
    image_safe: Tensor
    image_unsafe: Tensor
    ref_text_safe: Tensor
    ref_text_unsafe: Tensor
    ref_image_safe: Tensor
    ref_image_unsafe: Tensor
    prox_text: Tensor
    """The nearest safe caption of the unsafe caption, in the whole training pool."""
    prox_image: Tensor
    """The image paired with that caption."""
    own: Mapping[str, Tensor]
    """The batch's rows (B, D) of the tables that the method's `targets` made."""
    frozen: Frozen
    """The whole training pool under the undefended model."""


@dataclass(frozen=True)
class States:
    """Token states (B, L, D) float32 after the final layer norm, of prompts padded to the tower's longest text L.

    The padding's states are included, as in Stable Diffusion. `ends` (B,) int64: place of each prompt's end token.
    """

    states: Tensor
    ends: Tensor

    @property
    def at_end(self) -> Tensor:
        """The end tokens' states (B, D): what CLIP pools."""
        return self.states[torch.arange(len(self.ends), device=self.states.device), self.ends]

    def rows(self, index: Tensor) -> "States":
        """The states of some of the prompts: `index` (N,) int64, on the states' device."""
        return States(self.states[index], self.ends[index])


@dataclass(frozen=True)
class FrozenTokens:
    """All P training prompt pairs under the undefended text tower.

    `codebook` holds the C distinct safe captions, 4 * C * L * D bytes; `safe` (P,) int64 is each pair's row of it.
    Unsafe states are not kept: `unsafe()` streams them, in the pairs' order, some hundred prompts at a time.
    `prompts`: every training caption's text. `words` are the texts of `live_texts` and `frozen_texts`, in the order of
    `vocabulary`.
    """

    codebook: States
    safe: Tensor
    unsafe: Callable[[], Iterator[States]]
    prompts: frozenset[str]
    vocabulary: tuple[str, ...]
    words: States

    def of(self, texts: Sequence[str]) -> States:
        """States (K, L, D) of listed texts. Raises ValueError for one that neither hook lists."""
        if absent := [text for text in texts if text not in self.vocabulary]:
            raise ValueError(f"{absent[0]!r} is in neither live_texts nor frozen_texts")
        index = torch.tensor([self.vocabulary.index(text) for text in texts], dtype=torch.int64)
        return self.words.rows(index.to(self.words.ends.device))


@dataclass(frozen=True)
class TokenBatch:
    """Token states of B prompt pairs: of the tower in training (with gradient), and of the undefended one."""

    safe: States
    unsafe: States
    live: States
    """The K texts of `live_texts`, current, with gradient: (K, L, D), K possibly 0."""
    ref_safe: States
    ref_unsafe: Callable[[], States]
    """Computed when called: most methods compare an unsafe prompt with something else."""
    own: Mapping[str, Tensor]
    """The batch's rows (B, ...) of the tables that the method's `targets` made."""
    fixed: Mapping[str, Tensor]
    """The tensors that the method's `fixed` made, whole."""
    frozen: FrozenTokens


@dataclass(frozen=True)
class Weights:
    """Weights of the eight terms that Safe-CLIP and SafeR-CLIP have in common: tower, purpose, form.

    "uni" compares with the same modality (1 - cosine), "cross" with the other one.
    """

    text_preserve_uni: float
    text_redirect_uni: float
    image_preserve_uni: float
    image_redirect_uni: float
    text_preserve_cross: float
    text_redirect_cross: float
    image_preserve_cross: float
    image_redirect_cross: float

    def redirecting(self, factor: float) -> "Weights":
        """The same with every redirection weight times `factor`: one knob for a sweep of safety against utility."""
        return Weights(**{n: w * factor if "redirect" in n else w for n, w in vars(self).items()})

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0 or sum(vars(self).values()) <= 0:
            raise ValueError(f"weights must be 0 or more and not all 0, got {vars(self)}")
