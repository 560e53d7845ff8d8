"""The world's autoencoder: an `AutoencoderTiny`, 64x64x3 -> 16x16x8, trained on the style it generates."""

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

from pipeline.seeds import rng
from pipeline.world.drawing import BASE, STYLES
from pipeline.world.pretrain.corpus import Corpus
from pipeline.world.pretrain.loop import Run, optimizers

CONFIG = {
    "encoder_block_out_channels": (48, 48, 48),
    "decoder_block_out_channels": (48, 48, 48),
    "num_encoder_blocks": (0, 1, 3),
    "num_decoder_blocks": (3, 1, 0),
    "latent_channels": 8,
}


def vae_run(corpus: Corpus, steps: int, seed: int, batch: int = 32, device: str = "cpu") -> Run:
    """L1 + MSE + L1 on image gradients (sharp edges) + a small penalty that keeps each latent channel near size 1."""
    torch.manual_seed(seed)
    vae = AutoencoderTiny(**CONFIG).to(device)
    base = np.flatnonzero(corpus.style == list(STYLES).index(BASE.name))

    def step(i: int) -> dict[str, Tensor]:
        pick = rng(seed, "vae", str(i)).choice(base, batch, replace=False)
        images = torch.from_numpy(corpus.images[pick]).permute(0, 3, 1, 2).float().to(device) / 127.5 - 1
        latents = vae.encode(images).latents
        output = vae.decode(latents).sample
        pixels = l1_loss(output, images) + mse_loss(output, images)
        edges = l1_loss(output.diff(dim=-1), images.diff(dim=-1)) + l1_loss(output.diff(dim=-2), images.diff(dim=-2))
        size = (latents.mean((0, 2, 3)).square() + (latents.std((0, 2, 3)) - 1).square()).mean() * 0.05
        return {
            "total": pixels + edges + size,
            "pixels": pixels,
            "psnr": 10 * torch.log10(4 / mse_loss(output, images)),
        }

    return Run("vae", vae, step, steps, optimizers(vae, 3e-3, 2e-3), ema=0.98)
