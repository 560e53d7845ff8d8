"""Published defended checkpoints, each in the layout that its authors gave it, as a whole CLIP beside the base model.

    safe_clip    a whole CLIPModel, both towers tuned: aimagelab/safeclip_vit-l_14 and others [C, safe_clip.md 2]
    safer_clip   a whole merged CLIPModel: Adeely93/SafeR_CLIP [C, safer_clip.md 5]
    advunlearn   a CLIPTextModel, by itself or as `text_encoder` of a diffusers folder [I]
    des          the weights of a CLIPTextModel [C, des.md 4]; released as a pickle, which must be converted

Tensors are read from safetensors alone. Names with and without `text_model.` are the same, and so are those with a
`module.` before all of them, which data-parallel training leaves; buffers of positions are dropped. Everything else
must be there, in the shape of the base model: a defended model is compared with the one that it was made from.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPModel

from pipeline.errors import NearsafeError
from pipeline.models import hub
from pipeline.models.clip import load_clip
from pipeline.models.export import export_clip
from pipeline.models.folders import PICKLE, PICKLES, check_folder, count_floats, read_settings
from pipeline.models.loading import check_finite, loading

Layout = Literal["safe_clip", "safer_clip", "advunlearn", "des"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
_WHOLE = ("safe_clip", "safer_clip")
_TEXT, _PROJECTION = "text_model.", "text_projection.weight"
# Settings of a tower that its weights do not show, and transformers' defaults.
_HIDDEN = {"hidden_act": "quick_gelu", "num_attention_heads": None, "layer_norm_eps": 1e-5}


def import_checkpoint(layout: Layout, folder: Path, base: Path, out: Path) -> dict[str, float]:
    """Write `out`, a CLIPModel folder as `export_clip` makes it: the checkpoint's weights, all else of `base`.

    Returns, per tower, the length of the weight change over the length of the weights. Raises NearsafeError naming the
    folder: a pickle, a missing tensor or one too many, another shape, NaN, settings that differ from the base model's,
    and weights that are the base model's own.
    """
    place, model = locate(layout, folder), load_clip(base).model
    check_folder(place)
    towers = ("text", "vision") if layout in _WHOLE else ("text",)
    _check_settings(place, model, towers)
    found, own = _read(layout, place), model.state_dict()
    wanted = {name for name in own if layout in _WHOLE or name.startswith(_TEXT)}
    _compare(place, found, {name: own[name] for name in wanted | ({_PROJECTION} & found.keys())}, base)
    check_finite(place, ((name, value.float()) for name, value in found.items()))
    moved = {tower: _moved(own, found, tower) for tower in towers}
    if not any(moved.values()):
        raise NearsafeError(f"{place}: these are the weights of {base} itself: nothing was defended")
    model.load_state_dict({name: value.float() for name, value in found.items()}, strict=False)
    export_clip(model, base, out)
    return moved


def locate(layout: Layout, folder: Path) -> Path:
    """The folder with the weights: `folder` or its `text_encoder`. Raises NearsafeError where there is none."""
    folder = Path(folder)
    if folder.is_file():
        raise NearsafeError(f"{folder}: {PICKLE if folder.suffix in PICKLES else 'is a file; name its folder'}")
    if not folder.is_dir():
        raise NearsafeError(hub.missing(folder))
    inside = folder / "text_encoder"
    return inside if layout not in _WHOLE and not _weights(folder) and _weights(inside) else folder


def _weights(folder: Path) -> list[Path]:
    """The weight files of a folder: those of transformers' names, else all; no second copy in another precision."""
    found = sorted(folder.glob("*.safetensors"))
    plain = [file for file in found if file.name == "model.safetensors" or file.name.startswith("model-0")]
    return plain or found


def _read(layout: Layout, place: Path) -> dict[str, Tensor]:
    """Tensors by the names that a CLIPModel gives them."""
    files = _weights(place)
    if not files:
        raise NearsafeError(hub.no_weights(place))
    if len(files) > 1 and not files[0].name.startswith("model-0"):
        raise NearsafeError(f"{place}: holds {files[0].name} and {files[1].name}: leave the one that is meant")
    count_floats(place)
    found: dict[str, Tensor] = {}
    for file in files:
        with loading(file, "safetensors file"):
            found |= load_file(file)
    if found and all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): value for name, value in found.items()}
    found = {name: value for name, value in found.items() if not name.endswith("position_ids")}
    if layout in _WHOLE:
        return found
    return {name if name == _PROJECTION else _TEXT + name.removeprefix(_TEXT): value for name, value in found.items()}


def _compare(place: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], base: Path) -> None:
    """One error for the first name or shape that differs."""
    for name in sorted({*found, *wanted}):
        if name not in found:
            raise NearsafeError(f"{place}: {name} is missing, which {base} has")
        if name not in wanted:
            raise NearsafeError(f"{place}: {name} is no tensor of {base}: another layout, or another model")
        given, expected = tuple(found[name].shape), tuple(wanted[name].shape)
        if given != expected:
            raise NearsafeError(f"{place}: {name} is {given}, in {base} {expected}: made from another model")


def _check_settings(place: Path, model: CLIPModel, towers: tuple[str, ...]) -> None:
    """What the weights do not show must be as in the base model, where the folder says it at all."""
    file = place / "config.json"
    if not file.is_file():
        return
    config = read_settings(file)
    for tower in towers:
        given, own = config.get(f"{tower}_config") or config, getattr(model.config, f"{tower}_config")
        if not isinstance(given, dict):
            raise NearsafeError(f"{file}: {tower}_config: expected an object, got {given!r}")
        for key, default in _HIDDEN.items():
            value = given.get(key, default)
            if value is not None and value != getattr(own, key):
                raise NearsafeError(
                    f"{file}: {tower} tower: {key} is {value!r}, in the base model {getattr(own, key)!r}"
                )


def _moved(own: Mapping[str, Tensor], found: Mapping[str, Tensor], tower: str) -> float:
    """Compared in the number format that the checkpoint is saved in: rounding alone is no change."""
    names = [name for name in found if name.startswith(f"{tower}_model.")]
    saved = {name: own[name].to(found[name].dtype).double() for name in names}
    change = sum(float((found[name].double() - saved[name]).square().sum()) for name in names)
    return (change / sum(float(own[name].double().square().sum()) for name in names)) ** 0.5
