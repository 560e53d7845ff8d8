"""A latent diffusion model in plain `diffusers` layout: denoiser, VAE and scheduler, with text towers in front."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, SchedulerMixin, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.schedulers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel, T5TokenizerFast

from pipeline.errors import NearsafeError
from pipeline.ids import content_id
from pipeline.models.clip import Clip, load_clip
from pipeline.models.clip_files import check_tokens, check_vocabulary, load_tokenizer
from pipeline.models.conditioning import Conditioner, Encoder, TextTower
from pipeline.models.families.family import Family
from pipeline.models.families.registry import family_of
from pipeline.models.folders import count_floats, read_settings
from pipeline.models.hashing import model_hash
from pipeline.models.loading import check_types, check_whole, load_whole, loading
from pipeline.models.slots import T5, Slot, fitting_slot, read_slots, slot_tokenizer, tower_in

Precision = Literal["auto", "fp32", "bf16", "fp16"]
_AUTOENCODERS = {cls.__name__: cls for cls in (AutoencoderKL, AutoencoderTiny)}
_SCHEDULERS = {
    cls.__name__: cls
    for cls in (
        DDIMScheduler,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        EulerAncestralDiscreteScheduler,
        EulerDiscreteScheduler,
        FlowMatchEulerDiscreteScheduler,
        LMSDiscreteScheduler,
        PNDMScheduler,
        UniPCMultistepScheduler,
    )
}
_ENCODERS = {cls.__name__: cls for cls in (CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel)}


@dataclass(frozen=True)
class Diffusion:
    """What the sampler needs: evaluation mode, all on one device. The safety checker of a folder is not used.

    `own` remembers the folder's own text encoders once one is asked for.
    """

    folder: Path
    family: Family
    denoiser: UNet2DConditionModel | SD3Transformer2DModel
    vae: AutoencoderKL | AutoencoderTiny
    scheduler: SchedulerMixin
    hash: str
    own: dict[str, Encoder] = field(default_factory=dict, compare=False, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the denoiser lies."""
        return self.denoiser.device

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's number format; latents and guidance are float32 whatever it is."""
        return self.denoiser.dtype

    @property
    def sampler(self) -> str:
        """Name of the scheduler's class, as tables record it."""
        return type(self.scheduler).__name__

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one latent."""
        size = self.denoiser.config.sample_size
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return self.denoiser.config.in_channels, int(height), int(width)

    @property
    def vae_scale(self) -> int:
        """Pixels of an image's side to one of the latent's."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of one image in pixels."""
        return self.latent_shape[1] * self.vae_scale, self.latent_shape[2] * self.vae_scale


def settled_precision(precision: Precision, device: torch.device) -> tuple[Precision, str]:
    """Number format of the denoiser and the VAE without "auto", a key of DTYPES, and the reason in words.

    "auto" is float32 on the CPU: images are then the same as ever. On CUDA it is bfloat16 where the GPU computes it,
    and not float16: that overflows to NaN in some models (SDXL's VAE, Stable Diffusion 2.1's attention). A run settles
    it once and says so in its spec: continued on another machine, it does not mix.
    """
    if precision != "auto":
        return precision, f"{precision}: as configured"
    if device.type != "cuda":
        return "fp32", "fp32: the default on a CPU"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", "bf16: the GPU computes it"
    return "fp32", "fp32: the GPU does not compute bf16"


