"""SafeR-CLIP (Yousaf et al., AAAI 2026, arXiv 2511.16743): safer_clip.md sections 2 to 4, defaults of its section 10.

An unsafe item turns away from its frozen unsafe counterpart and towards the nearest safe caption of the whole training
pool, and that caption's image, by a relative loss. The safe item stays where the frozen model has it. The curriculum
(easy pairs first) is a knob of training, not of the loss. The paper publishes no loss weights: they are parameters.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from pipeline.defences.losses import cosine, cosine_distance, info_nce
from pipeline.defences.protocol import Batch, Kind, Terms, Weights

KIND: Kind = "trained"


@dataclass(frozen=True)
class Params:
    """Loss weights (all 1, or Safe-CLIP's lambdas term by term), scale in the relative loss (1: raw cosines).

    `redirection` multiplies the four redirection weights.
    """

    weights: Weights
    rel_scale: float = 1.0
    nce_scale: float = 100.0
    redirection: float = 1.0
    proximity: bool = True
    """False aligns with the given pair instead of the nearest safe one: Eqs. 3-4, the paper's first ablation."""


def relative_redirection(query: Tensor, unsafe_ref: Tensor, safe_ref: Tensor, scale: float = 1.0) -> Tensor:
    """mean_i log(1 + exp(scale * (cos(query_i, unsafe_ref_i) - cos(query_i, safe_ref_i)))): Eqs. 3, 4, 9, 10.

    Embeddings (B, D) in (normalised here), scalar out; equal similarities give ln 2. No in-batch negatives, and by
    default no temperature.
    """
    return F.softplus(scale * (cosine(query, unsafe_ref) - cosine(query, safe_ref))).mean()


def terms(batch: Batch, params: Params) -> Terms:
    """Four redirection terms (sections 2.2, 2.3) towards the proximal pair, four preservation terms (2.4)."""
    text = batch.prox_text if params.proximity else batch.ref_text_safe
    image = batch.prox_image if params.proximity else batch.ref_image_safe
    rel, nce = params.rel_scale, params.nce_scale
    losses = {
        "text_preserve_uni": cosine_distance(batch.text_safe, batch.ref_text_safe),
        "text_redirect_uni": cosine_distance(batch.text_unsafe, text),
        "image_preserve_uni": cosine_distance(batch.image_safe, batch.ref_image_safe),
        "image_redirect_uni": cosine_distance(batch.image_unsafe, image),
        "text_preserve_cross": info_nce(batch.text_safe, batch.ref_image_safe, nce),
        "text_redirect_cross": relative_redirection(batch.text_unsafe, batch.ref_image_unsafe, image, rel),
        "image_preserve_cross": info_nce(batch.image_safe, batch.ref_text_safe, nce),
        "image_redirect_cross": relative_redirection(batch.image_unsafe, batch.ref_text_unsafe, text, rel),
    }
    weights = params.weights.redirecting(params.redirection)
    return {name: (getattr(weights, name), loss) for name, loss in losses.items()}
