"""Checks of `nearsafe doctor` on what the user brings: parameters, model folders, prompt files, defences."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline import doctor_hub
from pipeline.doctor import Check
from pipeline.errors import NearsafeError
from pipeline.models import hub
from pipeline.models.folders import check_folder, read_settings
from pipeline.params import load, section

Checks = Iterator[Check]


def parameters(params: Path) -> Checks:
    """Is the file there, and YAML?"""
    try:
        yield Check("parameters", "ok", f"{params}: sections {', '.join(load(params))}")
    except NearsafeError as error:
        yield Check("parameters", "missing", str(error), f"`git checkout {params}` brings back the shipped one")


def models(root: Path, params: Path) -> Checks:
    """Every folder of section `models`: there, safetensors, whole, and of the class that its use needs; then what came
    from a hub, checkpoints of others, and whether the models fit each other.
    """
    folders = _section(params, "models")
    for name, use in _USES.items():
        where = f"model {name}"
        if not isinstance(folders.get(name), str):
            yield Check(where, "missing", f"{params}: models.{name} is not set", f"set it to a folder: {use[0]}")
            continue
        folder = root / folders[name]
        try:
            yield Check(where, "ok", f"{folders[name]}: {_examine(folder, use[1])}")
        except NearsafeError as error:
            fix = f"needed: {use[0]}; the shipped ones: `git checkout pipeline/world/weights`"
            yield Check(where, "missing", str(error), doctor_hub.to_get(Path(folders[name]), fix))
        if name == "clip" and (doubt := _activation(folder)):
            yield Check(where, "warn", doubt, "the wrong activation costs accuracy without any error: docs/models.md")
    yield from doctor_hub.fetched(root, params)
    yield from doctor_hub.imported(root, _section(params, "defences"))
    yield from _fit(root, folders, _section(params, "generate").get("towers") or {})


def nudenet() -> Checks:
    """The weights that come with the package, by their hash."""
    from pipeline.detectors.nudenet import NudeNet

    try:
        yield Check("nudenet", "ok", f"weights of the package, sha256 {NudeNet().hash}")
    except NearsafeError as error:
        yield Check("nudenet", "missing", str(error), "`make env`")


def prompt_files(params: Path) -> Checks:
    """Every file of `prompts.files`: there, of its hash, in its columns."""
    from pipeline.prompt_files import read_prompt_file
    from pipeline.prompt_sets import PromptsParams

    try:
        files = section(f"{params}:prompts", PromptsParams).files
    except NearsafeError as error:
        yield Check("prompt files", "missing", str(error), "docs/data/prompt_sets.md shows how an entry looks")
        return
    if not files:
        yield Check("prompt files", "ok", "none asked for: the world's own prompts")
    for name, file in files.items():
        try:
            rows, digest = read_prompt_file(name, file)
        except NearsafeError as error:
            fix = "put the file there or correct the entry (docs/data/prompt_sets.md); nothing is downloaded"
            yield Check(f"prompts {name}", "missing", str(error), fix)
        else:
            checked = "as given" if file.sha256 else "write it into the entry, so that a changed file is noticed"
            yield Check(f"prompts {name}", "ok", f"{file.path}: {len(rows)} rows, sha256 {digest[:12]} ({checked})")


def defences(params: Path) -> Checks:
    """Does every entry parse, with its training knobs?"""
    from pipeline.defences.registry import read_defence
    from pipeline.train_defence import read_train_params

    good = []
    for name in _section(params, "defences"):
        try:
            defence = read_defence(params, name)
            if defence.kind == "trained":
                read_train_params(params, defence)
            good.append(name)
        except NearsafeError as error:
            yield Check(f"defence {name}", "missing", str(error), "correct the entry; docs/defences has one page each")
    if good:
        yield Check("defences", "ok", ", ".join(good))
    else:
        yield Check("defences", "missing", f"{params}: no usable entry under `defences`", "README, add a defence")


def _section(params: Path, name: str) -> dict[str, Any]:
    """A mapping of the file; {} where the file, or it, is not usable, which `parameters` or the caller reports."""
    try:
        found = load(params).get(name)
    except NearsafeError:
        return {}
    return found if isinstance(found, dict) else {}


def _examine(folder: Path, describe: Callable[[Path], str]) -> str:
    """What a model folder is. Raises NearsafeError naming what lacks."""
    if not folder.is_dir():
        raise NearsafeError(hub.missing(folder))
    check_folder(folder)
    weights = sorted(folder.rglob("*.safetensors"))
    if not weights:
        raise NearsafeError(hub.no_weights(folder))
    parameters = sum(_count(file) for file in weights)
    return f"{describe(folder)}; {parameters / 1e6:.1f} M numbers in {len(weights)} safetensors files"


def _count(file: Path) -> int:
    """Numbers in a weight file, by its header. Raises NearsafeError for a truncated or broken file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "numpy") as tensors:
            return sum(_product(tensors.get_slice(name).get_shape()) for name in tensors.keys())
    except (SafetensorError, OSError) as error:
        raise NearsafeError(f"{file}: not a whole safetensors file: {error}") from error


