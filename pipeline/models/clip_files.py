"""What a CLIP folder must be before and after it is loaded; every refusal names the folder and the thing."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CLIPTextConfig, CLIPTokenizer, PreTrainedTokenizerBase

from pipeline.errors import NearsafeError
from pipeline.models.folders import read_settings
from pipeline.models.loading import loading

# Before transformers 4.31 every CLIP said so, whatever its tokenizer; the model then takes the highest id as the end.
_OLD_END = 2


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a CLIPModel. Raises NearsafeError as `read_settings` does, and for another model."""
    config = read_settings(Path(folder) / "config.json")
    if config.get("model_type") != "clip":
        raise NearsafeError(f"{folder}: model_type {config.get('model_type')!r}, expected 'clip' (a whole CLIPModel)")
    return config


def check_tokenizer_files(folder: Path) -> None:
    """transformers makes an empty tokenizer, without a word, where the files are missing. Raises NearsafeError."""
    if (Path(folder) / "tokenizer.json").is_file():
        return
    for name in ("vocab.json", "merges.txt"):
        if not (Path(folder) / name).is_file():
            what = "no tokenizer.json or vocab.json" if name == "vocab.json" else "vocab.json without merges.txt"
            raise NearsafeError(f"{folder}: no loadable tokenizer: {what}")


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer from disk, with begin, end and padding tokens. Raises NearsafeError naming the folder."""
    check_tokenizer_files(folder)
    with loading(folder, "tokenizer"):
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    for role in ("bos", "eos", "pad"):
        if getattr(tokenizer, f"{role}_token_id") is None:
            raise NearsafeError(f"{folder}: the tokenizer has no {role}_token")
    return tokenizer


def check_tokens(folder: Path, tokenizer: CLIPTokenizer, text: CLIPTextConfig) -> None:
    """Every token has a row in the model, and the end token is the one that it pools. Raises NearsafeError."""
    check_vocabulary(folder, tokenizer, text.vocab_size)
    pooled = max(tokenizer.get_vocab().values()) if text.eos_token_id == _OLD_END else text.eos_token_id
    if tokenizer.eos_token_id != pooled:
        raise NearsafeError(
            f"{folder}: the tokenizer's end token is {tokenizer.eos_token_id}, the model pools token {pooled}"
        )


def check_vocabulary(folder: Path, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """No token id beyond the `rows` of the model's embedding. Raises NearsafeError."""
    if (highest := max(tokenizer.get_vocab().values(), default=-1)) >= rows:
        raise NearsafeError(f"{folder}: the tokenizer has more tokens than the model: id {highest}, and {rows} rows")


def check_processor(folder: Path, processor: Mapping[str, Any], side: int) -> None:
    """Our image path is: RGB, shortest side to `side`, centre crop, 1/255, mean and std. Nothing else may be asked for.

    What `processor` does not say is as CLIPImageProcessor's default. Raises NearsafeError naming the setting.
    """
    size, crop = processor.get("size", side), processor.get("crop_size", side)
    wanted = {
        "do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255,
    }  # fmt: skip
    for key, value in wanted.items():
        found = processor.get(key)
        if found is not None and found != value:
            raise NearsafeError(f"{folder}: image processor: {key} is {found!r}, expected {value!r}")
    if size not in (side, {"shortest_edge": side}):
        raise NearsafeError(f"{folder}: image processor: size is {size!r}, expected the shortest edge to be {side}")
    if crop not in (side, {"height": side, "width": side}):
        raise NearsafeError(f"{folder}: image processor: crop_size is {crop!r}, expected {side} times {side}")
    if processor.get("resample", 3) not in range(6):
        raise NearsafeError(f"{folder}: image processor: resample is {processor['resample']!r}, expected 0 to 5")
    for key in ("image_mean", "image_std"):
        found = processor.get(key)
        numbers = isinstance(found, list | tuple) and len(found) == 3 and all(map(_is_number, found))
        if not numbers or (key == "image_std" and 0 in found):
            raise NearsafeError(f"{folder}: image processor: {key} is {found!r}, expected three numbers")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
