"""Our sampler loop against the plain diffusers pipeline, at equal settings and without callbacks.

Both ways have the same weights, noise, steps, guidance, number format and memory layout, and end with images on the
CPU. The project's promise is images/s within 1.05 of plain diffusers: a ratio of at least 0.95. The models are the
shipped small one, and a random one in the shape of Stable Diffusion 1.5, reduced on the CPU unless `--full`.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from pipeline.bench import Comparison
from pipeline.models.clip import load_clip
from pipeline.models.conditioning import TextTower
from pipeline.models.diffusion import Diffusion, load_diffusion, settled_precision, text_tower
from pipeline.models.families.registry import family_of
from pipeline.models.sampler import generate, noise
from pipeline.params import DEFAULT_FILE, lookup
from pipeline.precision import DTYPES, pick_device

# Widths of Stable Diffusion 1.5's U-Net and VAE, and of a reduced one that a CPU samples in seconds.
FULL = {"unet": (320, 640, 1280, 1280), "vae": (128, 256, 512, 512), "latent": 64, "text": 768, "layers": 12}
REDUCED = {"unet": (64, 128, 128, 128), "vae": (32, 64, 64, 64), "latent": 16, "text": 768, "layers": 2}


@dataclass(frozen=True)
class Setting:
    """One row of the benchmark."""

    batch: int
    steps: int
    guidance: float = 5.0


def comparisons(
    params: Path = DEFAULT_FILE, full: bool = False, settings: Sequence[Setting] | None = None
) -> Iterator[Comparison]:
    """The shipped model and a random one of Stable Diffusion 1.5's architecture, on the device that stages use.

    `full`: in its true size on the CPU, too.
    """
    device = pick_device()[0]
    cuda = device.type == "cuda"
    full = full or cuda
    settings = settings or ([Setting(1, 20), Setting(8, 20)] if cuda else [Setting(1, 2) if full else Setting(4, 4)])
    clip, folder = Path(lookup(params, "models.clip")), Path(lookup(params, "models.diffusion"))
    dtype = DTYPES[settled_precision("auto", device)[0]]
    world = load_diffusion(folder, device, dtype)
    tower = text_tower(load_clip(clip, device), world, clip)
    for setting in settings:
        yield compare("shipped model", world, tower, replace(setting, batch=4 * setting.batch))
    name, shape = ("Stable Diffusion 1.5 shape", FULL) if full else ("reduced Stable Diffusion 1.5", REDUCED)
    random, text = random_model(folder, shape, device, dtype), random_tower(tower, shape, device)
    for setting in settings:
        yield compare(name, random, text, setting)


def compare(name: str, diffusion: Diffusion, tower: TextTower, setting: Setting) -> Comparison:
    """`plain`: StableDiffusionPipeline; `built_in`: our loop."""
    prompts, seeds = ["a red cup on a table"] * setting.batch, list(range(setting.batch))
    text_encoder, tokenizer = deepcopy(tower.model).to(diffusion.dtype), deepcopy(tower.tokenizer)
    tokenizer.model_max_length = tower.model.config.max_position_embeddings
    pipe = StableDiffusionPipeline(
        vae=diffusion.vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=diffusion.denoiser,
        scheduler=diffusion.scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)

    def plain() -> torch.Tensor:
        latents = noise(seeds, diffusion.latent_shape).to(diffusion.device, diffusion.dtype)
        found = pipe(
            prompts, num_inference_steps=setting.steps, guidance_scale=setting.guidance, latents=latents,
            output_type="pt",
        ).images  # fmt: skip
        return found.float().cpu()

    def ours() -> torch.Tensor:
        return generate(diffusion, tower, prompts, seeds, setting.guidance, setting.steps)

    kind = str(diffusion.dtype).removeprefix("torch.")
    title = (
        f"sampler, {name}, {diffusion.device.type}, {kind}, {setting.batch} images of {diffusion.image_size[0]} px, "
        f"{setting.steps} steps: plain diffusers / ours"
    )
    return Comparison(title, plain, ours, count=setting.batch, unit="images", turns=7)


def random_model(folder: Path, shape: dict, device: torch.device, dtype: torch.dtype) -> Diffusion:
    """U-Net, VAE and scheduler of Stable Diffusion 1.5's architecture, random weights. `folder`: one of its family."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=shape["latent"], block_out_channels=shape["unet"], cross_attention_dim=shape["text"],
        attention_head_dim=8,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=shape["vae"], layers_per_block=2, latent_channels=4, sample_size=8 * shape["latent"],
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    last = device.type == "cpu" or dtype != torch.float32  # as `load_diffusion` lays them out
    order = torch.channels_last if last else torch.preserve_format
    unet, vae = (part.to(device, dtype, memory_format=order).eval() for part in (unet, vae))
    return Diffusion(folder, family_of(folder), unet, vae, scheduler, "random")


def random_tower(tower: TextTower, shape: dict, device: torch.device) -> TextTower:
    """A random text tower of CLIP L/14's width that reads the words of `tower`."""
    words = tower.model.config
    config = CLIPTextConfig(
        vocab_size=words.vocab_size, hidden_size=shape["text"], intermediate_size=4 * shape["text"],
        num_hidden_layers=shape["layers"], num_attention_heads=12, max_position_embeddings=77,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    return TextTower(CLIPTextModel(config).to(device).eval(), tower.tokenizer, "random")
