"""Safe-CLIP (Poppi et al., ECCV 2024, arXiv 2311.16254): safe_clip.md sections 1, 3 and 4.

Two variants of the reference T0, V0. `frozen`: the pre-trained model, as the paper's equations say. `aliased`: the
model in training itself, without gradient, as in the released code, where the "original" encoders carry the same
adapters (section 4): preservation 1 is then only dropout noise, and nothing anchors to the pre-trained CLIP. It is here
to show what that bug costs. InfoNCE sees the batch's other rows as negatives, so the batch size is part of the method.
"""

from dataclasses import dataclass
from typing import Literal

from pipeline.defences.losses import cosine_distance, info_nce
from pipeline.defences.protocol import Batch, Kind, Reference, Terms, Weights

__all__ = ["KIND", "Params", "cosine_distance", "info_nce", "normalise", "reference", "terms"]

KIND: Kind = "trained"


@dataclass(frozen=True)
class Params:
    """The eight lambdas, in the paper's order 0.1, 0.1, 0.1, 0.2, 0.25, 0.25, 0.25, 0.5; the contrastive scale.

    `proximity` aligns unsafe items with the nearest safe pair instead of the given one: SafeR-CLIP's idea on
    Safe-CLIP's loss, an ablation. `redirection` multiplies the four redirection weights.
    """

    weights: Weights
    nce_scale: float = 100.0
    variant: Literal["frozen", "aliased"] = "frozen"
    proximity: bool = False
    redirection: float = 1.0

    def __post_init__(self) -> None:
        if self.variant == "aliased" and self.proximity:
            raise ValueError("proximity needs the frozen reference: a target's embedding is not in an aliased batch")


def reference(params: Params) -> Reference:
    """What the references of a batch are."""
    return "live" if params.variant == "aliased" else "frozen"


def normalise(weights: Weights) -> dict[str, float]:
    """lambda_k / sum(lambda) / 8: the total is (sum_k lambda_k L_k / sum_k lambda_k) / 8."""
    values = vars(weights)
    return {name: value / sum(values.values()) / 8 for name, value in values.items()}


def terms(batch: Batch, params: Params) -> Terms:
    """The eight terms of safe_clip.md section 1; in its table's order text_safe_loss, ..., G_Sref."""
    scale = params.nce_scale
    text = batch.prox_text if params.proximity else batch.ref_text_safe
    image = batch.prox_image if params.proximity else batch.ref_image_safe
    losses = {
        "text_preserve_uni": cosine_distance(batch.text_safe, batch.ref_text_safe),
        "text_redirect_uni": cosine_distance(batch.text_unsafe, text),
        "image_preserve_uni": cosine_distance(batch.image_safe, batch.ref_image_safe),
        "image_redirect_uni": cosine_distance(batch.image_unsafe, image),
        "text_preserve_cross": info_nce(batch.text_safe, batch.ref_image_safe, scale),
        "text_redirect_cross": info_nce(batch.text_unsafe, image, scale),
        "image_preserve_cross": info_nce(batch.image_safe, batch.ref_text_safe, scale),
        "image_redirect_cross": info_nce(batch.image_unsafe, text, scale),
    }
    weights = normalise(params.weights.redirecting(params.redirection))
    return {name: (weights[name], loss) for name, loss in losses.items()}
