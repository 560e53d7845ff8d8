"""Safe-CLIP (Poppi et al., ECCV 2024, arXiv 2311.16254), variant `frozen`: safe_clip.md sections 1 and 3.

The reference is the frozen pre-trained model, as the paper's equations say. The released code compares with a model
that carries the same adapters (section 4); that variant is not this one. InfoNCE sees the batch's other rows as
negatives, so the batch size is part of the method.
"""

from dataclasses import dataclass

from pipeline.defences.losses import cosine_distance, info_nce
from pipeline.defences.protocol import Batch, Kind, Terms, Weights

__all__ = ["KIND", "Params", "cosine_distance", "info_nce", "normalise", "terms"]

KIND: Kind = "trained"


@dataclass(frozen=True)
class Params:
    """The eight lambdas, in the paper's order 0.1, 0.1, 0.1, 0.2, 0.25, 0.25, 0.25, 0.5; the contrastive scale."""

    weights: Weights
    nce_scale: float = 100.0


def normalise(weights: Weights) -> dict[str, float]:
    """lambda_k / sum(lambda) / 8: the total is (sum_k lambda_k L_k / sum_k lambda_k) / 8."""
    values = vars(weights)
    return {name: value / sum(values.values()) / 8 for name, value in values.items()}


def terms(batch: Batch, params: Params) -> Terms:
    """The eight terms of safe_clip.md section 1; in its table's order text_safe_loss, ..., G_Sref."""
    scale = params.nce_scale
    losses = {
        "text_preserve_uni": cosine_distance(batch.text_safe, batch.ref_text_safe),
        "text_redirect_uni": cosine_distance(batch.text_unsafe, batch.ref_text_safe),
        "image_preserve_uni": cosine_distance(batch.image_safe, batch.ref_image_safe),
        "image_redirect_uni": cosine_distance(batch.image_unsafe, batch.ref_image_safe),
        "text_preserve_cross": info_nce(batch.text_safe, batch.ref_image_safe, scale),
        "text_redirect_cross": info_nce(batch.text_unsafe, batch.ref_image_safe, scale),
        "image_preserve_cross": info_nce(batch.image_safe, batch.ref_text_safe, scale),
        "image_redirect_cross": info_nce(batch.image_unsafe, batch.ref_text_safe, scale),
    }
    weights = normalise(params.weights)
    return {name: (weights[name], loss) for name, loss in losses.items()}
