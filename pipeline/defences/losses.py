"""Losses that several defences share: pure functions of embeddings (B, D), a scalar mean out.

Embeddings need not be normalised; half precision is computed in float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Row-wise cosine (B,) of two sets of embeddings (B, D). Raises ValueError when the shapes differ."""
    a, b = _pair(a, b)
    return (F.normalize(a, dim=-1) * F.normalize(b, dim=-1)).sum(dim=-1)


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """mean_i (1 - cos(a_i, b_i)), in [0, 2]: D(a, b) of safe_clip.md section 1. Embeddings (B, D), scalar out."""
    return (1 - cosine(a, b)).mean()


def info_nce(a: Tensor, b: Tensor, scale: float = 100.0) -> Tensor:
    """Symmetric contrastive loss of matched rows: CL(a, b) of safe_clip.md section 1. Embeddings (B, D), scalar out.

    The scale is fixed, not learned. Released code uses exp(4.6052) = 100.003; the paper's value is 100.
    """
    a, b = _pair(a, b)
    logits = scale * F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T
    matched = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, matched) + F.cross_entropy(logits.T, matched)) / 2


def _pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"expected two sets of embeddings of one shape (B, D), got {tuple(a.shape)}, {tuple(b.shape)}")
    return _wide(a), _wide(b)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
