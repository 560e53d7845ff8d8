"""A latent diffusion model in plain `diffusers` layout: U-Net, VAE and scheduler, with a CLIP's text tower in front."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, SchedulerMixin, UNet2DConditionModel
from diffusers.schedulers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
)
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from pipeline.errors import NearsafeError
from pipeline.models.clip import Clip
from pipeline.models.hashing import model_hash
from pipeline.params import load

_AUTOENCODERS = {cls.__name__: cls for cls in (AutoencoderKL, AutoencoderTiny)}
_SCHEDULERS = {
    cls.__name__: cls
    for cls in (
        DDIMScheduler,
        DPMSolverMultistepScheduler,
        EulerDiscreteScheduler,
        LMSDiscreteScheduler,
        PNDMScheduler,
    )
}


@dataclass(frozen=True)
class Diffusion:
    """What the sampler needs: evaluation mode, fp32, all on one device. The safety checker of a folder is not used."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL | AutoencoderTiny
    scheduler: SchedulerMixin
    hash: str

    @property
    def device(self) -> torch.device:
        """Where the U-Net lies."""
        return self.unet.device

    @property
    def sampler(self) -> str:
        """Name of the scheduler's class, as tables record it."""
        return type(self.scheduler).__name__

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one latent."""
        size = self.unet.config.sample_size
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return self.unet.config.in_channels, int(height), int(width)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of one image in pixels."""
        scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.latent_shape[1] * scale, self.latent_shape[2] * scale


@dataclass(frozen=True)
class TextTower:
    """The text encoder that conditions the U-Net: token states (B, L, D), L the tower's longest text."""

    model: CLIPTextModel
    tokenizer: CLIPTokenizer
    hash: str

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Token ids (B, L) int64 on the model's device, begin and end included, of texts cut and padded to L."""
        longest = self.model.config.max_position_embeddings
        found = self.tokenizer(
            list(texts), padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
        )
        return found.input_ids.to(self.model.device)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Last hidden states (B, L, D) float32 of texts cut and padded to L, without a mask, as in Stable Diffusion."""
        return self.model(input_ids=self.tokens(texts)).last_hidden_state


def load_diffusion(folder: Path, device: torch.device | str = "cpu") -> Diffusion:
    """Load `unet`, `vae` and `scheduler` of a diffusers folder from disk. Nothing is downloaded.

    Raises NearsafeError naming the folder when a part is missing, broken, or of a class this code does not know.
    """
    folder = Path(folder)
    digest = model_hash(folder)
    options = {"local_files_only": True, "use_safetensors": True, "torch_dtype": torch.float32}
    autoencoder = _class(folder / "vae" / "config.json", _AUTOENCODERS)
    scheduler = _class(folder / "scheduler" / "scheduler_config.json", _SCHEDULERS)
    try:
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", **options)
        vae = autoencoder.from_pretrained(folder / "vae", **options)
        schedule = scheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NearsafeError(f"{folder}: not a loadable diffusion folder: {reason}") from error
    if vae.config.latent_channels != unet.config.in_channels:
        raise NearsafeError(
            f"{folder}: the VAE has {vae.config.latent_channels} latent channels, the U-Net {unet.config.in_channels}"
        )
    # Convolutions on the CPU are 6 to 9 % faster with the channels last; a pixel changes by 3e-5 at most.
    order = torch.channels_last if torch.device(device).type == "cpu" else torch.preserve_format
    unet, vae = (part.to(device, memory_format=order).eval() for part in (unet, vae))
    return Diffusion(unet, vae, schedule, digest)


def text_tower(clip: Clip, diffusion: Diffusion, folder: Path) -> TextTower:
    """The text tower of a (defended) CLIP, in place of the diffusion folder's own `text_encoder`.

    Raises NearsafeError naming the CLIP's folder when its token states do not fit the U-Net's cross-attention.
    """
    width, expected = clip.model.config.text_config.hidden_size, diffusion.unet.config.cross_attention_dim
    if width != expected:
        raise NearsafeError(f"{folder}: token states are {width} wide, the U-Net's cross-attention expects {expected}")
    return TextTower(clip.model.text_model.to(diffusion.device), clip.tokenizer, clip.hash)


def _class(file: Path, known: dict[str, type]) -> type:
    if not file.is_file():
        raise NearsafeError(f"{file}: no such file: not a diffusion folder")
    name = load(file).get("_class_name")  # JSON is YAML
    if name not in known:
        raise NearsafeError(f"{file}: class {name!r} is not supported; known: {', '.join(sorted(known))}")
    return known[name]
