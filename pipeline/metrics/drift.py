"""How far a defended CLIP has moved from the undefended one (evaluation specification §7)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel

Tower = Literal["text", "vision"]
_PREFIXES = {"text": ("text_model.", "text_projection."), "vision": ("vision_model.", "visual_projection.")}


@dataclass(frozen=True)
class WeightDrift:
    """`l2`: Euclidean length of the weight change over all parameters of a tower, projection included.

    `rms`: l2 / sqrt(number of parameters). `parameters`: that number.
    """

    l2: float
    rms: float
    parameters: int


def weight_drift(model: CLIPModel, base: CLIPModel, tower: Tower) -> WeightDrift:
    """Drift of one tower of a merged model. Raises ValueError where the two are not of one architecture."""
    changed, original = (_parameters(m, tower) for m in (model, base))
    if {n: p.shape for n, p in changed.items()} != {n: p.shape for n, p in original.items()}:
        raise ValueError(f"the {tower} towers have different parameters")
    squares = sum(float(((p.double() - original[name].double()) ** 2).sum()) for name, p in changed.items())
    count = sum(p.numel() for p in changed.values())
    return WeightDrift(squares**0.5, (squares / count) ** 0.5, count)


def tower_sizes(model: CLIPModel) -> dict[str, int]:
    """Number of parameters of each tower, its projection included."""
    return {tower: sum(p.numel() for p in _parameters(model, tower).values()) for tower in _PREFIXES}


def embedding_shift(embeddings: Tensor, base: Tensor) -> Tensor:
    """1 - cosine, (N,) float64, of each item's embedding (N, D) under the defended and the undefended model."""
    if embeddings.shape != base.shape or embeddings.ndim != 2:
        raise ValueError(f"expected paired embeddings (N, D), got {tuple(embeddings.shape)}, {tuple(base.shape)}")
    if torch.equal(embeddings, base):
        return torch.zeros(len(base), dtype=torch.float64)  # not 1e-17, of either sign
    return 1 - (normalize(embeddings.to(torch.float64), dim=1) * normalize(base.to(torch.float64), dim=1)).sum(1)


def _parameters(model: CLIPModel, tower: Tower) -> dict[str, Tensor]:
    return {n: p.detach().cpu() for n, p in model.named_parameters() if n.startswith(_PREFIXES[tower])}
