"""Losses on token states: DES (des.md sections 2 and 3) and the CMU report's five extensions (sections 8 and 11).

Pure functions of sets of vectors, (B, W) or (B, L, D), W = L * D: the whole of a prompt's token states, padding
included, flattened. All are float32 or float64, one dtype a call, which a result keeps unless it says otherwise. Losses
are scalars, means over the batch. What comes from the undefended model is a constant: no gradient flows into it.
Numbers of equations are the paper's (arXiv 2501.18877) or the report's. Where the report, its code and mathematics
differ, des.md section 11 decides.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.defences.losses import cosine, cosine_distance
from pipeline.mining import farthest

Reduce = Literal["mean", "sum"]

_SEARCH_ENTRIES = 1 << 24  # numbers in one block of the search for targets: 64 MB


def target_vectors(unsafe: Tensor, safe: Tensor, concept: Tensor, alpha: float) -> Tensor:
    """t_i = s*_i - alpha n/|n|, with s*_i the least similar of all safe vectors: Eqs. 1 and 2.

    Undefended vectors: unsafe (N, ...), safe (M, ...), concept n of one vector's size. Returns (N, ...), of safe's
    dtype. s* is not normalised; n is, over all its entries. Raises ValueError for sizes that differ and for vectors of
    length 0, the concept among them.
    """
    return shift(safe[least_similar(unsafe, safe)], concept, -alpha)


def least_similar(unsafe: Tensor, safe: Tensor) -> Tensor:
    """Row (N,) int64 of the safe vector with the lowest cosine to each unsafe one; ties go to the lowest row."""
    flat = unsafe.flatten(1)
    index, _ = farthest(flat, safe.flatten(1), 1, chunk=max(1, _SEARCH_ENTRIES // flat.shape[1]))
    return index[:, 0].to(safe.device)


def unsafe_neutralization(current: Tensor, target: Tensor) -> Tensor:
    """L_u, UEN: mean_i (1 - cos(u~_i, t_i)): Eq. 3."""
    return cosine_distance(current.flatten(1), target.detach().flatten(1))


def margin_neutralization(current: Tensor, target: Tensor, margin: float) -> Tensor:
    """Margin form of UEN: mean_i max(0, m_u - cos(u~_i, t_i)). The report's Eq. 8 names it and defines it nowhere."""
    return _hinge(current, target, margin)


def safe_preservation(current: Tensor, original: Tensor, concept: Tensor, alpha: float, *, pala: bool = True) -> Tensor:
    """L_s, SEP with PALA: mean_i (1 - cos(s~_i, s_i)) + mean_i (1 - cos(s~_i + alpha n/|n|, s_i)): Eqs. 4 and 5.

    `pala` false leaves the second mean out.
    """
    kept, original = current.flatten(1), original.detach().flatten(1)
    loss = cosine_distance(kept, original)
    return loss + cosine_distance(shift(kept, concept, alpha), original) if pala else loss


def margin_preservation(
    current: Tensor, original: Tensor, concept: Tensor, alpha: float, margin: float, *, pala: bool = True
) -> Tensor:
    """L_s with max(0, m_s - cos) in place of 1 - cos in both of its parts: report Eq. 6, as its code has it."""
    kept, original = current.flatten(1), original.detach().flatten(1)
    loss = _hinge(kept, original, margin)
    return loss + _hinge(shift(kept, concept, alpha), original, margin) if pala else loss


def concept_neutralization(current: Tensor, empty: Tensor) -> Tensor:
    """L_n, NEN: 1 - cos(n~, e_0) of one vector each; n~ carries gradient, e_0 does not: Eq. 6."""
    return cosine_distance(current.reshape(1, -1), empty.detach().reshape(1, -1))


