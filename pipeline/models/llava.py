"""A LLaVA whose vision tower may be a defended CLIP's, and what it says of images.

Any plain folder of `LlavaForConditionalGeneration` with its processor: the world's own, or LLaVA 1.5
(llava-hf/llava-1.5-7b-hf). Replies are sampled row by row: noise from a reply's own seed, so that neither batch size,
order nor a resumed run changes them.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoProcessor,
    GenerationConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
)

from pipeline.agewords import mentions_age
from pipeline.errors import NearsafeError
from pipeline.ids import content_id
from pipeline.models.clip import Clip
from pipeline.models.clip_files import check_vocabulary
from pipeline.models.folders import read_settings
from pipeline.models.hashing import model_hash
from pipeline.models.loading import load_whole, loading

# LLaVA 1.5's dialogue, for a processor that brings no chat template.
LLAVA_1_5 = "USER: {image}\n{query} ASSISTANT:"


@dataclass(frozen=True)
class Llava:
    """A loaded LLaVA in evaluation mode; `hash` names the weights, those of a swapped tower included."""

    model: LlavaForConditionalGeneration
    processor: LlavaProcessor
    hash: str


def load_llava(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Llava:
    """Load model (safetensors) and processor of a folder from disk. Nothing is downloaded, no code of it is run.

    LLaVA 1.5 7B takes 28 GB in float32, half of that in a 16-bit `dtype`.
    Of the folder's generation settings only the special tokens are kept: how replies are drawn is `describe`'s matter.
    Raises NearsafeError naming the folder when it is missing, incomplete or broken.
    """
    folder = Path(folder)
    digest = model_hash(folder)
    if (kind := read_settings(folder / "config.json").get("model_type")) != "llava":
        raise NearsafeError(f"{folder}: model_type {kind!r}, expected 'llava'")
    model = load_whole(LlavaForConditionalGeneration, folder, "LLaVA folder", dtype)
    with loading(folder, "LLaVA folder"):
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not isinstance(processor, LlavaProcessor):
        raise NearsafeError(f"{folder}: not a loadable LLaVA folder: its processor is a {type(processor).__name__}")
    if processor.patch_size is None:  # older folders leave it to the model's configuration
        processor.patch_size = model.config.vision_config.patch_size
        processor.num_additional_image_tokens = 1
    if processor.vision_feature_select_strategy is None:
        processor.vision_feature_select_strategy = model.config.vision_feature_select_strategy
    _check_tokens(folder, model, processor)
    _check_pixels(folder, model.config.vision_config.image_size, processor)
    with loading(folder, "LLaVA folder"):
        model.generation_config = _tokens_only(model.generation_config, processor.tokenizer)
        return Llava(model.to(device).eval(), processor, digest)


def _check_pixels(folder: Path, side: int, processor: LlavaProcessor) -> None:
    """The image processor works and gives what the vision tower takes. Raises NearsafeError."""
    with loading(folder, "image processor"):
        found = processor.image_processor(images=[Image.new("RGB", (side + 1, side))], return_tensors="pt").pixel_values
    if tuple(found.shape) != (1, 3, side, side) or not torch.isfinite(found).all():
        raise NearsafeError(
            f"{folder}: the image processor gives {tuple(found.shape)}, the vision tower takes (1, 3, {side}, {side})"
        )


def _check_tokens(folder: Path, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
    """An end, the image's token as the model knows it, no token without a row. Raises NearsafeError."""
    config, tokenizer, saved = model.config, processor.tokenizer, model.generation_config
    if tokenizer.eos_token_id is None:
        raise NearsafeError(f"{folder}: the tokenizer has no eos_token")
    for name, found in (("bos_token_id", saved.bos_token_id), ("eos_token_id", saved.eos_token_id)):
        ids = found if isinstance(found, list) else [found]
        if found is not None and not all(type(one) is int and 0 <= one < config.text_config.vocab_size for one in ids):
            raise NearsafeError(f"{folder}: generation_config.json: {name} is {found!r}, no token of the model")
    check_vocabulary(folder, tokenizer, config.text_config.vocab_size)
    if (found := tokenizer.convert_tokens_to_ids(processor.image_token)) != config.image_token_index:
        raise NearsafeError(
            f"{folder}: the tokenizer's {processor.image_token} is {found}, the model's image_token_index "
            f"{config.image_token_index}"
        )


