"""DES, Distorting Embedding Space (Ahn, Jung, NeurIPS 2025, arXiv 2501.18877), and its five extensions (CMU report).

des.md sections 1 to 4, 8 and 11. A full fine-tune of the text tower: unsafe prompts go to the least similar safe
vector, moved against the direction of a concept; safe prompts stay; the concept becomes the empty prompt. The loss
functions are those of `token_losses`. The extensions are the corrected ones: concepts are embedded inside the graph,
the MMD kernel's width fits the data, directions come from a PCA, and an empty list is an error.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.agewords import mentions_age
from pipeline.defences.protocol import FrozenTokens, Input, Kind, States, Terms, TokenBatch
from pipeline.defences.token_losses import (
    Reduce,
    concept_neutralization,
    kernel_mean,
    least_similar,
    margin_neutralization,
    margin_preservation,
    mmd,
    multi_concept_neutralization,
    orthogonality,
    principal_directions,
    push_harm,
    push_origin,
    safe_preservation,
    shift,
    target_vectors,
    unsafe_neutralization,
)
from pipeline.errors import NearsafeError

KIND: Kind = "trained"
INPUT: Input = "tokens"
__all__ = [
    "INPUT",
    "KIND",
    "Params",
    "concept_neutralization",
    "fixed",
    "frozen_texts",
    "live_texts",
    "margin_neutralization",
    "margin_preservation",
    "mmd",
    "multi_concept_neutralization",
    "orthogonality",
    "principal_directions",
    "push_harm",
    "push_origin",
    "safe_preservation",
    "target_vectors",
    "targets",
    "terms",
    "unsafe_neutralization",
]


@dataclass(frozen=True)
class MultiConcept:
    """Neutralise several concepts instead of one; `weights` one each, null: 1/K each, as the report's code."""

    concepts: tuple[str, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_texts("mcn.concepts", self.concepts)
        if self.weights is None:
            return
        if len(self.weights) != len(self.concepts):
            raise ValueError(f"mcn: {len(self.concepts)} concepts and {len(self.weights)} weights")
        for weight in self.weights:
            _check_number("mcn.weights", weight)
        if not any(self.weights):
            raise ValueError("mcn.weights: all 0, no concept is neutralised")


@dataclass(frozen=True)
class PushHarm:
    """Push unsafe prompts off the undefended vectors of concepts. `reduce` over the K concepts."""

    weight: float
    concepts: tuple[str, ...]
    reduce: Reduce = "mean"

    def __post_init__(self) -> None:
        _check_number("push_harm.weight", self.weight)
        _check_texts("push_harm.concepts", self.concepts)


@dataclass(frozen=True)
class Orthogonality:
    """Turn unsafe prompts out of the K main directions of `harmful`, prompts that are not trained on."""

    weight: float
    harmful: tuple[str, ...]
    directions: int = 8
    reduce: Reduce = "mean"

    def __post_init__(self) -> None:
        _check_number("orthogonality.weight", self.weight)
        _check_texts("orthogonality.harmful", self.harmful)
        distinct = len(set(self.harmful))
        if not 1 <= self.directions < distinct:
            raise ValueError(f"orthogonality: {distinct} distinct harmful prompts have no {self.directions} directions")


@dataclass(frozen=True)
class Margin:
    """Cosines beyond which a loss is zero: of safe preservation, and of unsafe neutralisation (null: no margin)."""

    safe: float
    unsafe: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("safe", self.safe), ("unsafe", self.unsafe)):
            if value is not None and not -1 < value <= 1:
                raise ValueError(f"margin.{name} is a cosine: expected above -1 and up to 1, got {value}")


@dataclass(frozen=True)
class Mmd:
    """Unsafe prompts distributed as safe ones. `bandwidths`: lengths; null: the median heuristic, batch by batch."""

    weight: float
    bandwidths: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_number("mmd.weight", self.weight)
        if self.bandwidths == ():
            raise ValueError("mmd.bandwidths: empty; null for the median heuristic")
        for width in self.bandwidths or ():
            if not 0 < width < math.inf:
                raise ValueError(f"mmd.bandwidths: expected finite lengths above 0, got {width}")


@dataclass(frozen=True)
class Params:
    """The paper's alpha 200 is 0.8 of a vector's length, and lambda 0.3: its code's defaults are others.

    `concept` is the text of L_n and of the direction n. `uen`, `sep`, `pala`, `nen` switch the parts of DES for its
    ablations (PALA is a part of SEP). The rest are the extensions; null, or a weight of 0, is off.
    """

    concept: str
    alpha: float
    lam: float = 0.3
    embedding: Literal["tokens", "eos"] = "tokens"
    uen: bool = True
    sep: bool = True
    pala: bool = True
    nen: bool = True
    mcn: MultiConcept | None = None
    orthogonality: Orthogonality | None = None
    push_origin: float = 0.0
    push_harm: PushHarm | None = None
    margin: Margin | None = None
    mmd: Mmd | None = None

    def __post_init__(self) -> None:
        _check_texts("concept", [self.concept])
        _check_number("alpha", self.alpha)
        _check_number("push_origin", self.push_origin)
        if not 0 <= self.lam <= 1:
            raise ValueError(f"lam: expected from 0 to 1, got {self.lam}")
        if not (self.uen or self.sep or self.nen):
            raise ValueError("uen, sep and nen are all off: nothing of DES is left")
        if self.mcn and not self.nen:
            raise ValueError("mcn takes the place of nen: leave nen on")
        if self.margin and not self.sep:
            raise ValueError("margin alters sep: leave sep on")
        if self.margin and self.margin.unsafe is not None and not self.uen:
            raise ValueError("margin.unsafe alters uen: leave uen on")