def multi_concept_neutralization(current: Tensor, empty: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """sum_k w_k (1 - cos(e~_k, e_0)) over K concepts (K, ...), in place of L_n: report Eq. 2. No weights: 1/K each.

    The concepts' vectors must come from the encoder in training: without a gradient in them this term does nothing.
    """
    if not len(current):
        raise ValueError("no concepts")
    distance = 1 - cosine(current.flatten(1), empty.detach().reshape(1, -1).expand(len(current), -1))
    return distance.mean() if weights is None else distance @ distance.new_tensor(list(weights))


def push_origin(current: Tensor, original: Tensor) -> Tensor:
    """mean_i cos(u~_i, u_i): off the vector that the undefended model gave the same prompt (report Eq. 4)."""
    return cosine(current.flatten(1), original.detach().flatten(1)).mean()


def push_harm(current: Tensor, centres: Tensor, reduce: Reduce = "mean") -> Tensor:
    """mean_i of cos(u~_i, e_k), mean (the report's code) or sum (its Eq. 5) over K centres (K, ...)."""
    return _over(_cosines(current, centres, "centres"), reduce)


def orthogonality(current: Tensor, directions: Tensor, reduce: Reduce = "mean") -> Tensor:
    """mean_i of |cos(u~_i, v_k)|, mean (the report's code) or sum (its Eq. 3) over K directions (K, ...)."""
    return _over(_cosines(current, directions, "directions").abs(), reduce)


def principal_directions(harmful: Tensor, k: int) -> Tensor:
    """The k main axes (k, W) of centred harmful vectors (N, ...): orthonormal, float32, largest variance first.

    The largest entry of each is positive. Raises ValueError for k outside 1..N-1 and for vectors of lower rank.
    """
    wide = harmful.detach().flatten(1).double()
    if not 1 <= k < len(wide):
        raise ValueError(f"{len(wide)} vectors have at most {len(wide) - 1} directions, not {k}")
    _, spread, axes = torch.linalg.svd(wide - wide.mean(0), full_matrices=False)
    if spread[k - 1] <= 1e-6 * spread[0]:
        raise ValueError(f"the harmful vectors have fewer than {k} directions: are some of them equal?")
    largest = axes[:k].gather(1, axes[:k].abs().argmax(1, keepdim=True))
    return (axes[:k] * largest.sign()).float()


def mmd(current: Tensor, safe: Tensor, bandwidths: Sequence[float] | None = None) -> Tensor:
    """Squared MMD of two samples, biased estimate, Gaussian kernel exp(-d^2 / (2 b^2)): report Eq. 7.

    current (B, ...), safe (M, ...), undefended. Several bandwidths b: the mean of their kernels. None: 2 b^2 is the
    median of the pooled squared distances, a constant to the gradient. The report's b = 1 makes the kernel vanish.
    Computed in float64. Raises ValueError where the median is 0: no kernel fits, and its gradient would be infinite.
    """
    near = _kernel(current, safe, bandwidths)
    n = len(current)
    return (near[:n, :n].mean() + near[n:, n:].mean() - 2 * near[:n, n:].mean()).to(current.dtype)


@torch.no_grad()
def kernel_mean(current: Tensor, safe: Tensor, bandwidths: Sequence[float] | None = None) -> Tensor:
    """Mean kernel value of different vectors: near 0 or 1 the MMD has no gradient; 0.05 to 0.95 is sound."""
    near = _kernel(current, safe, bandwidths)
    return ((near.sum() - near.diagonal().sum()) / (len(near) * (len(near) - 1))).to(current.dtype)


def shift(vectors: Tensor, concept: Tensor, length: float) -> Tensor:
    """Vectors (B, ...) moved by `length` along the concept's direction, which is normalised over all its entries.

    Raises ValueError for a concept of another size than a vector, and for one that is zero and so has no direction.
    """
    unit = normalize(concept.detach().flatten(), dim=0, eps=1e-12)
    if unit.numel() != vectors[0].numel():
        raise ValueError(f"a concept of {unit.numel()} entries for vectors of {vectors[0].numel()}")
    if not unit.any():
        raise ValueError("the concept is the zero vector: it has no direction")
    return vectors + length * unit.reshape(vectors.shape[1:])


def _hinge(current: Tensor, reference: Tensor, margin: float) -> Tensor:
    return (margin - cosine(current.flatten(1), reference.detach().flatten(1))).clamp_min(0).mean()


def _cosines(current: Tensor, others: Tensor, name: str) -> Tensor:
    """Cosines (B, K) of vectors (B, ...) with constants (K, ...). Raises ValueError where there are none."""
    if not len(others):
        raise ValueError(f"no {name}")
    unit, fixed_unit = (normalize(x.flatten(1), dim=1) for x in (current, others.detach()))
    return unit @ fixed_unit.T


def _over(values: Tensor, reduce: Reduce) -> Tensor:
    """The batch's mean of values (B, K), mean or sum over K."""
    return values.mean() if reduce == "mean" else values.sum(1).mean()


def _kernel(current: Tensor, safe: Tensor, bandwidths: Sequence[float] | None) -> Tensor:
    """Kernel values (B + M, B + M) float64 of the pooled vectors."""
    # In float32 this form of a distance cancels where vectors are close to one another.
    pooled = torch.cat([current.flatten(1), safe.detach().flatten(1)]).double()
    length = pooled.square().sum(1)
    squared = (length[:, None] + length[None, :] - 2 * pooled @ pooled.T).clamp_min(0)
    if bandwidths is None:
        widths = [_median(squared.detach(), length.detach())]
    else:
        widths = [2 * b**2 for b in bandwidths]
    return torch.stack([torch.exp(-squared / width) for width in widths]).mean(0)


def _median(squared: Tensor, length: Tensor) -> Tensor:
    """Median squared distance of different vectors, of distances and squared lengths (N, N), (N,) float64."""
    median = squared[~torch.eye(len(squared), dtype=torch.bool, device=squared.device)].median()
    # Equal vectors are not always exactly 0 apart in this form of a distance.
    if median <= 64 * torch.finfo(squared.dtype).eps * length.max():
        raise ValueError(
            f"at least half of the {len(squared)} vectors' distances are 0, so that their median is no kernel width: "
            "set bandwidths, or train on fewer equal prompts"
        )
    return median