def load_diffusion(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Diffusion:
    """Load denoiser, VAE and scheduler of a diffusers folder from disk. Nothing is downloaded.

    A VAE whose configuration says `force_upcast` stays float32 where the rest is float16. Raises NearsafeError naming
    the folder when a part is missing, broken, or of a class this code does not know.
    """
    folder, device = Path(folder), torch.device(device)
    digest, family = model_hash(folder), family_of(folder)
    autoencoder = _class(folder / "vae" / "config.json", _AUTOENCODERS)
    scheduler = _class(folder / "scheduler" / "scheduler_config.json", _SCHEDULERS)
    check_types(config := folder / family.denoiser / "config.json", read_settings(config), family.cls)
    upcast = dtype == torch.float16 and read_settings(folder / "vae" / "config.json").get("force_upcast", False)
    with loading(folder, "diffusion folder"):
        denoiser = _part(family.cls, folder / family.denoiser, dtype)
        vae = _part(autoencoder, folder / "vae", torch.float32 if upcast else dtype)
        schedule = family.settle(scheduler.from_pretrained(folder / "scheduler", local_files_only=True))
    if vae.config.latent_channels != denoiser.config.in_channels:
        raise NearsafeError(
            f"{folder}: the VAE has {vae.config.latent_channels} latent channels, "
            f"the {'U-Net' if family.denoiser == 'unet' else family.denoiser} {denoiser.config.in_channels}"
        )
    if getattr(denoiser.config, "time_cond_proj_dim", None) is not None:
        raise NearsafeError(f"{folder}: a U-Net distilled with its guidance (time_cond_proj_dim) is not supported")
    # Convolutions on the CPU are 6 to 9 % faster with the channels last; a pixel changes by 3e-5 at most. On CUDA it is
    # the layout in which tensor cores compute 16-bit convolutions.
    last = device.type == "cpu" or dtype != torch.float32
    order = torch.channels_last if last else torch.preserve_format
    with loading(folder, "diffusion folder"):
        denoiser, vae = (part.to(device, memory_format=order).eval() for part in (denoiser, vae))
    return Diffusion(folder, family, denoiser, vae, schedule, digest)


def conditioner(
    clip: Clip, diffusion: Diffusion, folder: Path, others: Mapping[str, Path | None] | None = None
) -> Conditioner:
    """The diffusion model's text encoders, with the text tower of a (defended) CLIP in the slot that it fits.

    `folder` is the CLIP's. `others` says of further slots which CLIP folder's tower they hold, or None for the
    diffusion folder's own; so do slots that nobody names. Raises NearsafeError naming folder, slots and widths where a
    tower fits none, or more than one.
    """
    slots, others = known_slots(diffusion), dict(others or {})
    slot = fitting_slot(clip.model.config, folder, diffusion.folder, slots, others)
    encoders = {slot.name: _defended(slot, clip, folder, diffusion)}
    for name, path in others.items():
        if path is not None:
            other = load_clip(path, diffusion.device)
            fitting_slot(other.model.config, path, diffusion.folder, {name: slots[name]}, {})
            encoders[name] = _defended(slots[name], other, path, diffusion)
    hashes = [clip.hash, *(f"{name}={encoders[name].hash if name in encoders else 'own'}" for name in sorted(others))]
    return _join(diffusion, slots, encoders, clip.hash if not others else content_id(*hashes))


def own_conditioner(diffusion: Diffusion) -> Conditioner:
    """The diffusion folder's own text encoders. Raises NearsafeError for one that is missing or broken."""
    return _join(diffusion, known_slots(diffusion), {}, diffusion.hash)


def text_tower(
    clip: Clip, diffusion: Diffusion, folder: Path, others: Mapping[str, Path | None] | None = None
) -> TextTower:
    """The text tower of a (defended) CLIP as the only one of a diffusion model: Stable Diffusion 1.x and 2.x.

    Raises NearsafeError naming both folders where it does not fit, or where the model has several text encoders: what
    asks for a tower's own token states (a search for adversarial texts) is not defined there.
    """
    if len(diffusion.family.slots) > 1:
        raise NearsafeError(
            f"{diffusion.folder}: {diffusion.family.name} is conditioned by {', '.join(known_slots(diffusion))}; this "
            f"needs a model with one text tower: Stable Diffusion 1.x or 2.x"
        )
    return conditioner(clip, diffusion, folder, others)


def known_slots(diffusion: Diffusion) -> dict[str, Slot]:
    """The folder's slots that its family knows. Raises NearsafeError for one that the family needs and it lacks."""
    found, family = read_slots(diffusion.folder), diffusion.family
    if absent := [name for name in family.slots if name not in found and name not in family.optional]:
        raise NearsafeError(f"{diffusion.folder}: no {absent[0]}, which {family.name} needs")
    return {name: found[name] for name in family.slots if name in found}


def _defended(slot: Slot, clip: Clip, folder: Path, diffusion: Diffusion) -> Encoder:
    model = tower_in(slot, clip).to(diffusion.device)
    return Encoder(model, slot_tokenizer(slot, clip, folder, diffusion.folder), clip.hash)


def _join(diffusion: Diffusion, slots: Mapping[str, Slot], encoders: Mapping[str, Encoder], digest: str) -> Conditioner:
    for name, slot in slots.items():
        if name not in encoders and name not in diffusion.own:
            diffusion.own[name] = _load_encoder(diffusion, slot)
    held = {name: encoders.get(name) or diffusion.own[name] for name in slots}
    width = getattr(diffusion.denoiser.config, "cross_attention_dim", None)
    found = sum(encoder.model.config.hidden_size for encoder in held.values())
    if width is not None and width != found:  # SD3 pads instead
        raise NearsafeError(f"{diffusion.folder}: token states are {found} wide, the U-Net expects {width}")
    return diffusion.family.join(held, diffusion.folder, diffusion.denoiser, digest)


def _load_encoder(diffusion: Diffusion, slot: Slot) -> Encoder:
    """The folder's own: a CLIP in float32, T5 in the denoiser's number format, because it is large."""
    folder = diffusion.folder / slot.name
    words = diffusion.folder / slot.tokenizer
    dtype = diffusion.dtype if slot.cls == T5 else torch.float32
    model = load_whole(_ENCODERS[slot.cls], folder, "text encoder", dtype, _variant(folder))
    if slot.cls == T5:
        with loading(words, "tokenizer"):
            tokenizer = T5TokenizerFast.from_pretrained(words, local_files_only=True)
        check_vocabulary(words, tokenizer, model.config.vocab_size)
    else:
        tokenizer = load_tokenizer(words)
        check_tokens(words, tokenizer, model.config)
    with loading(folder, "text encoder"):
        return Encoder(model.to(diffusion.device).eval(), tokenizer)


def _part(cls: type[nn.Module], folder: Path, dtype: torch.dtype) -> nn.Module:
    count_floats(folder)
    options = {"local_files_only": True, "use_safetensors": True, "variant": _variant(folder)}
    model, report = cls.from_pretrained(folder, torch_dtype=dtype, output_loading_info=True, **options)
    check_whole(folder, cls.__name__, model, report)
    return model


def _variant(folder: Path) -> str | None:
    """The name of the weights where there are no plain ones: fp16."""
    weights = [file.name for file in folder.glob("*.safetensors")]
    return "fp16" if weights and all(".fp16" in name for name in weights) else None


def _class(file: Path, known: dict[str, type]) -> type:
    if not file.is_file():
        raise NearsafeError(f"{file}: no such file: not a diffusion folder")
    settings = read_settings(file)
    name = settings.get("_class_name")
    if not isinstance(name, str) or name not in known:
        raise NearsafeError(f"{file}: class {name!r} is not supported; known: {', '.join(sorted(known))}")
    check_types(file, settings, known[name])
    return known[name]
