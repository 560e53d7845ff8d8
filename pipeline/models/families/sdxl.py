"""SDXL: two CLIP text towers side by side, each before its last layer; pooled embedding and sizes as one more input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from pipeline.models.conditioning import Conditioning, Encoder
from pipeline.models.families.family import Family
from pipeline.models.slots import read_index


@dataclass(frozen=True)
class SdxlTowers:
    """CLIP ViT-L/14 and OpenCLIP ViT-bigG/14; the pooled embedding is the second one's, projected."""

    first: Encoder
    second: Encoder
    zeros_for_empty: bool
    hash: str

    def condition(self, texts: Sequence[str]) -> Conditioning:
        """See `Conditioner`. States (B, L, D1 + D2), pooled (B, P)."""
        one, two = self.first.penultimate(texts), self.second.penultimate(texts)
        return Conditioning(torch.cat([one.states, two.states], dim=-1), two.pooled)

    def unconditional(self) -> Conditioning:
        """Zeros where the folder says `force_zeros_for_empty_prompt` (SDXL base does), else the empty prompt's."""
        found = self.condition([""])
        if not self.zeros_for_empty:
            return found
        return Conditioning(torch.zeros_like(found.states), torch.zeros_like(found.pooled))


def owns(config: Mapping[str, Any]) -> bool:
    """A U-Net with a pooled embedding and six numbers of size and crop. The refiner's five are another family's."""
    known = config.get("_class_name") == UNet2DConditionModel.__name__
    return known and config.get("addition_embed_type") == "text_time"


def join(encoders: Mapping[str, Encoder], folder: Path, denoiser: nn.Module, digest: str) -> SdxlTowers:
    """Both towers. `force_zeros_for_empty_prompt` is true by default, as in StableDiffusionXLPipeline."""
    zeros = bool(read_index(folder).get("force_zeros_for_empty_prompt", True))
    return SdxlTowers(encoders["text_encoder"], encoders["text_encoder_2"], zeros, digest)


def extra(size: tuple[int, int], pooled: Tensor | None) -> dict[str, object]:
    """Pooled embedding, and of each row original size, crop at the corner, target size: the image's own."""
    height, width = size
    sizes = torch.tensor([height, width, 0, 0, height, width], dtype=pooled.dtype).to(pooled.device, non_blocking=True)
    return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes.expand(len(pooled), -1)}}


FAMILY = Family(
    name="SDXL",
    denoiser="unet",
    cls=UNet2DConditionModel,
    slots=("text_encoder", "text_encoder_2"),
    owns=owns,
    join=join,
    extra=extra,
)
