"""What a CLIP folder must be before and after it is loaded; every refusal names the folder and the thing."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from pipeline.errors import NearsafeError

# Before transformers 4.31 every CLIP said so, whatever its tokenizer; the model then takes the highest id as the end.
_OLD_END = 2


def config_file(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. Raises NearsafeError where it is broken, or wants code of its own to be run."""
    file = Path(folder) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NearsafeError(f"{file}: not a readable configuration: {error}") from error
    if not isinstance(config, dict):
        raise NearsafeError(f"{file}: not a configuration: expected an object")
    if "auto_map" in config:
        raise NearsafeError(f"{file}: auto_map: it wants code of its own to be run, which is never done")
    return config


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a CLIPModel. Raises NearsafeError as `config_file` does, and for another model."""
    config = config_file(folder)
    if config.get("model_type") != "clip":
        raise NearsafeError(f"{folder}: model_type {config.get('model_type')!r}, expected 'clip' (a whole CLIPModel)")
    return config


def check_weights(folder: Path, model: CLIPModel, loading: Mapping[str, Any]) -> None:
    """Every weight there, of its shape, and finite. `loading`: transformers' report. Raises NearsafeError."""
    whole = f"{folder}: the weights are not those of a whole CLIPModel"
    if odd := sorted(loading["mismatched_keys"], key=str):
        name, found, expected = odd[0]
        raise NearsafeError(f"{whole}: {name} is {tuple(found)}, config.json says {tuple(expected)}")
    if absent := sorted(loading["missing_keys"]):
        raise NearsafeError(f"{whole}: {absent[0]} is missing")
    if adapter := sorted(name for name in loading["unexpected_keys"] if "lora_" in name):
        raise NearsafeError(f"{folder}: {adapter[0]}: an adapter that is not merged: merge it with peft first")
    check_finite(folder, model.named_parameters())


def check_finite(folder: Path, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Raises NearsafeError for the first of the named tensors with NaN or infinity: one pass over them."""
    for name, weight in weights:
        low, high = torch.aminmax(weight.detach())
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise NearsafeError(f"{folder}: {name} holds NaN or infinite values")


def check_tokenizer_files(folder: Path) -> None:
    """transformers makes an empty tokenizer, without a word, where the files are missing. Raises NearsafeError."""
    if (Path(folder) / "tokenizer.json").is_file():
        return
    for name in ("vocab.json", "merges.txt"):
        if not (Path(folder) / name).is_file():
            what = "no tokenizer.json or vocab.json" if name == "vocab.json" else "vocab.json without merges.txt"
            raise NearsafeError(f"{folder}: not a loadable CLIP folder: {what}")


def check_tokens(folder: Path, tokenizer: CLIPTokenizer, model: CLIPModel) -> None:
    """Begin, end and padding tokens there, the end token the one that the model pools. Raises NearsafeError."""
    text = model.config.text_config
    for role in ("bos", "eos", "pad"):
        if getattr(tokenizer, f"{role}_token_id") is None:
            raise NearsafeError(f"{folder}: the tokenizer has no {role}_token")
    if len(tokenizer) > text.vocab_size:
        raise NearsafeError(
            f"{folder}: the tokenizer has more tokens than the model: {len(tokenizer)} and {text.vocab_size}"
        )
    pooled = max(tokenizer.get_vocab().values()) if text.eos_token_id == _OLD_END else text.eos_token_id
    if tokenizer.eos_token_id != pooled:
        raise NearsafeError(
            f"{folder}: the tokenizer's end token is {tokenizer.eos_token_id}, the model pools token {pooled}"
        )
