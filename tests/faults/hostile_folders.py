"""Tiny model folders of each kind, how each is loaded and used, and how to spoil one."""

import json
import shutil
import struct
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import pipeline.world
from pipeline.detectors.world import WorldDetector
from pipeline.errors import NearsafeError
from pipeline.models.clip import encode_images, encode_texts, load_clip
from pipeline.models.diffusion import load_diffusion, own_conditioner
from pipeline.models.layouts import import_checkpoint
from pipeline.models.llava import describe, load_llava
from pipeline.models.sampler import generate
from pipeline.vectors import normalise
from tests.models.tiny import save_clip
from tests.models.tiny_families import save_family
from tests.models.tiny_llava import save_llava

WEIGHTS = Path(pipeline.world.__file__).parent / "weights"
COUNTED = (RuntimeError, ValueError)  # an image, or a reply, with status `error`: in generation.py and replies.py
PICTURE = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))


@dataclass(frozen=True)
class Kind:
    """`use` loads a folder and asks one thing of it; `weights`, `config`, `words` are files in it."""

    use: Callable[[Path], None]
    weights: str
    config: str
    words: str | None = None


def use_clip(folder: Path) -> None:
    """As the embed stage: an embedding that is not finite is an error that names what it is of."""
    clip = load_clip(folder)
    for found in (encode_texts(clip, ["a"]), encode_images(clip, [PICTURE])):
        normalise(found, ["a"], str(folder))


def use_diffusion(folder: Path) -> None:
    diffusion = load_diffusion(folder)
    tower = own_conditioner(diffusion)
    with suppress(*COUNTED):
        generate(diffusion, tower, ["a"], [0], 2.0, 1)


def use_llava(folder: Path) -> None:
    llava = load_llava(folder)
    with suppress(*COUNTED):
        describe(llava, [PICTURE], "Describe this image.", [0], 0.2, 2)


def use_checkpoint(folder: Path) -> None:
    """As `imported` does, over the CLIP folder beside it; what is written must be a whole CLIP."""
    out = folder.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    import_checkpoint("safe_clip", folder, folder.parent / "base", out)
    with suppress(NearsafeError):  # embeddings that are not finite
        use_clip(out)
    shutil.rmtree(out)


def use_detector(folder: Path) -> None:
    WorldDetector(folder).detect([PICTURE])


KINDS = {
    "clip": Kind(use_clip, "model.safetensors", "config.json", "."),
    "diffusion": Kind(use_diffusion, "unet/diffusion_pytorch_model.safetensors", "unet/config.json", "tokenizer"),
    "vae": Kind(use_diffusion, "vae/diffusion_pytorch_model.safetensors", "vae/config.json"),
    "text encoder": Kind(use_diffusion, "text_encoder/model.safetensors", "text_encoder/config.json", "tokenizer"),
    "llava": Kind(use_llava, "model.safetensors", "config.json", "."),
    "imported": Kind(use_checkpoint, "model.safetensors", "config.json"),
    "detector": Kind(use_detector, "model.safetensors", "config.json"),
}


def make(kind: str, folder: Path) -> Path:
    """A good folder of the kind, and what its use needs beside it."""
    if kind in ("diffusion", "vae", "text encoder"):
        return save_family("sd1", folder)
    if kind == "llava":
        return save_llava(folder / "llava")
    if kind == "detector":
        return shutil.copytree(WEIGHTS / "detector", folder / "detector")
    if kind == "imported":
        save_clip(folder / "base")
    return save_clip(folder / "clip", seed=1)


def refused(kind: str, folder: Path) -> str | None:
    """What is said of a folder that is refused, None for one that can be used. Anything else is raised.

    A refusal is one line that names the folder, and nothing is written.
    """
    before = files(folder.parent)
    try:
        KINDS[kind].use(folder)
    except NearsafeError as error:
        said = str(error)
        assert "\n" not in said and str(folder) in said and len(said) < 1000, said
        assert files(folder.parent) == before, f"written in spite of: {said}"
        return said
    return None


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@contextmanager
def kept(file: Path):
    """The file's bytes come back afterwards."""
    was = file.read_bytes() if file.is_file() else None
    try:
        yield
    finally:
        file.unlink(missing_ok=True) if was is None else file.write_bytes(was)


def edit(file: Path, **values: object) -> None:
    """Set keys of a JSON file; `...` removes one."""
    found = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({key: value for key, value in (found | values).items() if value is not ...}))


def reweigh(file: Path, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    """Exchange the largest tensor of a weight file; None removes it."""
    weights = load_file(file)
    name = max(weights, key=lambda name: (weights[name].numel(), name))
    changed = change(weights.pop(name))
    save_file(weights | ({} if changed is None else {name: changed}), file, {"format": "pt"})


def reheader(file: Path, change: Callable[[dict], object]) -> None:
    """Rewrite the header of a safetensors file; the numbers stay as they are."""
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
