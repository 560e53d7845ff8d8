"""What a model folder may hold. Looked at before anything of it is loaded; every refusal names the file.

Libraries skip some of this without a word, and run or unpickle some of it when asked to; here all of it is refused.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline.errors import NearsafeError

# What transformers or torch would load by unpickling, which the pipeline never does.
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
PICKLE = (
    "is a pickle and is never loaded: convert it to safetensors where nothing else holds these weights "
    "(docs/models.md), then remove it"
)
INDEX = "model_index.json"
_CODE = frozenset({".py", ".pyc", ".pyd", ".so", ".dll"})
# Settings by which a folder asks for code of its own (transformers; diffusers' community pipelines).
_OWN_CODE = ("auto_map", "trust_remote_code", "custom_pipeline", "custom_pipelines")
_LIBRARIES = (None, "diffusers", "transformers", "stable_diffusion")
_PARTS = ("text_encoder", "tokenizer", "unet", "transformer", "vae", "scheduler")
_SETTINGS = re.compile(r"(.*_)?config\.json|model_index\.json")
# Far above any published model; a number beyond makes a library allocate or loop before it compares shapes.
_MOST = 2**24
_LIMITS = ((re.compile(r"layers|blocks"), 1000), (re.compile(r"(image|sample|patch)_size"), 4096),
           (re.compile(r"pos_embed_max_size"), 512))  # fmt: skip
_COUNTS = re.compile(r"layers|heads")
_LONGEST = 1000  # items of a list
_LARGEST = 1 << 24  # bytes of a settings file
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


def check_folder(folder: Path) -> None:
    """Refuse pickles, code, settings that ask for code, and settings that no model has; subfolders too.

    Raises NearsafeError naming the file, and the key.
    """
    for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        if file.suffix.lower() in PICKLES:
            raise NearsafeError(f"{file}: {PICKLE}")
        if file.suffix.lower() in _CODE:
            raise NearsafeError(f"{file}: is code, and no code of a model folder is ever run: remove it")
        if file.name == "adapter_config.json":  # transformers would load the base model that it names
            raise NearsafeError(f"{file}: an adapter that is not merged: merge it with peft first")
        if _SETTINGS.fullmatch(file.name):
            _check_settings(file)


def read_settings(file: Path) -> dict[str, Any]:
    """A JSON file of settings. Raises NearsafeError where it is missing, broken or no object."""
    file = Path(file)
    try:
        if file.stat().st_size > _LARGEST:
            raise ValueError(f"larger than {_LARGEST >> 20} MiB")
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise NearsafeError(f"{file}: not a readable configuration: {error}") from error
    if not isinstance(found, dict):
        raise NearsafeError(f"{file}: not a configuration: expected an object")
    return found


def check_index(file: Path, index: dict[str, Any]) -> None:
    """Parts of a diffusers pipeline are of a library's classes. Raises NearsafeError naming file and part."""
    if not isinstance(name := index.get("_class_name"), str):  # [file, class]: a pipeline of its own
        raise NearsafeError(f"{file}: _class_name is {name!r}, expected the name of a pipeline of diffusers")
    for name, part in index.items():
        if not (isinstance(part, list) or name.startswith(_PARTS)):
            continue
        if not isinstance(part, list) or len(part) != 2 or any(not isinstance(one, str | None) for one in part):
            raise NearsafeError(f"{file}: {name}: expected a library and a class, got {part!r}")
        if part[0] not in _LIBRARIES:
            raise NearsafeError(f"{file}: {name}: {part[0]!r} is code of its own, which is never run")


def count_floats(folder: Path) -> int:
    """How many numbers the weight files of a folder (not of its subfolders) hold, by their headers.

    Raises NearsafeError naming file and tensor for one that is no number with a fraction, which libraries cast without
    a word, and for a file that is not a whole safetensors file.
    """
    count = 0
    for file in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(file, "numpy") as tensors:
                for name in tensors.keys():
                    found = tensors.get_slice(name)
                    kind = found.get_dtype()
                    count += math.prod(found.get_shape())
                    if kind not in _FLOATS and not name.endswith("position_ids"):
                        raise NearsafeError(f"{file}: {name} is of type {kind}, expected one of {', '.join(_FLOATS)}")
        except (SafetensorError, OSError) as error:
            raise NearsafeError(f"{file}: not a whole safetensors file: {error}") from error
    return count


def _check_settings(file: Path) -> None:
    found = read_settings(file)
    for key, value in _pairs(found):
        if isinstance(value, list) and len(value) > _LONGEST:
            raise NearsafeError(f"{file}: {key} has {len(value)} items, which no model has (at most {_LONGEST})")
        if key in _OWN_CODE:
            raise NearsafeError(f"{file}: {key}: it wants code of its own to be run, which is never done")
        if key == "layer_norm_eps" and value is None:  # transformers takes it, until something is encoded
            raise NearsafeError(f"{file}: layer_norm_eps is null, expected a number")
        # A tokenizer without a longest text says so by 10^30.
        if isinstance(value, int) and file.name != "tokenizer_config.json":
            if value < 0 and _COUNTS.search(key):
                raise NearsafeError(f"{file}: {key} is {value}, which no model has")
            most = next((limit for name, limit in _LIMITS if name.search(key)), _MOST)
            if abs(value) > most:
                raise NearsafeError(f"{file}: {key} is {str(value)[:24]}, which no model has (at most {most})")
    if file.name == INDEX:
        check_index(file, found)


def _pairs(found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key with its value, items of a list with the list's key, at any depth."""
    left = list(found.items())
    while left:
        key, value = left.pop()
        yield key, value
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += [(key, one) for one in value]
