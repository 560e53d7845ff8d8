"""CLIP score: 100 * cosine of image and prompt under the *undefended* CLIP (evaluation specification §4.2)."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def clip_scores(images: Tensor, texts: Tensor) -> Tensor:
    """(N,) float64 of paired projected embeddings (N, D); range -100 to 100, not clipped at 0."""
    if images.shape != texts.shape or images.ndim != 2:
        raise ValueError(f"expected paired embeddings (N, D), got {tuple(images.shape)} and {tuple(texts.shape)}")
    return 100 * (normalize(images.to(torch.float64), dim=1) * normalize(texts.to(torch.float64), dim=1)).sum(1)
