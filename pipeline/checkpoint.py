"""State of an interrupted training, in one safetensors file: it appears whole, by a rename, or not at all.

The file holds the hash of its own content: one in which a bit has changed is refused.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.errors import NearsafeError
from pipeline.files import replacing
from pipeline.models.tensors import tensors_hash

_LOG = ("epoch", "value", "weight", "drift")


@dataclass
class Log:
    """Loss terms step by step: `terms` T names; per step its epoch, T values and T weights. Steps count from 1.

    `drift`: for each finished epoch the length of the weight change of the text and of the vision tower.
    """

    terms: list[str] = field(default_factory=list)
    epoch: list[int] = field(default_factory=list)
    value: list[list[float]] = field(default_factory=list)
    weight: list[list[float]] = field(default_factory=list)
    drift: list[list[float]] = field(default_factory=list)

    def rows(self, defence: str, seed: int) -> dict[str, list]:
        """Columns of the train_log table."""
        steps, width = len(self.epoch), len(self.terms)
        return {
            "defence": [defence] * (steps * width),
            "seed": [seed] * (steps * width),
            "epoch": [epoch for epoch in self.epoch for _ in range(width)],
            "step": [step for step in range(1, steps + 1) for _ in range(width)],
            "term": self.terms * steps,
            "value": [value for values in self.value for value in values],
            "weight": [weight for weights in self.weight for weight in weights],
        }

    def drift_rows(self, defence: str, seed: int, sizes: Mapping[str, int]) -> list[dict[str, object]]:
        """Rows of the drift table; `sizes` has the number of parameters of each tower, in the order of `drift`.

        Epoch 0 is the undefended model: no drift.
        """
        return [
            {
                "defence": defence,
                "seed": seed,
                "epoch": epoch,
                "tower": tower,
                "l2": l2,
                "rms": l2 / size**0.5,
                "parameters": size,
            }
            for epoch, values in enumerate([[0.0] * len(sizes), *self.drift])
            for (tower, size), l2 in zip(sizes.items(), values, strict=True)
        ]


def save(path: Path, parameters: dict[str, nn.Parameter], optimizer: Optimizer, step: int, log: Log) -> None:
    """Write trained parameters, optimizer state, step and log. An earlier checkpoint is replaced only at the end."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"parameter/{name}"] = parameter.detach().contiguous()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{key}/{name}"] = value.contiguous()
    for name in _LOG:
        tensors[f"log/{name}"] = torch.tensor(getattr(log, name), dtype=torch.float64)
    state = json.dumps({"step": step, "terms": log.terms})
    metadata = {"state": state, "sha256": tensors_hash(sorted(tensors.items()), state)}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def restore(path: Path, parameters: dict[str, nn.Parameter], optimizer: Optimizer) -> tuple[int, Log]:
    """Fill parameters and optimizer from a checkpoint; the step it was taken after, and the log until then.

    Without a checkpoint: step 0 and an empty log. Raises NearsafeError for a file that is damaged or does not fit the
    model.
    """
    if not path.is_file():
        return 0, Log()
    try:
        with safe_open(path, "pt") as file:
            given = file.metadata()
            content = ((name, file.get_tensor(name)) for name in sorted(file.keys()))
            if tensors_hash(content, given["state"]) != given["sha256"]:
                raise ValueError("damaged, its content is not what was written")
            state = json.loads(given["state"])
            for name, parameter in parameters.items():
                parameter.data.copy_(file.get_tensor(f"parameter/{name}"))
            for key in file.keys():
                kind, _, rest = key.partition("/")
                if kind == "optimizer":
                    field_name, _, name = rest.partition("/")
                    parameter = parameters[name]
                    value = file.get_tensor(key)
                    if value.ndim or optimizer.defaults.get("fused"):  # else Adam keeps `step` on the CPU
                        value = value.to(parameter.device)
                    optimizer.state[parameter][field_name] = value
            log = {name: file.get_tensor(f"log/{name}").tolist() for name in _LOG}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise NearsafeError(f"{path}: not a checkpoint of this training, remove it to start afresh: {error}") from error
    epochs = [int(epoch) for epoch in log["epoch"]]
    return state["step"], Log(state["terms"], epochs, log["value"], log["weight"], log["drift"])
