"""The text encoders of a diffusers folder as slots, and a (defended) CLIP's text tower in the slot that it fits.

A slot is a subfolder `text_encoder`, `text_encoder_2`, ... with its tokenizer. A tower fits where hidden size, heads,
vocabulary and positions are the slot's, and the width of the projection where the slot projects. It may have more
layers than the slot: Stable Diffusion 2.x uses the first 23 of the 24 of CLIP H/14, with the final norm.
"""

import copy
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipeline.errors import NearsafeError
from pipeline.models.clip import Clip, load_clip
from pipeline.models.clip_files import load_tokenizer
from pipeline.models.folders import INDEX, check_index, read_settings
from pipeline.models.loading import loading
from pipeline.models.quiet import quiet

CLIP_CLASSES = ("CLIPTextModel", "CLIPTextModelWithProjection")
T5 = "T5EncoderModel"
# Parts of a pipeline that neither make the image nor are ours to ship: an export leaves them out.
_LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
_COPIED = frozenset({".json", ".txt", ".model", ".jinja"})
_FP16 = ".fp16"
_DEFAULT = re.compile(r"(diffusion_pytorch_model|model)(-\d+-of-\d+)?\.safetensors")  # names that loaders look for


@dataclass(frozen=True)
class Slot:
    """What a text encoder must be. None: the folder does not say, so anything goes. No CLIP fits where `cls` is T5."""

    name: str
    cls: str
    hidden: int
    heads: int | None = None
    layers: int | None = None
    vocabulary: int | None = None
    positions: int | None = None
    projection: int | None = None  # of CLIPTextModelWithProjection

    @property
    def tokenizer(self) -> str:
        """Name of the slot's tokenizer folder."""
        return self.name.replace("text_encoder", "tokenizer")

    def __str__(self) -> str:
        if self.cls == T5:
            return f"{self.name} (T5, {self.hidden} wide)"
        return f"{self.name} ({_shape(vars(self))})"

    def takes(self, tower: "Slot") -> bool:
        """Whether a tower of this shape fits."""
        if self.cls not in CLIP_CLASSES or (self.layers is not None and tower.layers < self.layers):
            return False
        names = ("hidden", "heads", "vocabulary", "positions", "projection")
        return all(getattr(self, name) in (None, getattr(tower, name)) for name in names)


def tower_shape(config: CLIPConfig) -> Slot:
    """The shape of a CLIP's text tower and its projection."""
    text = config.text_config
    return Slot(
        "text tower", CLIP_CLASSES[1], text.hidden_size, text.num_attention_heads, text.num_hidden_layers,
        text.vocab_size, text.max_position_embeddings, config.projection_dim,
    )  # fmt: skip


def read_index(folder: Path) -> dict[str, Any]:
    """The folder's model_index.json; empty where there is none. Raises NearsafeError as `check_index` does."""
    file = folder / INDEX
    if not file.is_file():
        return {}
    index = read_settings(file)
    check_index(file, index)
    return index


def read_slots(folder: Path) -> dict[str, Slot]:
    """The slots of a diffusers folder by name, in order. One without any is Stable Diffusion's single slot.

    An entry [null, null] of model_index.json leaves a slot empty. Raises NearsafeError for a class that is not known,
    and for a slot that the index names and the folder lacks.
    """
    folder, index = Path(folder), read_index(folder)
    named = {name for name, part in index.items() if name.startswith("text_encoder") and part[0] is not None}
    there = {path.parent.name for path in folder.glob("text_encoder*/config.json")}
    if absent := sorted(named - there) if index else []:
        raise NearsafeError(
            f"{folder / absent[0]}: no such text encoder, though {INDEX} names it; "
            f"[null, null] in its place does without"
        )
    names = sorted(named if index else there)
    return {name: _slot(folder, name, index) for name in names} or _bare(folder)


