"""A tiny random LLaVA in LLaVA 1.5's layout, written as the plain folder that the pipeline loads."""

import json
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from pipeline.rehearsal.models import word_tokenizer

WORDS = ("USER", "ASSISTANT", ":", "Describe", "this", "image", ".", "a", "red", "green", "blue", "cup", "axe", "gun")
CHAT = (
    "{% for message in messages %}{{ '[' + message['role'] + '] ' }}{% for part in message['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[reply]' }}{% endif %}"
)


def save_llava(folder: Path, seed: int = 0, width: int = 32, chat_template: str | None = None) -> Path:
    """Vision 32 x 2 layers on 64 px images (the tower of `tiny.save_clip`), Llama 16 x 1, a tokenizer of words."""
    tokenizer = word_tokenizer(WORDS)
    vision = CLIPVisionConfig(
        hidden_size=width, intermediate_size=2 * width, num_attention_heads=2, num_hidden_layers=2, image_size=64,
        patch_size=16, projection_dim=24,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1, pad_token_id=1, initializer_range=0.5,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=3, image_seq_length=16)
    torch.manual_seed(seed)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image = {"image_processor_type": "CLIPImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    sizes = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps({**image, **sizes}))
    # as older folders: patch size and strategy are left to the model's configuration
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "LlavaProcessor"}))
    if chat_template:
        (folder / "chat_template.jinja").write_text(chat_template)
    return folder
