"""A defended checkpoint as a folder to hand on: plain `transformers` and `diffusers` folders, and a model card.

Weights are copied, never trained again or altered: the CLIP folder is the one that was scored, by its hash.
"""

import ast
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from diffusers.utils import logging

from pipeline.defences.registry import Defence, read_defence
from pipeline.errors import NearsafeError
from pipeline.layout import SPEC, Data, seed_folder
from pipeline.model_card import Card, render_card
from pipeline.models.clip import load_clip
from pipeline.models.diffusion import load_diffusion, text_tower
from pipeline.models.hashing import model_hash
from pipeline.models.quiet import quiet
from pipeline.params import lookup
from pipeline.repro import revision
from pipeline.results.database import connect
from pipeline.results.summary import headline
from pipeline.run_seeds import read_seeds
from pipeline.tables import read_output

CARD, CLIP, PIPELINE = "README.md", "clip", "pipeline"
# The parts of a diffusion folder that stay as they are, and of each the files that its class loads.
_KEPT = ("unet", "vae", "scheduler")
_LOADED = re.compile(r"diffusion_pytorch_model(-\d+-of-\d+)?\.safetensors|.*\.json")


@dataclass(frozen=True)
class Exported:
    """What was written. `hash`: of the CLIP folder, equal to that of the scores; `pipeline`: whether there is one."""

    folder: Path
    defence: str
    seed: int
    hash: str
    pipeline: bool


