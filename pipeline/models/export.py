"""A CLIP folder that plain transformers loads: `CLIPModel.from_pretrained`, and its text tower as `CLIPTextModel`."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import CLIPModel

from pipeline.errors import NearsafeError
from pipeline.files import discard, give_usual_modes, writing
from pipeline.models.quiet import quiet

# Tokenizer and image processor do not change with training: they are copied from the base folder, byte by byte.
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
)
_MODEL = ("config.json", "generation_config.json", "model.safetensors.index.json")


def export_clip(model: CLIPModel, base: Path, out: Path) -> None:
    """Write `model` (adapters merged) with the tokenizer and image processor of `base` to the folder `out`.

    The folder appears whole, by a rename; one that was there before is replaced.
    """
    with _publishing(out) as partial:
        with quiet():
            model.save_pretrained(partial)
        for name in COMPANIONS:
            if (base / name).is_file():
                shutil.copyfile(base / name, partial / name)


def copy_clip(base: Path, out: Path) -> None:
    """The base model itself, unchanged, as a checkpoint folder: same bytes, same model hash."""
    if not (base / "config.json").is_file():
        raise NearsafeError(f"{base}: not a model folder: no config.json")
    weights = [file.name for file in sorted(base.glob("*.safetensors"))]
    with _publishing(out) as partial:
        for name in (*COMPANIONS, *_MODEL, *weights):
            if (base / name).is_file():
                shutil.copyfile(base / name, partial / name)


@contextmanager
def _publishing(out: Path) -> Iterator[Path]:
    """An empty folder to fill, renamed to `out` at the end; after an error nothing of it is left."""
    partial = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    with writing(out):
        partial.mkdir(parents=True)
        try:
            yield partial
            give_usual_modes(partial)
            shutil.rmtree(out, ignore_errors=True)
            os.replace(partial, out)
        except BaseException:
            discard(partial)
            raise
