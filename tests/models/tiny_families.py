"""Tiny random models of each diffusion family, of the true classes and in the true layout of their folders."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5TokenizerFast

from pipeline.models.clip import load_clip
from pipeline.models.slots import load_tokenizer, save_text_tower
from tests.models.tiny import LENGTH, save_clip

PIPELINES = {
    "sd1": StableDiffusionPipeline, "sd2": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline,
    "sd3": StableDiffusion3Pipeline, "sd3_without_t5": StableDiffusion3Pipeline,
}  # fmt: skip
# Shapes of the CLIP whose text tower fits a slot. H/14 has one layer more than Stable Diffusion 2.x uses.
L14, H14, BIG_G = {"width": 32}, {"width": 48, "layers": 3}, {"width": 48, "layers": 3, "projection": 40}
SLOTS = {
    "sd1": {"text_encoder": L14}, "sd2": {"text_encoder": H14}, "sdxl": {"text_encoder": L14, "text_encoder_2": BIG_G},
    "sd3": {"text_encoder": L14, "text_encoder_2": BIG_G},
}  # fmt: skip
SLOTS["sd3_without_t5"] = SLOTS["sd3"]
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
LEVELS = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
          "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}  # fmt: skip


def save_family(name: str, folder: Path) -> Path:
    """A whole pipeline folder, as the hub has them."""
    torch.manual_seed(1)
    modules = {"sd1": _sd1, "sd2": _sd2, "sdxl": _sdxl, "sd3": _sd3, "sd3_without_t5": _sd3}[name](folder / "clips")
    if name == "sd3_without_t5":
        modules |= {"text_encoder_3": None, "tokenizer_3": None}
    options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = PIPELINES[name](**modules, **(options if name in ("sd1", "sd2") else {}))
    pipe.save_pretrained(folder / name)
    for slot in SLOTS[name]:  # names of tensors as on the hub
        save_text_tower(modules[slot], folder / name / slot)
    if name == "sd1":
        _with_safety_checker(folder / name)
    return folder / name


def save_donor(folder: Path, name: str, slot: str, seed: int = 7) -> Path:
    """A CLIP whose text tower fits the slot."""
    return save_clip(folder, seed=seed, **SLOTS[name][slot])


def _tower(folder: Path, cls: type, layers: int | None = None, pad: str | None = None, **shape: int) -> tuple:
    clip = load_clip(save_clip(folder, seed=len(str(shape)), **shape))
    options = {} if layers is None else {"num_hidden_layers": layers}
    tokenizer = load_tokenizer(folder)
    if pad:
        tokenizer.pad_token = pad
    assert clip.tokenizer.model_max_length == LENGTH
    return cls.from_pretrained(folder, dtype=torch.float32, **options), tokenizer


def _vae(channels: int = 4, **options: object) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16), latent_channels=channels, norm_num_groups=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **options,
    ).eval()  # fmt: skip


def _unet(width: int, **options: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=width, norm_num_groups=8,
        **LEVELS, **options,
    ).eval()  # fmt: skip


def _sd1(clips: Path) -> dict:
    """Stable Diffusion 1.4: PNDM, one tower of CLIP L/14."""
    tower = _tower(clips / "l", CLIPTextModel, **L14)
    scheduler = PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False)
    unet = _unet(32, attention_head_dim=8)
    return _one_tower(tower, unet, scheduler)


def _sd2(clips: Path) -> dict:
    """Stable Diffusion 2.1: v-prediction under DDIM, all layers but one of CLIP H/14, texts padded with "!"."""
    tower = _tower(clips / "h", CLIPTextModel, layers=2, pad="!", width=H14["width"])
    scheduler = DDIMScheduler(**BETAS, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False)
    unet = _unet(48, attention_head_dim=(2, 4), use_linear_projection=True, upcast_attention=True)
    return _one_tower(tower, unet, scheduler)


def _one_tower(tower: tuple, unet: UNet2DConditionModel, scheduler: object) -> dict:
    model, tokenizer = tower
    vae = _vae(force_upcast=False)
    return {"text_encoder": model, "tokenizer": tokenizer, "unet": unet, "vae": vae, "scheduler": scheduler}


def _sdxl(clips: Path) -> dict:
    """SDXL: Euler, towers of CLIP L/14 and bigG/14, times and sizes embedded, its own scale of latents."""
    first, tokenizer = _tower(clips / "l", CLIPTextModel, **L14)
    second, tokenizer_2 = _tower(clips / "g", CLIPTextModelWithProjection, pad="!", **BIG_G)
    unet = _unet(
        32 + 48, attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 40,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", use_karras_sigmas=False)
    return {
        "text_encoder": first, "tokenizer": tokenizer, "text_encoder_2": second, "tokenizer_2": tokenizer_2,
        "unet": unet, "vae": _vae(scaling_factor=0.13025, force_upcast=True), "scheduler": scheduler,
    }  # fmt: skip


def _sd3(clips: Path) -> dict:
    """Stable Diffusion 3: both CLIPs with projections, T5, 16 channels with a shift, flow matching."""
    first, tokenizer = _tower(clips / "l", CLIPTextModelWithProjection, **L14)
    second, tokenizer_2 = _tower(clips / "g", CLIPTextModelWithProjection, pad="!", **BIG_G)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=96, caption_projection_dim=32, pooled_projection_dim=24 + 40, out_channels=16,
        pos_embed_max_size=12,
    ).eval()  # fmt: skip
    vae = _vae(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)
    shape = {"d_model": 96, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
    return {
        "text_encoder": first, "tokenizer": tokenizer, "text_encoder_2": second, "tokenizer_2": tokenizer_2,
        "text_encoder_3": T5EncoderModel(T5Config(**shape, feed_forward_proj="gated-gelu")).eval(),
        "tokenizer_3": _t5_tokenizer(), "transformer": transformer, "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }  # fmt: skip


def _t5_tokenizer() -> T5TokenizerFast:
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    backend = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5TokenizerFast(tokenizer_object=backend, extra_ids=0)


def _with_safety_checker(folder: Path) -> None:
    """As in CompVis/stable-diffusion-v1-4: parts that the pipeline neither loads nor ships."""
    file = folder / "model_index.json"
    index = json.loads(file.read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
              "feature_extractor": ["transformers", "CLIPImageProcessor"]}  # fmt: skip
    file.write_text(json.dumps(index))
    for part, name in (("safety_checker", "config.json"), ("feature_extractor", "preprocessor_config.json")):
        (folder / part).mkdir()
        (folder / part / name).write_text("{}")
