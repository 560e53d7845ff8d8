"""Our own defence, `nearsafe`: crossed targets, harm removal and a live negative, against both galleries at once.

SafeR-CLIP sends an unsafe query and its own unsafe partner to the same place, so in a gallery that the defended model
embeds they still find each other (docs/findings.md). Five ideas, each switchable by its weight:

- **Crossed targets.** An unsafe caption goes to where a safe *image* is, an unsafe image to where a safe *caption* is.
  Text and image embeddings of CLIP lie apart, so the two partners part, and each lands beside safe items of the
  modality it asks for.
- **Harm removal.** The target keeps the scene: the partner's frozen embedding minus `alpha` times the mean difference
  between its kind of harm and the safe pool, mixed (where asked) with the mean of its k nearest safe items. Kinds of
  harm are found by k-means on what sets an unsafe item off from its nearest safe ones, so that no labels are needed.
- **Frozen and live negatives.** A relative loss with a margin that saturates turns the item away from its partner as
  the undefended model has it (an index built before), and as the current model has it (an index built after).
- **Similarities are kept, not only places.** Besides 1 - cosine and InfoNCE, safe items keep their softmax over the
  whole safe pool of the other modality (distillation of the undefended model): fine distinctions survive.

Tried on scenes of a seed of its own; the last choice was made on the validation split, and the benchmark that reports
was scored after (docs/defences/nearsafe.md).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2
from torch import Tensor

from pipeline.defences.losses import cosine, cosine_distance, info_nce
from pipeline.defences.protocol import Batch, Frozen, Kind, Terms

KIND: Kind = "trained"


@dataclass(frozen=True)
class Params:
    """Weights of the terms (0 leaves one out), and the shape of targets and margins.

    `redirection` multiplies `cross`, `frozen_negative` and `live_negative`. `sharpness` s and the margins m: the
    relative loss is softplus(s (difference + m)) / s, nearly flat once the difference is below -m. `clusters`: kinds of
    harm, 0 for the given categories. `own_share`: how much of a target is the partner without its harm; the rest is
    the mean of the nearest safe items, weighted by softmax(cosine / `temperature`).
    """

    preserve: float = 1.0
    preserve_contrast: float = 2.0
    distil: float = 6.0
    cross: float = 1.0
    frozen_negative: float = 1.0
    live_negative: float = 1.0
    redirection: float = 1.0
    nce_scale: float = 100.0
    sharpness: float = 5.0
    frozen_margin: float = 0.1
    live_margin: float = 0.2
    clusters: int = 16
    alpha: float = 1.5
    own_share: float = 0.5
    temperature: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.own_share <= 1 or min(self.sharpness, self.temperature, self.nce_scale) <= 0:
            raise ValueError("own_share lies in [0, 1]; sharpness, temperature and nce_scale above 0")


def margin_redirection(query: Tensor, negative: Tensor, target: Tensor, margin: float, sharpness: float) -> Tensor:
    """mean_i softplus(s (cos(query_i, negative_i) - cos(query_i, target_i) + m)) / s; embeddings (B, D), scalar out."""
    gap = cosine(query, negative) - cosine(query, target) + margin
    return (F.softplus(sharpness * gap) / sharpness).mean()


def distillation(current: Tensor, original: Tensor, bank: Tensor, scale: float) -> Tensor:
    """mean_i KL(softmax(s original_i . bank) || softmax(s current_i . bank)): (B, D), (B, D), bank (M, D), scalar out.

    0 when the current embeddings have the original ones' similarities to every item of the bank.
    """
    now, before = (scale * F.normalize(x, dim=-1) @ F.normalize(bank, dim=-1).T for x in (current, original))
    return F.kl_div(now.log_softmax(-1), before.softmax(-1), reduction="batchmean")


def remove_harm(unsafe: Tensor, safe: Tensor, kind: Tensor, alpha: float) -> Tensor:
    """Unsafe embeddings (P, D) less `alpha` times their kind's (P,) mean difference to the safe ones; of length 1."""
    moved = torch.empty_like(unsafe)
    for number in kind.unique().tolist():
        rows = kind == number
        moved[rows] = unsafe[rows] - alpha * (unsafe[rows].mean(0) - safe.mean(0))
    return F.normalize(moved, dim=-1)


