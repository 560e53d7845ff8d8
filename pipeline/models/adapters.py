"""LoRA adapters on the towers of a CLIP: attach, list what is trained, merge."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import CLIPModel

from pipeline.errors import NearsafeError
from pipeline.models.quiet import quiet

Tower = Literal["text", "vision"]
TOWERS: tuple[Tower, ...] = ("text", "vision")


@dataclass(frozen=True)
class Lora:
    """Adapter shape. `targets` are last names of linear or convolution modules, such as q_proj or patch_embedding.

    Scaling is alpha / r. Safe-CLIP's released code: r 16, alpha 1, dropout 0.1 (safe_clip.md section 2).
    """

    r: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.r < 1 or not 0 <= self.dropout < 1 or not self.targets:
            raise ValueError(f"lora needs r >= 1, 0 <= dropout < 1 and at least one target, got {self}")


def attach(model: CLIPModel, lora: Lora, generator: torch.Generator, towers: Sequence[Tower]) -> PeftModel:
    """Adapters on every target module of the named towers; everything else is frozen. Changes `model` **in place**.

    The output does not change at first (B is zero). A is drawn from `generator` (Kaiming uniform, as peft does), so
    that the initial adapters depend on no global state. Raises NearsafeError for a target that no tower has.
    """
    names = _find(model, lora.targets, towers)
    config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, bias="none", target_modules=names)
    with torch.random.fork_rng(devices=[]), quiet():
        adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_A" in name:
            drawn = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(drawn, a=5**0.5, generator=generator)
            parameter.data.copy_(drawn)
    return adapted


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name to parameter of everything that is trained, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def merge(adapted: PeftModel) -> CLIPModel:
    """The plain model with the adapters added into its weights, in evaluation mode. The adapted model is used up."""
    return adapted.merge_and_unload().eval()


@torch.no_grad()
def drift(adapted: PeftModel, tower: Tower) -> float:
    """Euclidean length of what merging would add to the weights of one tower; 0 where it has no adapter."""
    layers = [
        module
        for name, module in adapted.get_base_model().named_modules()
        if isinstance(module, LoraLayer) and name.startswith(f"{tower}_model.")
    ]
    squares = [(layer.get_delta_weight(layer.active_adapters[0]).double() ** 2).sum() for layer in layers]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def features(model: nn.Module, ids: Tensor | None = None, pixel_values: Tensor | None = None) -> Tensor:
    """Projected embeddings (B, D), not normalised, of token ids (B, L) or of pixels (B, 3, S, S)."""
    clip = model.get_base_model() if isinstance(model, PeftModel) else model
    if ids is not None:
        return clip.get_text_features(input_ids=ids).pooler_output
    return clip.get_image_features(pixel_values=pixel_values).pooler_output


def _find(model: CLIPModel, targets: Sequence[str], towers: Sequence[Tower]) -> list[str]:
    prefixes = tuple(f"{tower}_model." for tower in towers)
    modules = {
        name: module
        for name, module in model.named_modules()
        if name.startswith(prefixes) and name.rpartition(".")[2] in targets
    }
    found = {name.rpartition(".")[2] for name in modules}
    if absent := [target for target in targets if target not in found]:
        raise NearsafeError(f"lora targets: no module called {absent[0]!r} in the {' and '.join(towers)} tower")
    if odd := [name for name, module in modules.items() if not isinstance(module, nn.Linear | nn.Conv2d)]:
        raise NearsafeError(f"lora targets: {odd[0]} is neither a linear nor a convolution module")
    return sorted(modules)
