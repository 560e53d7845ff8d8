"""A LLaVA 1.5 at reduced width in the layout of llava-hf/llava-1.5-7b-hf: files, names of tensors, shards."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlamaTokenizer, LlavaConfig, LlavaForConditionalGeneration

CHAT = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
PIXELS, PATCH, WIDTH, SHARDS = 336, 14, 32, 3


def save_llava15(folder: Path, seed: int = 0) -> Path:
    """Vision like CLIP ViT-L/14-336 (577 tokens), 32 wide; Llama 16 wide, its vocabulary padded beyond the tokens."""
    folder.mkdir(parents=True)
    tokenizer = _tokenizer(folder)
    image, pad = (tokenizer.convert_tokens_to_ids(token) for token in ("<image>", "<pad>"))
    vision = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_attention_heads=2, num_hidden_layers=3, image_size=PIXELS,
        patch_size=PATCH, projection_dim=24,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=pad + 63, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.5, max_position_embeddings=4096,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image, pad_token_id=pad)
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).half()
    _save_weights(model, folder)
    config.architectures, config.dtype = ["LlavaForConditionalGeneration"], torch.float16
    config.save_pretrained(folder)
    _write(folder / "generation_config.json", bos_token_id=1, eos_token_id=2, pad_token_id=pad)
    sizes = {"size": {"shortest_edge": PIXELS}, "crop_size": {"height": PIXELS, "width": PIXELS}, "resample": 3}
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    _write(
        folder / "preprocessor_config.json", image_processor_type="CLIPImageProcessor",
        processor_class="LlavaProcessor", image_mean=mean, image_std=std, rescale_factor=1 / 255, **sizes,
    )  # fmt: skip
    _write(
        folder / "processor_config.json", image_token="<image>", num_additional_image_tokens=1, patch_size=PATCH,
        processor_class="LlavaProcessor", vision_feature_select_strategy="default",
    )  # fmt: skip
    _write(folder / "chat_template.json", chat_template=CHAT)
    return folder


def _tokenizer(folder: Path) -> LlamaTokenizer:
    """Byte pieces and letters, no merges; <image> and <pad> added, as LLaVA 1.5 adds them."""
    letters = [chr(c) for c in range(32, 127)]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *letters[1:]]
    tokenizer = LlamaTokenizer(vocab={piece: at for at, piece in enumerate(dict.fromkeys(pieces))}, merges=[])
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(folder)
    return tokenizer


def _save_weights(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Shards with an index, under the names that the hub's files have."""
    names = {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head.",
             "model.vision_tower.": "vision_tower.vision_model.",
             "model.multi_modal_projector.": "multi_modal_projector."}  # fmt: skip
    weights = {}
    for name, value in model.state_dict().items():
        prefix = next(prefix for prefix in names if name.startswith(prefix))
        weights[names[prefix] + name.removeprefix(prefix)] = value.contiguous()
    of = {
        name: f"model-{1 + at * SHARDS // len(weights):05d}-of-{SHARDS:05d}.safetensors"
        for at, name in enumerate(weights)
    }
    for file in sorted(set(of.values())):
        save_file({name: weights[name] for name in weights if of[name] == file}, folder / file, {"format": "pt"})
    size = sum(value.numel() * 2 for value in weights.values())
    _write(folder / "model.safetensors.index.json", metadata={"total_size": size}, weight_map=of)


def _write(file: Path, **values: object) -> None:
    file.write_text(json.dumps(values, indent=2))