def with_vision_tower(llava: Llava, clip: Clip) -> Llava:
    """The same language model looking through the vision tower of a (defended) CLIP; `llava` itself is not changed.

    The CLIP's tower is moved to the LLaVA's device and number format: it is used up.
    Raises NearsafeError naming the first tensor that is missing or of another shape.
    """
    own, given = llava.model.model.vision_tower, clip.model.vision_model
    wanted = {name: tuple(value.shape) for name, value in own.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in given.state_dict().items()}
    if wanted != found:
        name = next(name for name in (*wanted, *found) if wanted.get(name) != found.get(name))
        raise NearsafeError(
            f"the CLIP's vision tower does not fit the LLaVA: {name} is {found.get(name, 'missing')}, "
            f"expected {wanted.get(name, 'no such tensor')}"
        )
    if (size := llava.model.config.vision_config.image_size) != clip.image_size:
        raise NearsafeError(f"the CLIP sees {clip.image_size}x{clip.image_size} pixels, the LLaVA {size}x{size}")
    inner = _with(llava.model.model, vision_tower=given.to(llava.model.device, llava.model.dtype))
    return replace(llava, model=_with(llava.model, model=inner), hash=content_id(llava.hash, clip.hash))


def prompt(llava: Llava, query: str) -> str:
    """The dialogue up to the reply: by the processor's chat template, else in LLaVA 1.5's form."""
    if not llava.processor.chat_template:
        return LLAVA_1_5.format(image=llava.processor.image_token, query=query)
    content = [{"type": "image"}, {"type": "text", "text": query}]
    messages = [{"role": "user", "content": content}]
    return llava.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


@torch.inference_mode()
def describe(
    llava: Llava,
    images: Sequence[Image.Image],
    query: str,
    seeds: Sequence[int],
    temperature: float = 0.2,
    max_new_tokens: int = 128,
) -> list[str]:
    """The reply to `query` about each RGB image, one batch, without beams; `seeds`: one per image.

    The protocol of Safe-CLIP's image-to-text (safe_clip specification §9) is "Describe this image.", temperature 0.2,
    128 new tokens. Temperature 0 takes the likeliest token. Raises ValueError for a negative temperature, and for a
    query that the age-word filter refuses.
    """
    if mentions_age(query):
        raise ValueError("the age-word filter refuses the query")
    if len(images) != len(seeds):
        raise ValueError(f"expected one seed per image, got {len(seeds)} for {len(images)}")
    if not images:
        return []
    device = llava.model.device
    text = prompt(llava, query)
    inputs = llava.processor(images=list(images), text=[text] * len(images), return_tensors="pt").to(
        device, llava.model.dtype
    )
    config = GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
    noise = LogitsProcessorList([GumbelNoise(seeds, temperature)])
    ids = llava.model.generate(**inputs, generation_config=config, logits_processor=noise)
    replies = ids[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in llava.processor.tokenizer.batch_decode(replies, skip_special_tokens=True)]


class GumbelNoise(LogitsProcessor):
    """Makes greedy decoding an exact sample: argmax(logits / T + Gumbel) ~ softmax(logits / T) (Gumbel 1954).

    Every row has its own CPU generator, one draw of the vocabulary's width per token.
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        if temperature < 0:
            raise ValueError(f"temperature must not be negative, got {temperature}")
        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) of the next token, with noise."""
        if self.temperature == 0:
            return scores
        uniform = [torch.rand(scores.shape[1], generator=g, dtype=torch.float64) for g in self.generators]
        tiny = torch.finfo(torch.float64).tiny
        gumbel = -torch.log(-torch.log(torch.stack(uniform).clamp(min=tiny)))
        return scores / self.temperature + gumbel.to(scores)


def _with(module: torch.nn.Module, **submodules: torch.nn.Module) -> torch.nn.Module:
    """A shallow copy of `module` with some submodules exchanged; all other tensors are shared."""
    twin = copy(module)
    twin._modules = {**module._modules, **submodules}
    return twin


def _tokens_only(saved: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Only the special tokens of `saved`: `generate` fills every setting that a call leaves open from the model's own.

    A missing end token is the tokenizer's; padding is the tokenizer's, or its end token.
    """
    end = saved.eos_token_id if saved.eos_token_id is not None else tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return GenerationConfig(bos_token_id=saved.bos_token_id, eos_token_id=end, pad_token_id=pad)
