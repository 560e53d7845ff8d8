"""Tiny random models, written as the plain folders that the pipeline loads."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, DPMSolverMultistepScheduler, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

LENGTH, WIDTH = 12, 32


def save_clip(
    folder: Path, seed: int = 0, width: int = WIDTH, layers: int = 2, projection: int = 24, image: int = 64,
    patch: int = 16,
) -> Path:  # fmt: skip
    """A CLIPModel with a tokenizer of single letters."""
    folder.mkdir(parents=True, exist_ok=True)
    characters = [chr(c) for c in range(33, 127)]
    tokens = [*dict.fromkeys(characters), *(c + "</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=LENGTH, pad_token="<|endoftext|>"
    )
    begin, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    shape = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_attention_heads": 2,
        "num_hidden_layers": layers,
    }
    text = {"vocab_size": len(tokens), "max_position_embeddings": LENGTH, "projection_dim": projection}
    ids = {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": end}
    config = CLIPConfig(
        text_config={**shape, **text, **ids},
        vision_config={**shape, "image_size": image, "patch_size": patch, "projection_dim": projection},
        projection_dim=projection,
    )
    torch.manual_seed(seed)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = {"image_processor_type": "CLIPImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    crop = {"height": image, "width": image}
    sizes = {"size": {"shortest_edge": image}, "crop_size": crop, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, **sizes}))
    return folder


def save_diffusion(folder: Path, seed: int = 0, width: int = WIDTH) -> Path:
    """U-Net (8x8 latents, one cross-attention level), AutoencoderTiny (32 px images), DPM-Solver++."""
    torch.manual_seed(seed)
    UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=width,
        attention_head_dim=8,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "unet")
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(0, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    ).save_pretrained(folder / "vae")
    DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    ).save_pretrained(folder / "scheduler")
    return folder