def export_defence(
    params: Path, name: str, data: Path, out: Path, seed: int | None = None, diffusion: bool = True, force: bool = False
) -> Exported:
    """Write the defence `name` to the folder `out`: README.md, clip/ and (with `diffusion`) pipeline/.

    `seed`: a training seed, default the first of the parameter file. The folder appears whole, by a rename. Raises
    NearsafeError for a defence without finished checkpoint or scores, for scores of another checkpoint, for a defence
    that is not in the weights, and for a folder in use (`force` replaces an earlier export, and nothing else).
    """
    defence = read_defence(params, name)
    if defence.kind == "inference":
        raise NearsafeError(
            f"{name}: this defence acts inside the sampler, its weights are those of the undefended model: there is no "
            f"checkpoint to export; use the callbacks of {defence.source.name} with pipeline.models.sampler"
        )
    seed = read_seeds(params).seeds[0] if seed is None else seed
    checkpoint = _checkpoint(Data(data), name, seed)
    digest = _scored(Data(data), name, seed, checkpoint)
    _check_free(out, force)
    partial = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        shutil.copytree(checkpoint, partial / CLIP)
        if (found := model_hash(partial / CLIP)) != digest:
            raise NearsafeError(f"{checkpoint}: it changed while it was copied: {digest} became {found}")
        if diffusion:
            folder = Path(lookup(params, "models.diffusion"))
            _check_diffusion(Data(data), name, folder)
            write_pipeline(partial / CLIP, folder, partial / PIPELINE)
        card = _card(params, defence, data, seed, digest, diffusion)
        (partial / CARD).write_text(render_card(card), encoding="utf-8")
        _publish(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(out, name, seed, digest, diffusion)


def write_pipeline(clip: Path, diffusion: Path, out: Path) -> None:
    """A StableDiffusionPipeline folder: parts of `diffusion`, byte by byte, with the text tower of the CLIP folder.

    The tower is stored in float32, and the tokenizer pads to its length, as when images were scored. No safety checker.
    Raises NearsafeError for folders that do not load, or do not fit.
    """
    with _quiet_diffusers():
        model = load_diffusion(diffusion)
    tower = text_tower(load_clip(clip), model, clip)
    for part in _KEPT:
        (out / part).mkdir(parents=True)
        for file in sorted(file for file in (diffusion / part).iterdir() if _LOADED.fullmatch(file.name)):
            shutil.copyfile(file, out / part / file.name)
    tower.tokenizer.model_max_length = tower.model.config.max_position_embeddings
    with quiet():
        tower.model.save_pretrained(out / "text_encoder")
    tower.tokenizer.save_pretrained(out / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": version("diffusers"),
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", type(model.scheduler).__name__],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", type(model.vae).__name__],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _checkpoint(data: Data, name: str, seed: int) -> Path:
    folder = data.checkpoints(name) / seed_folder(seed)
    if not folder.is_dir():
        there = sorted(path.name.removeprefix("seed-") for path in data.checkpoints(name).glob("seed-*"))
        known = f"there are {', '.join(there)}" if there else f"there is none: `nearsafe repro train@{name}` trains it"
        raise NearsafeError(f"{folder}: no checkpoint of {name} with training seed {seed}; {known}")
    return folder


def _scored(data: Data, name: str, seed: int, checkpoint: Path) -> str:
    """Hash of the checkpoint, which must be that of its scores. Raises NearsafeError."""
    digest = model_hash(checkpoint)
    rows = read_output(data.scores(name), "scores").select(["seed", "model_hash"]).to_pylist()
    scored = sorted({row["model_hash"] for row in rows if row["seed"] == seed})
    if scored != [digest]:
        of = f"of {', '.join(scored)}" if scored else f"without training seed {seed}"
        raise NearsafeError(
            f"{data.scores(name)}: scores {of}, the checkpoint is {digest}: `nearsafe repro score@{name}` scores it"
        )
    return digest


def _check_diffusion(data: Data, name: str, folder: Path) -> None:
    """Where images were made, they were made with this folder. Raises NearsafeError."""
    spec = data.generations(name) / SPEC
    if not spec.is_file():
        return
    used, digest = json.loads(spec.read_text(encoding="utf-8"))["inputs"]["diffusion"], model_hash(folder)
    if used != digest:
        raise NearsafeError(
            f"{folder}: this diffusion model is {digest}, images were made and scored with {used}: "
            f"`nearsafe repro score@{name}` does it with this one"
        )


def _check_free(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise NearsafeError(f"{out}: is a file; choose a folder")
    there = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if there and not force:
        raise NearsafeError(f"{out}: is not empty; choose another folder, or replace an earlier export with --force")
    if foreign := [name for name in there if name not in (CARD, CLIP, PIPELINE)]:
        raise NearsafeError(f"{out}: holds {foreign[0]!r}, which is no part of an export; choose another folder")


def _publish(partial: Path, out: Path) -> None:
    """Rename, with what was there before moved aside first."""
    aside = out.with_name(f".{out.name}.old.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    if out.exists():
        os.replace(out, aside)
    os.replace(partial, out)
    shutil.rmtree(aside, ignore_errors=True)


def _card(params: Path, defence: Defence, data: Path, seed: int, digest: str, diffusion: bool) -> Card:
    database = connect(data, list(lookup(params, "defences")))
    rows = [row for row in headline(database) if row["seed"] == seed]
    spec: Mapping[str, Any] = json.loads((Data(data).checkpoints(defence.name) / SPEC).read_text(encoding="utf-8"))
    numbers = {who: {row["name"]: row for row in rows if row["defence"] == who} for who in (defence.name, "original")}
    return Card(
        defence=defence.name,
        method=defence.method,
        about=" ".join(_docstring(defence.source).split("\n\n")[0].split()),
        trained=defence.kind == "trained",
        towers=defence.towers,
        seed=seed,
        hash=digest,
        base=Path(lookup(params, "models.clip")),
        diffusion=Path(lookup(params, "models.diffusion")) if diffusion else None,
        own=numbers[defence.name],
        undefended=numbers["original"] if defence.name != "original" else {},
        spec=spec,
        sampling={key: lookup(params, f"generate.{key}") for key in ("steps", "guidance")} if diffusion else {},
        revision=revision(params.parent),
    )


@contextmanager
def _quiet_diffusers() -> Iterator[None]:
    """Without its notices of settings that a class does not use."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _docstring(module: Path) -> str:
    return ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