def fitting_slot(
    config: CLIPConfig, folder: Path, source: Path, slots: Mapping[str, Slot], held: Mapping[str, Any]
) -> Slot:
    """The one slot of `source` that the tower of the CLIP in `folder` fits, apart from those that `held` names.

    Raises NearsafeError naming both folders, the slots and the widths where none or more than one fits.
    """
    if unknown := [name for name in held if name not in slots]:
        raise NearsafeError(f"{source}: no slot {unknown[0]!r} for a text tower; slots: {', '.join(slots)}")
    shape, free = tower_shape(config), [slot for name, slot in slots.items() if name not in held]
    fits = [slot for slot in free if slot.takes(shape)]
    tower = f"{folder}: its text tower ({_shape(vars(shape))})"
    if not fits:
        raise NearsafeError(f"{tower} fits no free slot of {source}: {'; '.join(map(str, free)) or 'all are taken'}")
    if len(fits) > 1:
        raise NearsafeError(
            f"{tower} fits more than one slot of {source}: {'; '.join(map(str, fits))}: name in generate.towers what "
            f"the others hold (a CLIP folder, or null for their own)"
        )
    return fits[0]


def tower_in(slot: Slot, clip: Clip) -> CLIPTextModel | CLIPTextModelWithProjection:
    """The CLIP's text tower as the slot's class, cut to the slot's layers; weights are shared, not copied."""
    tower = clip.model.text_model
    layers = slot.layers or tower.config.num_hidden_layers
    if slot.cls == CLIP_CLASSES[0] and layers == tower.config.num_hidden_layers:
        return tower
    config = copy.deepcopy(tower.config)
    config.num_hidden_layers, config.projection_dim = layers, clip.model.text_projection.out_features
    cls, prefix = (CLIPTextModel, "") if slot.cls == CLIP_CLASSES[0] else (CLIPTextModelWithProjection, "text_model.")
    with init_empty_weights(include_buffers=False):
        twin = cls(config)
    weights = {f"{prefix}{name}": value for name, value in tower.state_dict().items()}
    weights["text_projection.weight"] = clip.model.text_projection.weight
    twin.load_state_dict({name: weights[name] for name in twin.state_dict()}, assign=True)
    return twin.to(tower.device).eval()


def slot_tokenizer(slot: Slot, clip: Clip, folder: Path, source: Path) -> CLIPTokenizer:
    """The tokenizer of the slot, else the CLIP's own. They differ in padding: Stable Diffusion 2.x pads with "!".

    Raises NearsafeError where the two have other words.
    """
    if not (source / slot.tokenizer).is_dir():
        return clip.tokenizer
    found = load_tokenizer(source / slot.tokenizer)
    if found.get_vocab() != clip.tokenizer.get_vocab():
        raise NearsafeError(f"{folder}: its tokenizer has other words than {source / slot.tokenizer}")
    return found


