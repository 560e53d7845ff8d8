"""What a defence is: one module of this folder with the names below, and one entry under `defences` in params.yaml.

    KIND: Kind                              "none" exports the base model, "trained" is tuned by the training loop,
                                            "inference" leaves the model and acts inside the sampler
    class Params                            frozen dataclass: the entry's keys besides `method` and `train`
    TOWERS: tuple[str, ...]                 trained only, optional: the towers that get adapters; default both
    def terms(batch, params) -> Terms       trained only: the loss, term by term
    def reference(params) -> Reference      trained only, optional: what `ref_*` of a batch are; default "frozen"
    def targets(frozen, params) -> dict     trained only, optional: the method's own tables, (P, D) each, made once from
                                            the frozen embeddings; a batch carries its rows of them in `own`
    def callbacks(params) -> Sequence       inference only: callbacks for the sampler loop (pipeline.models.callbacks)

The loss of a batch is the sum of weight times value over `terms`; each term is logged, and named when it is NaN.
A defence imports torch, numpy, `protocol` and `losses`, and nothing else of ours, so that DVC can track it as one file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Kind = Literal["none", "trained", "inference"]
Reference = Literal["frozen", "live"]
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
