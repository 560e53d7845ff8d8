"""Stable Diffusion 1.x and 2.x: one CLIP text tower, whose last hidden states condition a U-Net.

1.x: CLIP ViT-L/14. 2.x: the first 23 of the 24 layers of OpenCLIP ViT-H/14; its 768 pixel models predict v, which the
scheduler's configuration says.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import SchedulerMixin, UNet2DConditionModel
from torch import Tensor, nn

from pipeline.models.conditioning import Encoder, TextTower
from pipeline.models.families.family import Family


def owns(config: Mapping[str, Any]) -> bool:
    """A U-Net that takes token states and nothing else."""
    return config.get("_class_name") == UNet2DConditionModel.__name__ and not config.get("addition_embed_type")


def join(encoders: Mapping[str, Encoder], folder: Path, denoiser: nn.Module, digest: str) -> TextTower:
    """The one tower."""
    return TextTower(encoders["text_encoder"].model, encoders["text_encoder"].tokenizer, digest)


def extra(size: tuple[int, int], pooled: Tensor | None) -> dict[str, object]:
    """Nothing."""
    return {}


def settle(scheduler: SchedulerMixin) -> SchedulerMixin:
    """With `steps_offset` 1 and without `clip_sample`, as StableDiffusionPipeline corrects older configurations."""
    wanted = {"steps_offset": 1, "clip_sample": False}
    wrong = {key: value for key, value in wanted.items() if scheduler.config.get(key, value) != value}
    return type(scheduler).from_config(scheduler.config, **wrong) if wrong else scheduler


FAMILY = Family(
    name="Stable Diffusion 1.x and 2.x",
    denoiser="unet",
    cls=UNet2DConditionModel,
    slots=("text_encoder",),
    owns=owns,
    join=join,
    extra=extra,
    settle=settle,
)