def place_tower(source: Path, clip: Path, out: Path, towers: Mapping[str, Path | None] | None = None) -> str:
    """Write `out`: the diffusers folder `source`, byte by byte, with the text tower of folder `clip` in its slot.

    `towers`: what other slots hold, as in `generate.towers`. Towers are stored in float32. Left out are the safety
    checker, image encoders, and files that are neither safetensors nor settings. Returns the name of the slot. `out`
    must be new or empty. Raises NearsafeError for folders that do not load, or do not fit.
    """
    source, out, held = Path(source), Path(out), dict(towers or {})
    slots = read_slots(source)
    loaded = load_clip(clip)
    slot = fitting_slot(loaded.model.config, clip, source, slots, held)
    index = _index(source, slots)
    given = {slot.name: (loaded, Path(clip))}
    for name, folder in held.items():
        if folder is not None:
            other = load_clip(folder)
            fitting_slot(other.model.config, folder, source, {name: slots[name]}, {})
            given[name] = (other, Path(folder))
    parts = [name for name, part in index.items() if isinstance(part, list) and part[0] is not None]
    for part in parts:
        if part not in given and (source / part).is_dir():
            _copy(source / part, out / part)
    for name, (tower, folder) in given.items():
        tokenizer = slot_tokenizer(slots[name], tower, folder, source)
        save_text_tower(tower_in(slots[name], tower), out / name)
        if not (out / slots[name].tokenizer).is_dir():
            tokenizer.model_max_length = tower.model.config.text_config.max_position_embeddings
            tokenizer.save_pretrained(out / slots[name].tokenizer)
    (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return slot.name


def save_text_tower(model: CLIPTextModel | CLIPTextModelWithProjection, folder: Path) -> None:
    """Save in float32 under the names that the hub's checkpoints have ("text_model."), which every version reads.

    transformers 5 writes a CLIPTextModel without that prefix, and older ones would fill it with random numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prefix = "text_model." if isinstance(model, CLIPTextModel) else ""
    weights = {f"{prefix}{name}": value.float().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [type(model).__name__], torch.float32
    with quiet():
        config.save_pretrained(folder)


def _slot(folder: Path, name: str, index: Mapping[str, Any]) -> Slot:
    config = read_settings(folder / name / "config.json")
    with loading(folder / name, "text encoder"):
        cls = index[name][1] if name in index else (config.get("architectures") or [None])[0]
        if cls == T5:
            return Slot(name, cls, int(config["d_model"]))
        if cls not in CLIP_CLASSES:
            known = ", ".join((*CLIP_CLASSES, T5))
            raise NearsafeError(f"{folder / name}: class {cls!r} is not supported; known: {known}")
        full = (CLIPTextModel if cls == CLIP_CLASSES[0] else CLIPTextModelWithProjection).config_class(**config)
    return Slot(
        name, cls, full.hidden_size, full.num_attention_heads, full.num_hidden_layers, full.vocab_size,
        full.max_position_embeddings, full.projection_dim if cls == CLIP_CLASSES[1] else None,
    )  # fmt: skip


def _bare(folder: Path) -> dict[str, Slot]:
    """A folder of U-Net, VAE and scheduler alone: the width of the cross-attention is all that is known."""
    file = folder / "unet" / "config.json"
    if not file.is_file():
        raise NearsafeError(f"{folder}: no text encoder, and no unet/config.json that says its width")
    width = read_settings(file).get("cross_attention_dim", 1280)
    return {"text_encoder": Slot("text_encoder", CLIP_CLASSES[0], width)}


def _index(source: Path, slots: Mapping[str, Slot]) -> dict[str, Any]:
    """The model_index.json of an export."""
    index = read_index(source)
    if not index:
        classes = {part: read_settings(source / part / "config.json")["_class_name"] for part in ("unet", "vae")}
        scheduler = read_settings(source / "scheduler" / "scheduler_config.json")["_class_name"]
        index = {
            "_class_name": "StableDiffusionPipeline",
            "scheduler": ["diffusers", scheduler],
            "text_encoder": ["transformers", slots["text_encoder"].cls],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            **{part: ["diffusers", cls] for part, cls in classes.items()},
        }
    stable = index["_class_name"] == "StableDiffusionPipeline"
    index["_diffusers_version"] = version("diffusers")
    for part in _LEFT_OUT:
        if part in index or stable:
            index[part] = [None, None]
    if stable:
        index["requires_safety_checker"] = False
    return dict(sorted(index.items()))


def _copy(folder: Path, out: Path) -> None:
    """Settings, and the weights that are loaded by default; fp16 ones under that name where there are no others."""
    out.mkdir(parents=True)
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    half = all(_FP16 in file.name for file in files if file.suffix == ".safetensors")
    for file in files:
        weights = ".safetensors" in file.name
        if file.suffix not in (*_COPIED, ".safetensors") or (weights and (_FP16 in file.name) != half):
            continue
        if weights and file.suffix == ".json":  # which shard holds a tensor
            (out / file.name.replace(_FP16, "")).write_text(file.read_text(encoding="utf-8").replace(_FP16, ""))
        elif file.suffix == ".json" and ".index." in file.name:
            continue  # of weights in another format
        elif not weights or _DEFAULT.fullmatch(file.name.replace(_FP16, "")):
            shutil.copyfile(file, out / file.name.replace(_FP16, ""))


def _shape(shape: Mapping[str, Any]) -> str:
    units = {"heads": "heads", "layers": "layers", "vocabulary": "tokens", "positions": "positions"}
    said = [f"{shape['hidden']} wide"] + [f"{shape[key]} {unit}" for key, unit in units.items() if shape[key]]
    return ", ".join(said + ([f"projection {shape['projection']}"] if shape["projection"] else []))
