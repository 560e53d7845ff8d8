"""The parts of an export, each a folder that plain transformers, diffusers or peft loads.

clip/      a CLIPModel: the checkpoint that was scored, byte by byte
text/      its text tower: CLIPTextModel, or with the projection CLIPTextModelWithProjection
vision/    its vision tower: CLIPVisionModel, or CLIPVisionModelWithProjection
adapter/   the LoRA adapter alone, for peft and the base model (pipeline/models/recovery.py)
pipeline/  a diffusers pipeline with the defended text tower in its slot (pipeline/models/slots.py)
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from pipeline.defences.registry import Defence
from pipeline.errors import NearsafeError
from pipeline.models.adapters import Lora
from pipeline.models.clip import load_clip
from pipeline.models.export import COMPANIONS
from pipeline.models.hashing import model_hash
from pipeline.models.quiet import quiet
from pipeline.models.recovery import Recovered, recover
from pipeline.models.slots import save_text_tower
from pipeline.params import build

Part = Literal["clip", "text", "vision", "adapter", "pipeline"]
PARTS: tuple[Part, ...] = get_args(Part)
_LOCAL = {"dtype": torch.float32, "local_files_only": True, "use_safetensors": True}
_PROCESSOR = frozenset({"preprocessor_config.json", "processor_config.json"})


def write_text(clip: Path, out: Path) -> None:
    """The text tower of a CLIP folder with its projection and its tokenizer, in float32."""
    with quiet():
        model = CLIPTextModelWithProjection.from_pretrained(clip, **_LOCAL)
    save_text_tower(model, out)
    _companions(clip, out, vision=False)


def write_vision(clip: Path, out: Path) -> None:
    """The vision tower of a CLIP folder with its projection and its image processor, in float32."""
    with quiet():
        CLIPVisionModelWithProjection.from_pretrained(clip, **_LOCAL).save_pretrained(out)
    _companions(clip, out, vision=True)


def write_adapter(
    clip: Path, base: Path, defence: Defence, spec: Mapping[str, Any], named: str, out: Path
) -> Recovered:
    """The adapter of a merged checkpoint. `spec`: the checkpoint's; `named`: how the adapter calls its base model.

    Raises NearsafeError for a checkpoint that has none (a full fine-tune, an imported or undefended model), and for
    another base model than the one that was tuned.
    """
    train = spec.get("train") or {}
    if defence.kind != "trained" or not train.get("lora"):
        how = "every parameter was tuned" if defence.kind == "trained" else "nothing was trained"
        raise NearsafeError(f"{defence.name}: there is no adapter to export: {how}; take --part clip, text or vision")
    tuned, there = spec["inputs"]["clip"], model_hash(base)
    if tuned != there:
        raise NearsafeError(
            f"{base}: this base model is {there}, the checkpoint of {defence.name} was tuned from {tuned}"
        )
    lora = build(Lora, train["lora"], f"spec of {defence.name}: train.lora")
    return recover(load_clip(clip).model, load_clip(base).model, lora, defence.towers, named, out)


def _companions(clip: Path, out: Path, vision: bool) -> None:
    for name in COMPANIONS:
        if (clip / name).is_file() and (name in _PROCESSOR) == vision:
            shutil.copyfile(clip / name, out / name)
