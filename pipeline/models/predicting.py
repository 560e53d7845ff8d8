"""The two costly calls of the sampler loop: the denoiser's, under classifier-free guidance, and the VAE's decoder."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from pipeline.models.callbacks import Callbacks, Context, Half, UnetInput
from pipeline.models.diffusion import Diffusion

# Images of one call of the decoder, whose activations take the most memory of all: 8 of 512 pixels, 2 of 1024.
_DECODED_PIXELS = 2 * 1024**2


@dataclass
class Predictor:
    """What a denoiser of one batch predicts, step by step. `size`: (height, width) of its images in pixels."""

    diffusion: Diffusion
    scheduler: SchedulerMixin
    callbacks: Sequence[Callbacks]
    size: tuple[int, int]
    _kept: dict[Half, UnetInput] = field(default_factory=dict)

    def predict(self, context: Context, t: Tensor) -> Tensor:
        """Guided prediction (B, C, h, w) float32 at time `t`, which is `context.t` on the denoiser's device."""
        latent = context.latent
        if hasattr(self.scheduler, "scale_model_input"):  # flow matching has none
            latent = self.scheduler.scale_model_input(latent, context.t)
        if not (context.guidance > 1).any():
            return self._call("cond", context, latent, t)
        scale = context.guidance.to(latent, non_blocking=True)[:, None, None, None]
        if any(callback.halves for callback in self.callbacks):
            without = self._call("uncond", context, latent, t)
            conditional = self._call("cond", context, latent, t)
        else:
            without, conditional = self._call("both", context, torch.cat([latent, latent]), t).chunk(2)
        return without + scale.clamp(min=1) * (conditional - without)

    def _call(self, half: Half, context: Context, latent: Tensor, t: Tensor) -> Tensor:
        context.half = half
        denoiser, dtype = self.diffusion.denoiser, self.diffusion.dtype
        given = self._input(half, context, latent.to(dtype))
        for callback in self.callbacks:
            given = callback.on_unet_in(context, given)
        found = denoiser(
            given.latent,
            timestep=t.expand(len(given.latent)),
            encoder_hidden_states=given.embedding,
            return_dict=False,
            **given.extra,
        )[0]
        return found.float()

    def _input(self, half: Half, context: Context, latent: Tensor) -> UnetInput:
        """Rows of the half. Texts do not change from step to step, except where callbacks may change them."""
        if half not in self._kept or self.callbacks:
            rows, dtype = len(context.latent), self.diffusion.dtype
            states = _rows(half, context.uncond, context.embedding, rows).to(dtype)
            pooled = None
            if context.pooled is not None:
                pooled = _rows(half, context.uncond_pooled, context.pooled, rows).to(dtype)
            self._kept[half] = UnetInput(latent, states, self.diffusion.family.extra(self.size, pooled))
        kept = self._kept[half]
        return UnetInput(latent, kept.embedding, kept.extra)


def decode(diffusion: Diffusion, context: Context) -> Tensor:
    """Images (B, 3, H, W) float32 in [0, 1] on the CPU of `context.latent`; NaN where that is not finite."""
    vae, latent = diffusion.vae, context.latent
    finite = torch.isfinite(latent).flatten(1).all(1)
    usable = _unscaled(vae.config, torch.where(finite[:, None, None, None], latent, 0.0)).to(vae.dtype)
    size = max(1, _DECODED_PIXELS // (diffusion.vae_scale**2 * latent.shape[2] * latent.shape[3]))
    parts = [(vae.decode(part, return_dict=False)[0] / 2 + 0.5).clamp(0, 1) for part in usable.split(size)]
    images = torch.cat([part.float() for part in parts]).cpu()
    for row in context.blocked:
        images[row] = 0
    images[~finite.cpu()] = torch.nan
    return images


def _unscaled(config: object, latent: Tensor) -> Tensor:
    """Latents as the VAE has them: scale and shift, or mean and deviation of each channel, undone."""
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        mean, deviation = (latent.new_tensor(config[name])[:, None, None] for name in ("latents_mean", "latents_std"))
        return latent * deviation / config.scaling_factor + mean
    latent = latent / config.scaling_factor
    return latent + config.shift_factor if config.get("shift_factor") else latent


def _rows(half: Half, uncond: Tensor, cond: Tensor, rows: int) -> Tensor:
    """Of uncond (1, ...) and cond (B, ...): the rows of one half, or of both."""
    if half == "cond":
        return cond
    empty = uncond.expand(rows, *uncond.shape[1:])
    return empty if half == "uncond" else torch.cat([empty, cond])
