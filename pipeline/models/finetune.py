"""Two ways to tune the towers of a CLIP behind one interface: LoRA adapters, or every parameter of a tower."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import CLIPModel

from pipeline.models import adapters
from pipeline.models.adapters import Lora, Tower, trainable


@dataclass(frozen=True)
class Tuned:
    """A model ready to train: what it trains carries gradients, everything else is frozen.

    `drift(tower)`: Euclidean length of the weight change of one tower so far. `finish()`: the plain model in evaluation
    mode; the tuned one is used up.
    """

    model: nn.Module
    drift: Callable[[Tower], float]
    finish: Callable[[], CLIPModel]


def tune(model: CLIPModel, lora: Lora | None, generator: torch.Generator, towers: Sequence[Tower]) -> Tuned:
    """Adapters on the named towers, drawn from `generator`, or all their parameters (`lora` None). **In place**.

    A full fine-tune trains `text_model` and `vision_model` with embeddings and final layer norms; projections and
    logit scale, which no diffusion model reads, stay as they are. Raises NearsafeError as `attach` does.
    """
    if lora is not None:
        adapted = adapters.attach(model, lora, generator, towers)
        return Tuned(adapted, lambda tower: adapters.drift(adapted, tower), lambda: adapters.merge(adapted))
    prefixes = tuple(f"{tower}_model." for tower in towers)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(prefixes))
    original = {name: parameter.detach().clone() for name, parameter in trainable(model).items()}

    @torch.no_grad()
    def drift(tower: Tower) -> float:
        now = trainable(model)
        names = [name for name in original if name.startswith(f"{tower}_model.")]
        squares = [((now[name].double() - original[name].double()) ** 2).sum() for name in names]
        return float(torch.stack(squares).sum().sqrt()) if squares else 0.0

    return Tuned(model, drift, model.eval)
