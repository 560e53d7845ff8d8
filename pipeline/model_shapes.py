"""Architectures of well-known hub models, so that sizes and times can be told before anything is fetched.

Values are those of the models' own configuration files. A folder that is there is read instead.
"""

from pathlib import Path
from typing import Any

from pipeline.errors import NearsafeError
from pipeline.models.hub import hub_id
from pipeline.params import load

Config = dict[str, Any]


def _clip(
    text: tuple[int, int, int], vision: tuple[int, int, int], patch: int, projection: int, image: int = 224
) -> Config:
    """(width, layers, heads) of both towers; the rest is the same in all of OpenAI's."""

    def tower(shape: tuple[int, int, int]) -> Config:
        width, layers, heads = shape
        return {
            "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
            "intermediate_size": 4 * width, "projection_dim": projection, "hidden_act": "quick_gelu",
        }  # fmt: skip

    return {
        "projection_dim": projection,
        "text_config": {**tower(text), "vocab_size": 49408, "max_position_embeddings": 77},
        "vision_config": {**tower(vision), "image_size": image, "patch_size": patch},
    }


_SD1 = {
    "unet": {
        "sample_size": 64, "in_channels": 4, "out_channels": 4, "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2, "cross_attention_dim": 768, "attention_head_dim": 8,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    },
    "vae": {
        "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
        "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "text_encoder": _clip((768, 12, 12), (1024, 24, 16), 14, 768)["text_config"],
}  # fmt: skip
_LLAMA_7B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "vocab_size": 32064,
}  # fmt: skip
KNOWN: dict[str, Config] = {
    "openai/clip-vit-base-patch32": _clip((512, 12, 8), (768, 12, 12), 32, 512),
    "openai/clip-vit-base-patch16": _clip((512, 12, 8), (768, 12, 12), 16, 512),
    "openai/clip-vit-large-patch14": _clip((768, 12, 12), (1024, 24, 16), 14, 768),
    "openai/clip-vit-large-patch14-336": _clip((768, 12, 12), (1024, 24, 16), 14, 768, 336),
    "CompVis/stable-diffusion-v1-4": _SD1,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _SD1,
    "llava-hf/llava-1.5-7b-hf": {
        "text_config": _LLAMA_7B,
        "vision_config": _clip((768, 12, 12), (1024, 24, 16), 14, 768, 336)["vision_config"],
    },
}


def shape_of(folder: Path, parts: tuple[str, ...] = ()) -> tuple[Config, str] | None:
    """The configuration of a model (of its `parts`, for diffusers) and where it is from; None where unknown."""
    try:
        if parts:
            found = {part: _own(folder / part / "config.json") for part in parts if (folder / part).is_dir()}
            if found:
                return found, "its own configuration"
        elif (folder / "config.json").is_file():
            return _own(folder / "config.json"), "its own configuration"
    except NearsafeError:
        return None
    name = hub_id(folder)
    return (KNOWN[name], f"the known shape of {name}") if name in KNOWN else None


def numbers(kind: str, shape: Config) -> int:
    """How many numbers the weights of a model hold: "clip", "diffusion" or "llava". Nothing is allocated."""
    import torch

    with torch.device("meta"):
        return sum(p.numel() for model in build(kind, shape) for p in model.parameters())


def build(kind: str, shape: Config) -> list[Any]:
    """The model's parts on the default device, weights as their classes initialise them."""
    if kind == "clip":
        from transformers import CLIPConfig, CLIPModel

        return [CLIPModel(CLIPConfig(**shape))]
    if kind == "llava":
        from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

        vision, text = CLIPVisionConfig(**shape["vision_config"]), LlamaConfig(**shape["text_config"])
        return [LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text))]
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    classes = {
        "unet": UNet2DConditionModel.from_config,
        "vae": AutoencoderKL.from_config,
        "text_encoder": lambda values: CLIPTextModel(CLIPTextConfig(**values)),
    }
    return [make(shape[part]) for part, make in classes.items() if part in shape]


def _own(file: Path) -> Config:
    return load(file)  # JSON is YAML
