"""Checkpoints with random weights in the true layouts, narrow and shallow: what a rehearsal runs instead of real ones.

CLIP as openai/clip-vit-large-patch14 is laid out (224 pixels in patches of 14, 77 tokens, 49,408 ids of which the last
two begin and end a text), Stable Diffusion 1.x as diffusers lays it out, LLaVA 1.5 as transformers does. What such
models say and draw means nothing; that every stage reads, trains, exports and loads them does.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.world.grammar import ITEM
from pipeline.world.scenes import VOCABULARY

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WIDTH, LAYERS, HEADS = 64, 2, 4
PROJECTION = 48
IMAGE, PATCH, TOKENS = 224, 14, 77
IDS, START, END = 49408, 49406, 49407  # of OpenAI's CLIP
LATENT = 8  # 64-pixel images; Stable Diffusion 1.x has 64
_MEAN, _STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
_TEXT = {
    "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
    "vocab_size": IDS, "max_position_embeddings": TOKENS, "projection_dim": PROJECTION, "hidden_act": "quick_gelu",
    "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,  # as OpenAI's configuration has them, wrongly
}  # fmt: skip
_VISION = {
    "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
    "image_size": IMAGE, "patch_size": PATCH, "projection_dim": PROJECTION, "hidden_act": "quick_gelu",
}  # fmt: skip


def make_models(clip: Path, diffusion: Path, llava: Path | None, seed: int = 0) -> None:
    """Write the folders that are not there yet; one that is there stays as it is. The same seed, the same bytes."""
    for folder, make in ((clip, save_clip), (diffusion, save_diffusion), (llava, save_llava)):
        if folder is not None and not folder.exists():
            _atomically(folder, make, seed)


def save_clip(folder: Path, seed: int) -> None:
    """A CLIPModel folder with its tokenizer and image processor."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    config = CLIPConfig(text_config=_TEXT, vision_config=_VISION, projection_dim=PROJECTION)
    CLIPModel(config).save_pretrained(folder)
    _save_tokenizer(folder)
    _save_processor(folder)


def save_diffusion(folder: Path, seed: int) -> None:
    """A StableDiffusionPipeline folder: text encoder, tokenizer, U-Net, VAE, scheduler; no safety checker."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    CLIPTextModel(CLIPTextConfig(**_TEXT)).save_pretrained(folder / "text_encoder")
    _save_tokenizer(folder / "tokenizer")
    UNet2DConditionModel(
        sample_size=LATENT, in_channels=4, out_channels=4, block_out_channels=(16, 32, 32, 32), layers_per_block=1,
        cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    ).save_pretrained(folder / "unet")  # fmt: skip
    AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=8, latent_channels=4,
        sample_size=8 * LATENT,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).save_pretrained(folder / "vae")  # fmt: skip
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    ).save_pretrained(folder / "scheduler")
    parts = {
        "feature_extractor": [None, None], "safety_checker": [None, None], "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
    }  # fmt: skip
    _json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline", **parts})


def save_llava(folder: Path, seed: int) -> None:
    """A LlavaForConditionalGeneration folder that looks through the vision tower of `save_clip`."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    words = ["USER", "ASSISTANT", ":", ".", "Describe", "this", "image", "a", "picture", "of", "with", "and", *_words()]
    tokenizer = word_tokenizer(words)
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1, pad_token_id=1, max_position_embeddings=4096, initializer_range=0.5,
    )  # fmt: skip
    patches = (IMAGE // PATCH) ** 2
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_VISION), text_config=text, image_token_index=3, image_seq_length=patches
    )
    torch.manual_seed(seed)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _save_processor(folder)
    # As older folders: patch size and strategy are left to the model's configuration.
    _json(folder / "processor_config.json", {"processor_class": "LlavaProcessor"})


def word_tokenizer(words: Sequence[str]) -> "PreTrainedTokenizerFast":
    """One token a word, after begin, end, unknown and "<image>" (0 to 3); a text begins with "<s>"."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = dict.fromkeys(["<s>", "</s>", "<unk>", "<image>", *words])  # each once: ids without gaps
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip


def _words() -> list[str]:
    return sorted({word for names in VOCABULARY.values() for name in names for word in ITEM.get(name, name).split()})


def _save_tokenizer(folder: Path) -> None:
    """Byte-level BPE as OpenAI's: bytes, bytes that end a word, merges; here of the words that the data uses."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    tokens = dict.fromkeys([*letters, *(f"{letter}</w>" for letter in letters)])
    merges: dict[str, None] = {}
    for word in _words():
        left = word[0]
        for at, letter in enumerate(word[1:], start=1):
            right = f"{letter}</w>" if at == len(word) - 1 else letter
            merges.setdefault(f"{left} {right}")
            left += right
            tokens.setdefault(left)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    vocabulary |= {"<|startoftext|>": START, "<|endoftext|>": END}
    folder.mkdir(parents=True, exist_ok=True)
    _json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    ends["pad_token"] = "<|endoftext|>"
    _json(folder / "special_tokens_map.json", ends)
    _json(folder / "tokenizer_config.json", {**ends, "model_max_length": TOKENS, "tokenizer_class": "CLIPTokenizer"})


def _save_processor(folder: Path) -> None:
    sizes = {"size": {"shortest_edge": IMAGE}, "crop_size": {"height": IMAGE, "width": IMAGE}, "resample": 3}
    facts = {"image_processor_type": "CLIPImageProcessor", "image_mean": _MEAN, "image_std": _STD}
    _json(folder / "preprocessor_config.json", {**facts, **sizes, "do_center_crop": True, "do_resize": True})


def _json(file: Path, values: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _atomically(folder: Path, make: Callable[[Path, int], None], seed: int) -> None:
    """A folder that is there is whole: made beside its place, then moved."""
    import shutil

    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    make(temporary, seed)
    temporary.rename(folder)
