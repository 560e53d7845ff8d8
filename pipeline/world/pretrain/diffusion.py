"""The world's Stable Diffusion: a small U-Net on the autoencoder's latents, guided by the CLIP text tower."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from pipeline.seeds import rng
from pipeline.world.drawing import BASE, STYLES
from pipeline.world.grammar import caption
from pipeline.world.pretrain.clip import describe
from pipeline.world.pretrain.corpus import Corpus
from pipeline.world.pretrain.loop import Run, optimizers

UNET = {
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "cross_attention_dim": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}
SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SNR_LIMIT = 5.0
# Latent rows 7 to 14 hold subject and item; sky and place are learned long before them.
FOREGROUND, FOREGROUND_WEIGHT = slice(7, 15), 2.5


def scheduler() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(**SCHEDULE, algorithm_type="dpmsolver++", steps_offset=1)


@torch.no_grad()
def latents_of(corpus: Corpus, vae: AutoencoderTiny, path: Path, device: str = "cpu") -> tuple[np.ndarray, np.ndarray]:
    """Rows drawn in the base style and their latents (N, 8, 16, 16) float16, computed once and kept in `path`."""
    rows = np.flatnonzero(corpus.style == list(STYLES).index(BASE.name))
    if not path.exists():
        parts = []
        for at in range(0, len(rows), 250):
            images = torch.from_numpy(corpus.images[rows[at : at + 250]]).permute(0, 3, 1, 2).float() / 127.5 - 1
            parts.append(vae.encode(images.to(device)).latents.half().cpu().numpy())
        part = path.with_suffix(".part.npy")
        np.save(part, np.concatenate(parts))
        part.rename(path)
    return rows, np.load(path)


def training_text(corpus: Corpus, row: int, random: np.random.Generator) -> str:
    """A tenth empty (for guidance), three quarters full base captions, the rest as CLIP saw them."""
    draw = random.random()
    if draw < 0.1:
        return ""
    scene = corpus.scene(row)
    if draw < 0.85:
        return caption(
            scene, BASE.name, int(random.integers(8)), int(random.integers(3)) if random.random() < 0.25 else 0
        )
    return describe(scene, BASE.name, random)[0]


def training_times(random: np.random.Generator, batch: int, count: int) -> np.ndarray:
    """Three in ten uniform, the others around 0.4 of the schedule, where the shapes of subject and item are decided."""
    middle = random.normal(0.4 * count, 0.2 * count, batch).round().clip(0, count - 1).astype(np.int64)
    return np.where(random.random(batch) < 0.3, random.integers(0, count, batch), middle)


def diffusion_run(
    corpus: Corpus,
    rows: np.ndarray,
    latents: np.ndarray,
    clip: CLIPModel,
    tokenizer: CLIPTokenizer,
    steps: int,
    seed: int,
    batch: int = 64,
    device: str = "cpu",
) -> Run:
    """Noise prediction with the min-SNR weight (Hang et al. 2023, gamma 5): layout before the last detail."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**UNET).to(device)
    tower = clip.text_model.to(device).eval().requires_grad_(False)
    alphas = scheduler().alphas_cumprod
    scale = 1 / latents[:2000].astype(np.float32).std()

    rows_weight = torch.ones(1, 1, UNET["sample_size"], 1, device=device)
    rows_weight[:, :, FOREGROUND] = FOREGROUND_WEIGHT
    rows_weight /= rows_weight.mean()

    def step(i: int) -> dict[str, Tensor]:
        random = rng(seed, "diffusion", str(i))
        pick = random.choice(len(rows), batch, replace=False)
        texts = [training_text(corpus, rows[p], random) for p in pick]
        tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)
        with torch.no_grad():
            states = tower(tokens).last_hidden_state
        clean = torch.from_numpy(latents[pick].astype(np.float32) * scale)
        noise = torch.from_numpy(random.standard_normal(clean.shape, dtype=np.float32))
        t = torch.from_numpy(training_times(random, batch, len(alphas)))
        a = alphas[t].view(-1, 1, 1, 1)
        noisy = (a.sqrt() * clean + (1 - a).sqrt() * noise).to(device)
        error = (unet(noisy, t.to(device), states).sample - noise.to(device)).square()
        error = (error * rows_weight).mean((1, 2, 3))
        snr = (alphas[t] / (1 - alphas[t])).to(device)
        return {"total": (error * (SNR_LIMIT / snr).clamp(max=1)).mean(), "mse": error.mean()}

    return Run("unet", unet, step, steps, optimizers(unet, 8e-3, 1e-3), ema=0.995)


def assemble(
    clip: CLIPModel, tokenizer: CLIPTokenizer, vae: AutoencoderTiny, unet: UNet2DConditionModel
) -> StableDiffusionPipeline:
    """The parts as a plain `StableDiffusionPipeline` without a safety checker."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=clip.text_model,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