def nearest_mean(frozen: Frozen, safe: Tensor, temperature: float, chunk: int = 4096) -> Tensor:
    """Mean (P, D) of `safe` over the k nearest safe captions' pairs, weighted by softmax(cosine / temperature).

    Memory beyond the result: `chunk` x k x D.
    """
    found = []
    for unsafe, near in zip(frozen.text_unsafe.split(chunk), frozen.nearest.split(chunk), strict=True):
        cosines = torch.einsum("pd,pkd->pk", unsafe, frozen.text_safe[near])
        found.append(torch.einsum("pk,pkd->pd", (cosines / temperature).softmax(-1), safe[near]))
    return F.normalize(torch.cat(found), dim=-1)


def kinds_of_harm(frozen: Frozen, clusters: int, temperature: float) -> Tensor:
    """A number (P,) for each pair: its cluster (k-means++, a fixed seed) by the difference, in both modalities, between
    the unsafe item and the mean of its nearest safe ones. With 0 clusters, the given categories."""
    if not clusters:
        return frozen.category
    apart = [
        F.normalize(unsafe - nearest_mean(frozen, safe, temperature), dim=-1)
        for unsafe, safe in ((frozen.text_unsafe, frozen.text_safe), (frozen.image_unsafe, frozen.image_safe))
    ]
    points = torch.cat(apart, dim=1).cpu().numpy()
    count = min(clusters, len(points))
    _, found = kmeans2(points, count, iter=50, minit="++", missing="warn", seed=np.random.default_rng(0))
    return torch.from_numpy(found).long()


def targets(frozen: Frozen, params: Params) -> dict[str, Tensor]:
    """Where unsafe items go, (P, D) each: `of_text` lies among images, `of_image` among captions."""
    found, kind = {}, kinds_of_harm(frozen, params.clusters, params.temperature)
    for name, unsafe, safe in (
        ("of_text", frozen.image_unsafe, frozen.image_safe),
        ("of_image", frozen.text_unsafe, frozen.text_safe),
    ):
        own = remove_harm(unsafe, safe, kind, params.alpha)
        near = nearest_mean(frozen, safe, params.temperature)
        found[name] = F.normalize(params.own_share * own + (1 - params.own_share) * near, dim=-1)
    return found


def terms(batch: Batch, params: Params) -> Terms:
    """Six preserving and six redirecting terms; a term of weight 0 is left out."""
    p, to_image, to_text = params, batch.own["of_text"], batch.own["of_image"]
    text, image = batch.text_unsafe, batch.image_unsafe
    live_text, live_image = text.detach(), image.detach()
    redirect = (p.frozen_margin, p.sharpness), (p.live_margin, p.sharpness)
    wanted = {
        "text_preserve": (p.preserve, lambda: cosine_distance(batch.text_safe, batch.ref_text_safe)),
        "image_preserve": (p.preserve, lambda: cosine_distance(batch.image_safe, batch.ref_image_safe)),
        "text_contrast": (
            p.preserve_contrast,
            lambda: info_nce(batch.text_safe, batch.ref_image_safe, p.nce_scale),
        ),
        "image_contrast": (
            p.preserve_contrast,
            lambda: info_nce(batch.image_safe, batch.ref_text_safe, p.nce_scale),
        ),
        "text_distil": (
            p.distil,
            lambda: distillation(batch.text_safe, batch.ref_text_safe, batch.frozen.image_safe, p.nce_scale),
        ),
        "image_distil": (
            p.distil,
            lambda: distillation(batch.image_safe, batch.ref_image_safe, batch.frozen.text_safe, p.nce_scale),
        ),
        "text_cross": (p.cross * p.redirection, lambda: cosine_distance(text, to_image)),
        "image_cross": (p.cross * p.redirection, lambda: cosine_distance(image, to_text)),
        "text_frozen_negative": (
            p.frozen_negative * p.redirection,
            lambda: margin_redirection(text, batch.ref_image_unsafe, to_image, *redirect[0]),
        ),
        "image_frozen_negative": (
            p.frozen_negative * p.redirection,
            lambda: margin_redirection(image, batch.ref_text_unsafe, to_text, *redirect[0]),
        ),
        "text_live_negative": (
            p.live_negative * p.redirection,
            lambda: margin_redirection(text, live_image, to_image, *redirect[1]),
        ),
        "image_live_negative": (
            p.live_negative * p.redirection,
            lambda: margin_redirection(image, live_text, to_text, *redirect[1]),
        ),
    }
    return {name: (weight, loss()) for name, (weight, loss) in wanted.items() if weight}