def _product(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _clip(folder: Path) -> str:
    from pipeline.models.activation import QUICK, activations, origin
    from pipeline.models.clip_files import check_tokenizer_files, read_config

    config = read_config(folder)
    check_tokenizer_files(folder)
    # OpenAI's weights were trained with QuickGELU, most others with GELU: the wrong one costs accuracy in silence.
    known = activations(config) == [QUICK] or origin(folder, config) is not None
    note = "" if known else ", right for LAION's weights and wrong for OpenAI's"
    return f"CLIPModel, activation {' and '.join(activations(config))}{note}"


def _activation(folder: Path) -> str | None:
    """Where activation and origin of a CLIP disagree."""
    from pipeline.models.activation import disagreement

    try:
        return disagreement(folder, read_settings(folder / "config.json"))
    except NearsafeError:
        return None  # said already


def _diffusion(folder: Path) -> str:
    from pipeline.models.diffusion import load_diffusion
    from pipeline.models.families.registry import family_of
    from pipeline.models.slots import read_slots

    family = family_of(folder)
    parts = ((family.denoiser, "config.json"), ("vae", "config.json"), ("scheduler", "scheduler_config.json"))
    classes = [str(read_settings(folder / part / file).get("_class_name")) for part, file in parts]
    if any(not list((folder / part).glob("*.safetensors")) for part in (family.denoiser, "vae")):
        load_diffusion(folder)  # its own error, which names the part
    return f"{family.name}: {', '.join(classes)}; {', '.join(read_slots(folder))}"


def _llava(folder: Path) -> str:
    kind = read_settings(folder / "config.json").get("model_type")
    if kind != "llava":
        raise NearsafeError(f"{folder}: model_type {kind!r}, expected 'llava'")
    return "LLaVA"


def _own(folder: Path) -> str:
    read_settings(folder / "config.json")
    return "detector of the world"


_USES: dict[str, tuple[str, Callable[[Path], str]]] = {
    "clip": ("a transformers CLIPModel folder", _clip),
    "diffusion": ("a diffusers folder: unet or transformer, vae, scheduler", _diffusion),
    "llava": ("a transformers LLaVA folder", _llava),
    "detector": ("the world's hazard detector", _own),
    "text_detector": ("the world's detector of hazards in text", _own),
}


def _fit(root: Path, folders: dict[str, Any], held: dict[str, Any]) -> Checks:
    """The CLIP's text tower must fit one slot of the diffusion model; `held`: what other slots hold."""
    from transformers import CLIPConfig

    from pipeline.models.slots import fitting_slot, read_slots

    clip, diffusion = (root / str(folders.get(name)) for name in ("clip", "diffusion"))
    try:
        values, slots = read_settings(clip / "config.json"), read_slots(diffusion)
    except NearsafeError:
        return  # said above
    if values.get("model_type") != "clip":
        return
    config = CLIPConfig.from_dict(values)
    try:
        fitting_slot(config, clip, diffusion, slots, held)
    except NearsafeError as error:
        yield Check(
            "models", "missing", str(error), "take a CLIP whose text tower the diffusion model was trained with"
        )
