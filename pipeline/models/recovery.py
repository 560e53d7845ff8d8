"""The LoRA adapter of a merged checkpoint, found again as merged minus base weights, in PEFT's layout.

Training keeps the merged model alone. Its change of a weight is scaling * B A, of rank r at most, so that a truncated
singular value decomposition gives it back but for what float32 rounds away; anything else is no adapter, and refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import CLIPModel

from pipeline.errors import NearsafeError
from pipeline.models import adapters
from pipeline.models.adapters import Lora, Tower
from pipeline.models.quiet import quiet

# How far a weight may be from base + adapter, in units of float32's rounding of all numbers that took part: merging
# rounds once in training and once on loading, B A rounds r times, and the factors are rounded themselves.
_ROUNDING = 2.0**-24
_SLACK = 4.0
_EXTRA = 8  # columns beyond the rank of the randomised decomposition, which is exact for a matrix of that rank


@dataclass(frozen=True)
class Recovered:
    """`modules`: how many; `residual`: the largest difference left, as a share of what rounding may leave (0 to 1)."""

    modules: int
    residual: float


def recover(
    merged: CLIPModel, base: CLIPModel, lora: Lora, towers: Sequence[Tower], named: str, out: Path
) -> Recovered:
    """Write `out`/adapter_config.json and adapter_model.safetensors, for `peft.PeftModel.from_pretrained(base, out)`.

    `named`: how the configuration calls the base model. `base` is changed **in place**. Raises NearsafeError where
    the change is not of rank `lora.r` in every module that adapters are on, or reaches beyond these modules.
    """
    own = merged.state_dict()
    adapted = adapters.attach(base, lora, torch.Generator().manual_seed(0), towers)
    layers = {n: module for n, module in adapted.get_base_model().named_modules() if isinstance(module, LoraLayer)}
    _check_rest(adapted.get_base_model().state_dict(), own, set(layers))
    worst = 0.0
    for name, layer in layers.items():
        weight, target = layer.get_base_layer().weight.detach(), own[f"{name}.weight"]
        _fill(layer, target.double() - weight.double())
        found = layer.get_delta_weight("default").detach()
        left = float((weight.double() + found.double() - target.double()).norm())
        allowed = _SLACK * _ROUNDING * float(weight.norm() + target.norm() + (lora.r + 2) * found.norm())
        if left > allowed:
            raise NearsafeError(
                f"{name}: the change of this weight is not of rank {lora.r}: {left:.3g} is left, rounding leaves "
                f"{allowed:.1g} at most; the checkpoint is no merged adapter of this rank"
            )
        worst = max(worst, left / allowed)
    adapted.peft_config["default"].base_model_name_or_path = named
    with quiet():
        adapted.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # peft's own, an empty form
    return Recovered(len(layers), worst)


@torch.no_grad()
def _fill(layer: LoraLayer, change: Tensor) -> None:
    """A and B of one module, (r, in...) and (out, r), of a change (out, in...) in float64; each takes half of it."""
    a, b, scaling = layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.scaling["default"]
    matrix, rank = change.flatten(1), a.shape[0]
    if min(matrix.shape) > 4 * (rank + _EXTRA):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            u, s, v = torch.svd_lowrank(matrix, q=rank + _EXTRA, niter=4)
    else:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        v = vh.mT
    keep = min(rank, len(s))
    root = (s[:keep] / scaling).sqrt()
    rows, columns = torch.zeros(rank, matrix.shape[1]).double(), torch.zeros(matrix.shape[0], rank).double()
    rows[:keep], columns[:, :keep] = root[:, None] * v[:, :keep].mT, u[:, :keep] * root
    a.copy_(rows.reshape(a.shape))
    b.copy_(columns.reshape(b.shape))


def _check_rest(base: dict[str, Tensor], own: dict[str, Tensor], modules: set[str]) -> None:
    """Nothing but the weights of `modules` differs: biases, norms, embeddings, projections and the other tower."""
    for key, value in base.items():
        name = key.replace(".base_layer.", ".")
        if "lora_" in key or (name.rpartition(".")[0] in modules and name.endswith(".weight")):
            continue
        if name not in own or not torch.equal(value, own[name]):
            raise NearsafeError(f"{name}: differs from the base model's, and no adapter is on it: not a merged adapter")
