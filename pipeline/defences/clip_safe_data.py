"""CLIP fine-tuned on the safe pairs alone: the baseline CLIP-dagger of SafeR-CLIP's tables (safer_clip.md section 7.1).

The paper gives no details; this is CLIP's own loss (Radford et al. 2021) on the safe captions and images of the
training pairs, both towers in training, with the same adapters and optimiser as the defences. It never sees unsafe
data: what it changes is the price, or the gain, of fine-tuning as such.
"""

from dataclasses import dataclass

from pipeline.defences.losses import info_nce
from pipeline.defences.protocol import Batch, Kind, Terms

KIND: Kind = "trained"


@dataclass(frozen=True)
class Params:
    """The scale of the contrastive loss: 100 for ViT-L/14, fixed as in the defences."""

    nce_scale: float = 100.0


def terms(batch: Batch, params: Params) -> Terms:
    """One term: the symmetric contrastive loss of the batch's safe captions and their images."""
    return {"safe_contrast": (1.0, info_nce(batch.text_safe, batch.image_safe, params.nce_scale))}
