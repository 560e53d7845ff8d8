"""Checkpoints of the published CLIPs' true shape and files, one layer a tower and random weights in half precision."""

import json
from functools import cache
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

# text width, text heads, vision width, vision heads, patch, image size, projection, activation
SHAPES = {
    "ViT-B/32": (512, 8, 768, 12, 32, 224, 512, "quick_gelu"),
    "ViT-L/14": (768, 12, 1024, 16, 14, 224, 768, "quick_gelu"),
    "ViT-L/14-336": (768, 12, 1024, 16, 14, 336, 768, "quick_gelu"),
    "ViT-H/14": (1024, 16, 1280, 16, 14, 224, 1024, "gelu"),
}
WORDS, LENGTH, LAYERS = 49408, 77, 1
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def save_published(folder: Path, shape: str, old: bool = False, **config: object) -> Path:
    """A folder as the hub has it. `old`: as before transformers 4.31, with token ids of no CLIP in config.json."""
    text_width, text_heads, width, heads, patch, size, projection, activation = SHAPES[shape]
    ids = {} if old else {"bos_token_id": WORDS - 2, "eos_token_id": WORDS - 1, "pad_token_id": 1}
    text = {
        "hidden_size": text_width, "intermediate_size": 4 * text_width, "num_attention_heads": text_heads,
        "num_hidden_layers": LAYERS, "vocab_size": WORDS, "max_position_embeddings": LENGTH,
        "hidden_act": activation, "projection_dim": projection, **ids,
    }  # fmt: skip
    vision = {
        "hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads,
        "num_hidden_layers": LAYERS, "image_size": size, "patch_size": patch, "hidden_act": activation,
        "projection_dim": projection,
    }  # fmt: skip
    settings = CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(settings).half().save_pretrained(folder)
    save_tokens(folder)
    written = json.loads((folder / "config.json").read_text())
    if old:
        written["text_config"].update(bos_token_id=0, eos_token_id=2, pad_token_id=1)
        written["text_config_dict"] = {"hidden_size": text_width, "num_hidden_layers": LAYERS}
    (folder / "config.json").write_text(json.dumps(written | config))
    return folder


def save_tokens(folder: Path) -> None:
    """Tokenizer (49,408 tokens: bytes, merges, begin, end) and image processor files, as published CLIPs have."""
    vocabulary, merges = _words()
    (folder / "vocab.json").write_text(vocabulary)
    (folder / "merges.txt").write_text(merges)
    end = "<|endoftext|>"
    special = {"bos_token": "<|startoftext|>", "eos_token": end, "unk_token": end, "pad_token": end}
    tokenizer = {**special, "tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    size = json.loads((folder / "config.json").read_text())["vision_config"]["image_size"]
    processor = {"crop_size": size, "do_center_crop": True, "do_normalize": True, "do_resize": True, "size": size,
                 "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3,
                 "image_mean": MEAN, "image_std": STD}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


@cache
def _words() -> tuple[str, str]:
    """vocab.json and merges.txt in CLIP's order: 256 bytes, the same at the end of a word, merges, begin, end."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte if byte in shown else 256 + i) for i, byte in enumerate(range(256))]
    ends = [f"{letter}</w>" for letter in letters]
    room = WORDS - 2 - 2 * len(letters)
    pairs = [(a, b) for a in letters for b in ends][:room]
    words = list(dict.fromkeys([*letters, *ends, *(a + b for a, b in pairs)]))
    words += ["<|startoftext|>", "<|endoftext|>"]
    assert len(words) == WORDS
    merges = "#version: 0.2\n" + "\n".join(f"{a} {b}" for a, b in pairs) + "\n"
    return json.dumps({word: i for i, word in enumerate(words)}), merges
