"""Stable Diffusion 3: two CLIP text towers with projections, T5 where there is one, a transformer, flow matching."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin, SD3Transformer2DModel
from torch import Tensor, nn
from torch.nn.functional import pad

from pipeline.models.conditioning import T5_TOKENS, Conditioning, Encoder
from pipeline.models.families.family import Family


@dataclass(frozen=True)
class Sd3Towers:
    """CLIP ViT-L/14, OpenCLIP ViT-bigG/14 and T5 (None: its states are zeros); `width` of the joint token states."""

    first: Encoder
    second: Encoder
    third: Encoder | None
    width: int
    hash: str

    def condition(self, texts: Sequence[str]) -> Conditioning:
        """See `Conditioner`. States (B, L + T5_TOKENS, width), pooled (B, P1 + P2)."""
        one, two = self.first.penultimate(texts), self.second.penultimate(texts)
        clip = torch.cat([one.states, two.states], dim=-1)
        if self.third is None:
            t5 = clip.new_zeros(len(clip), T5_TOKENS, self.width)
        else:
            t5 = self.third.t5_states(texts)
        states = torch.cat([pad(clip, (0, self.width - clip.shape[-1])), t5], dim=1)
        return Conditioning(states, torch.cat([one.pooled, two.pooled], dim=-1))

    def unconditional(self) -> Conditioning:
        """The empty prompt's."""
        return self.condition([""])


def owns(config: Mapping[str, Any]) -> bool:
    """Stable Diffusion 3's transformer."""
    return config.get("_class_name") == SD3Transformer2DModel.__name__


def join(encoders: Mapping[str, Encoder], folder: Path, denoiser: nn.Module, digest: str) -> Sd3Towers:
    """Two or three encoders."""
    first, second, third = (encoders.get(name) for name in FAMILY.slots)
    return Sd3Towers(first, second, third, denoiser.config.joint_attention_dim, digest)


def extra(size: tuple[int, int], pooled: Tensor | None) -> dict[str, object]:
    """The pooled embedding."""
    return {"pooled_projections": pooled}


def timesteps(scheduler: SchedulerMixin, steps: int, size: tuple[int, int], denoiser: nn.Module) -> None:
    """Times of flow matching, shifted with the number of image tokens where the scheduler says so.

    The shift is linear in that number between the scheduler's base and largest one, as in StableDiffusion3Pipeline.
    """
    config = scheduler.config
    if not config.get("use_dynamic_shifting"):
        return scheduler.set_timesteps(steps, device="cpu")
    tokens = (size[0] // denoiser.config.patch_size) * (size[1] // denoiser.config.patch_size)
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.16)
    slope = (high - low) / (many - few)
    return scheduler.set_timesteps(steps, device="cpu", mu=tokens * slope + low - slope * few)


FAMILY = Family(
    name="Stable Diffusion 3",
    denoiser="transformer",
    cls=SD3Transformer2DModel,
    slots=("text_encoder", "text_encoder_2", "text_encoder_3"),
    optional=("text_encoder_3",),
    owns=owns,
    join=join,
    extra=extra,
    timesteps=timesteps,
)