def live_texts(params: Params) -> tuple[str, ...]:
    """Concepts that every step embeds with the encoder in training."""
    if params.mcn:
        return params.mcn.concepts
    return (params.concept,) if params.nen else ()


def frozen_texts(params: Params) -> tuple[str, ...]:
    """Texts of n, e_0, the centres and the harmful prompts."""
    centres = params.push_harm.concepts if params.push_harm else ()
    harmful = params.orthogonality.harmful if params.orthogonality else ()
    return (params.concept, "", *centres, *harmful)


def targets(frozen: FrozenTokens, params: Params) -> dict[str, Tensor]:
    """Row (P,) of the codebook with s*_i, for every pair: t_i itself is made batch by batch."""
    safe = _vectors(frozen.codebook, params)
    return {"least_similar": torch.cat([least_similar(_vectors(part, params), safe) for part in frozen.unsafe()])}


def fixed(frozen: FrozenTokens, params: Params) -> dict[str, Tensor]:
    """n and e_0 (W,), centres (K, W), directions (K, W). Raises NearsafeError for a harmful prompt that is trained on.

    Equal harmful prompts count once.
    """
    words = {"concept": params.concept, "empty": ""}
    found = {name: _vectors(frozen.of([text]), params)[0] for name, text in words.items()}
    if params.push_harm:
        found["centres"] = _vectors(frozen.of(params.push_harm.concepts), params)
    if params.orthogonality:
        harmful = tuple(dict.fromkeys(params.orthogonality.harmful))
        if seen := [text for text in harmful if text in frozen.prompts]:
            raise NearsafeError(f"orthogonality.harmful: {seen[0]!r} is a training prompt, directions need others")
        found["directions"] = principal_directions(
            _vectors(frozen.of(harmful), params), params.orthogonality.directions
        )
    return found


def terms(batch: TokenBatch, params: Params) -> Terms:
    """Eq. 7, lambda L_s + (1 - lambda) (L_u + L_n), and the extensions of report Eq. 8. Weight 0: only logged."""
    n, alpha, lam = batch.fixed["concept"], params.alpha, params.lam
    safe, original, unsafe = (_vectors(s, params) for s in (batch.safe, batch.ref_safe, batch.unsafe))
    farthest = batch.frozen.codebook.rows(batch.own["least_similar"])
    target = shift(_vectors(farthest, params), n, -alpha)
    found: Terms = {}
    if params.uen:
        found["unsafe"] = (1 - lam, _unsafe(unsafe, target, params))
    if params.sep:
        found["safe"] = (lam, _safe(safe, original, n, params))
    if params.mcn:
        loss = multi_concept_neutralization(_vectors(batch.live, params), batch.fixed["empty"], params.mcn.weights)
        found["concepts"] = (1 - lam, loss)
    elif params.nen:
        found["concept"] = (1 - lam, concept_neutralization(_vectors(batch.live, params), batch.fixed["empty"]))
    return found | _extensions(batch, unsafe, original, params) | _observed(original, target)


def _extensions(batch: TokenBatch, unsafe: Tensor, original: Tensor, params: Params) -> Terms:
    found: Terms = {}
    if (ortho := params.orthogonality) and ortho.weight:
        found["orthogonality"] = (ortho.weight, orthogonality(unsafe, batch.fixed["directions"], ortho.reduce))
    if params.push_origin:
        found["push_origin"] = (params.push_origin, push_origin(unsafe, _vectors(batch.ref_unsafe(), params)))
    if (push := params.push_harm) and push.weight:
        found["push_harm"] = (push.weight, push_harm(unsafe, batch.fixed["centres"], push.reduce))
    if params.mmd and params.mmd.weight:
        found["mmd"] = (params.mmd.weight, mmd(unsafe, original, params.mmd.bandwidths))
        found["mmd_kernel"] = (0.0, kernel_mean(unsafe, original, params.mmd.bandwidths))
    return found


@torch.no_grad()
def _observed(original: Tensor, target: Tensor) -> Terms:
    """|s|, to judge alpha by, and cos(t_i, t_j) of different pairs, which is 1 where alpha drowns s* (des.md 11.2)."""
    unit = torch.nn.functional.normalize(target, dim=1)
    off = (unit.sum(0).square().sum() - len(unit)) / max(1, len(unit) * (len(unit) - 1))
    return {"safe_length": (0.0, original.norm(dim=1).mean()), "target_cosine": (0.0, off)}


def _unsafe(unsafe: Tensor, target: Tensor, params: Params) -> Tensor:
    if params.margin and params.margin.unsafe is not None:
        return margin_neutralization(unsafe, target, params.margin.unsafe)
    return unsafe_neutralization(unsafe, target)


def _safe(safe: Tensor, original: Tensor, n: Tensor, params: Params) -> Tensor:
    if params.margin:
        return margin_preservation(safe, original, n, params.alpha, params.margin.safe, pala=params.pala)
    return safe_preservation(safe, original, n, params.alpha, pala=params.pala)


def _vectors(states: States, params: Params) -> Tensor:
    """One vector (B, W) a prompt: all token states, or the end token's alone."""
    return states.states.flatten(1) if params.embedding == "tokens" else states.at_end


def _check_number(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: expected a finite number of 0 or more, got {value}")


def _check_texts(name: str, texts: Sequence[str]) -> None:
    """Texts that may be asked of the model. A blank one is the empty prompt, which is nobody's concept: e_0 itself."""
    if not texts:
        raise ValueError(f"{name}: empty")
    if blank := [text for text in texts if not text.strip()]:
        raise ValueError(f"{name}: {blank[0]!r} is blank")
    if young := [number for number, text in enumerate(texts) if mentions_age(text)]:
        raise ValueError(f"{name}: text {young[0]} matches the age-word filter")
