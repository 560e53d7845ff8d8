"""What every loader of a model folder shares: one line for whatever goes wrong, and weights that are whole."""

import re
import types
import typing
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.errors import NearsafeError
from pipeline.models.folders import count_floats
from pipeline.models.quiet import quiet

_TWICE = 2  # embeddings that a file holds once and a model twice
_NUMBER = re.compile(r"\.\d+\.")
_LONGEST = 300  # characters of a library's message


@contextmanager
def loading(folder: Path, what: str) -> Iterator[None]:
    """Whatever a library raises over a folder becomes one line, "<folder>: not a loadable <what>: <reason>".

    Every exception, because over broken files libraries raise all kinds (tokenizers a bare Exception). Raises
    NearsafeError; one of our own passes as it is.
    """
    try:
        with quiet():
            yield
    except NearsafeError:
        raise
    except Exception as error:
        raise NearsafeError(f"{folder}: not a loadable {what}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """An exception's message in one line, or its type where it says nothing."""
    return (" ".join(str(error).split()) or type(error).__name__)[:_LONGEST]


def load_whole(
    cls: type[PreTrainedModel], folder: Path, what: str, dtype: torch.dtype, variant: str | None = None
) -> PreTrainedModel:
    """A transformers model of class `cls`, every weight of it from the folder's safetensors. Nothing is downloaded.

    Raises NearsafeError naming the folder and what is wrong: settings of a larger model than the weights are of, which
    would take memory before shapes are compared, an adapter that is not merged, and what `check_whole` refuses.
    """
    held = count_floats(folder)
    with loading(folder, what):
        config = cls.config_class.from_pretrained(folder, local_files_only=True)
        with torch.random.fork_rng(devices=[]), init_empty_weights():  # it draws numbers for no weight
            asked = sum(weight.numel() for weight in cls(config).parameters())
        if asked > _TWICE * held:
            raise NearsafeError(f"{folder}: config.json is of a model of {asked} numbers, the weights hold {held}")
        model, report = cls.from_pretrained(
            folder, dtype=dtype, variant=variant, local_files_only=True, use_safetensors=True,
            ignore_mismatched_sizes=True, output_loading_info=True,  # named below
        )  # fmt: skip
    if adapter := sorted(name for name in report["unexpected_keys"] if "lora_" in name):
        raise NearsafeError(f"{folder}: {adapter[0]}: an adapter that is not merged: merge it with peft first")
    check_whole(folder, cls.__name__, model, report)
    return model


def check_whole(folder: Path, what: str, model: nn.Module, report: Mapping[str, Any]) -> None:
    """Every weight there, of its shape, and finite. `report`: what `from_pretrained` says of its loading.

    Libraries fill with random numbers what is missing, without a word. Raises NearsafeError naming the first tensor.
    What config.json has fewer of than the weights, say layers, libraries leave out without a word: a warning names it.
    """
    whole = f"{folder}: the weights are not those of a whole {what}"
    if odd := sorted(report["mismatched_keys"], key=str):
        name, found, expected = odd[0]
        raise NearsafeError(f"{whole}: {name} is {tuple(found)}, config.json says {tuple(expected)}")
    if absent := sorted(report["missing_keys"]):
        raise NearsafeError(f"{whole}: {absent[0]} is missing")
    if dropped := _dropped(model, report["unexpected_keys"]):
        text = f"{folder}: config.json has no place for {dropped[0]} and {len(dropped) - 1} more of the tensors"
        warnings.warn(f"{text}: they are left out", UserWarning, stacklevel=3)
    check_finite(folder, model.named_parameters())


def _dropped(model: nn.Module, unexpected: Iterable[str]) -> list[str]:
    """Names that differ from those of the model in a number alone. Others are of another model in the same folder."""
    plain = lambda name: _NUMBER.sub(".#.", name)  # noqa: E731
    known = {plain(name) for name in model.state_dict()}
    return sorted(name for name in unexpected if plain(name) in known)


def check_types(file: Path, settings: Mapping[str, Any], cls: type) -> None:
    """Settings are of the kinds that `cls` declares: text, numbers, lists. diffusers itself takes anything.

    Null may stand for anything but a plain int or float, and a number for a number of another kind: published folders
    have that. Raises NearsafeError naming file and key.
    """
    defaults = {name: parameter.default for name, parameter in signature(cls.__init__).parameters.items()}
    for name, hint in typing.get_type_hints(cls.__init__).items():
        value, known = settings.get(name, defaults.get(name)), set(_kinds(hint))
        needed = hint in (int, float) and defaults.get(name) is not None  # some are declared float and None by default
        kinds = {_kind(type(value)), *({"true or false"} if value in (0, 1) else ())}
        if known and (needed if value is None else known.isdisjoint(kinds)):
            raise NearsafeError(f"{file}: {name} is {str(value)[:60]!r}, expected {' or '.join(sorted(known))}")


def _kinds(hint: Any) -> Iterator[str]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for one in typing.get_args(hint):
            yield from _kinds(one)
    elif typing.get_origin(hint) is typing.Literal:
        yield from (_kind(type(value)) for value in typing.get_args(hint))
    elif isinstance(cls := typing.get_origin(hint) or hint, type) and cls is not type(None):
        yield _kind(cls)


def _kind(cls: type) -> str:
    if issubclass(cls, bool):
        return "true or false"
    if issubclass(cls, int | float):
        return "a number"
    return "text" if issubclass(cls, str) else "an object" if issubclass(cls, dict) else "a list"


def check_finite(folder: Path, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Raises NearsafeError for the first of the named tensors with NaN or infinity: one pass over them."""
    for name, weight in weights:
        if weight.is_meta:  # a large chat model's, left on disk
            continue
        low, high = torch.aminmax(weight.detach())
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise NearsafeError(f"{folder}: {name} holds NaN or infinite values")
