"""A defended checkpoint as a folder to hand on: plain `transformers`, `diffusers` and `peft` folders, and a model card.

Weights are copied, never trained again or altered: all parts are of the CLIP folder that was scored, by its hash.
"""

import ast
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.defences.registry import Defence, read_defence
from pipeline.errors import NearsafeError
from pipeline.exporting_parts import PARTS, Part, write_adapter, write_text, write_vision
from pipeline.files import give_usual_modes, writing
from pipeline.layout import SPEC, Data, seed_folder
from pipeline.model_card import Card, render_card, shown
from pipeline.models.hashing import model_hash
from pipeline.models.slots import place_tower
from pipeline.params import lookup, section
from pipeline.repro import revision
from pipeline.results.database import connect
from pipeline.results.summary import headline
from pipeline.run_seeds import read_seeds
from pipeline.tables import read_output

CARD, CLIP, PIPELINE = "README.md", "clip", "pipeline"
DEFAULT: tuple[Part, ...] = ("clip", "pipeline")


@dataclass(frozen=True)
class Exported:
    """What was written. `hash`: of the checkpoint, equal to that of the scores."""

    folder: Path
    defence: str
    seed: int
    hash: str
    parts: tuple[Part, ...]


def export_defence(
    params: Path,
    name: str,
    data: Path,
    out: Path,
    seed: int | None = None,
    parts: Sequence[Part] = DEFAULT,
    force: bool = False,
) -> Exported:
    """Write the defence `name` to the folder `out`: README.md, and a folder for each of `parts` (exporting_parts.py).

    `seed`: a training seed, default the first of the parameter file. The folder appears whole, by a rename. Raises
    NearsafeError for a defence without finished checkpoint or scores, for scores of another checkpoint, for a defence
    that is not in the weights, for an adapter of what has none, and for a folder in use (`force` replaces an earlier
    export, and nothing else).
    """
    parts = tuple(part for part in PARTS if part in parts)
    defence = read_defence(params, name)
    if defence.kind == "inference":
        raise NearsafeError(
            f"{name}: this defence acts inside the sampler, its weights are those of the undefended model: there is no "
            f"checkpoint to export; use the callbacks of {defence.source.name} with pipeline.models.sampler"
        )
    seed = read_seeds(params).seeds[0] if seed is None else seed
    checkpoint = _checkpoint(Data(data), name, seed)
    digest = _scored(Data(data), name, seed, checkpoint)
    spec = json.loads((Data(data).checkpoints(name) / SPEC).read_text(encoding="utf-8"))
    _check_free(out, force)
    partial = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with writing(out):
            partial.mkdir(parents=True)
            facts = _write_parts(params, defence, Data(data), checkpoint, spec, parts, partial)
            if (found := model_hash(partial / CLIP if "clip" in parts else checkpoint)) != digest:
                raise NearsafeError(f"{checkpoint}: it changed while it was copied: {digest} became {found}")
            card = _card(params, defence, data, seed, digest, spec, facts)
            (partial / CARD).write_text(render_card(card), encoding="utf-8")
            give_usual_modes(partial)
            _publish(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(out, name, seed, digest, parts)


def _write_parts(
    params: Path, defence: Defence, data: Data, clip: Path, spec: Mapping[str, Any], parts: tuple[Part, ...], out: Path
) -> dict[str, Any]:
    """The folders of `out`; facts of them for the card."""
    facts: dict[str, Any] = {"parts": parts, "diffusion": None, "slot": None, "pipeline_class": None, "adapter": None}
    if "clip" in parts:
        shutil.copytree(clip, out / CLIP)
    if "text" in parts:
        write_text(clip, out / "text")
    if "vision" in parts:
        write_vision(clip, out / "vision")
    if "adapter" in parts:
        base = Path(lookup(params, "models.clip"))
        facts["adapter"] = write_adapter(clip, base, defence, spec, shown(base), out / "adapter")
    if "pipeline" in parts:
        folder = Path(lookup(params, "models.diffusion"))
        from pipeline.generation import GenerateParams  # seconds, for a whole pipeline alone

        towers = section(f"{params}:generate", GenerateParams).of(defence).towers
        _check_diffusion(data, defence.name, folder, towers)
        facts["slot"] = place_tower(folder, clip, out / PIPELINE, towers)
        index = json.loads((out / PIPELINE / "model_index.json").read_text(encoding="utf-8"))
        facts |= {"diffusion": folder, "pipeline_class": index["_class_name"]}
    return facts


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


def _check_diffusion(data: Data, name: str, folder: Path, towers: Mapping[str, Path | None]) -> None:
    """Where images were made, they were made with this folder and these towers in its slots. Raises NearsafeError."""
    spec = data.generations(name) / SPEC
    if not spec.is_file():
        return
    inputs, digest = json.loads(spec.read_text(encoding="utf-8"))["inputs"], model_hash(folder)
    if (used := inputs["diffusion"]) != digest:
        raise NearsafeError(
            f"{folder}: this diffusion model is {digest}, images were made and scored with {used}: "
            f"`nearsafe repro score@{name}` does it with this one"
        )
    made = {slot: tower for slot, tower in inputs.items() if slot.startswith("text_encoder")}
    now = {slot: model_hash(tower) for slot, tower in towers.items() if tower is not None}
    if other := sorted(slot for slot in {*made, *now} if made.get(slot) != now.get(slot)):
        there, used = (hashes.get(other[0], "the diffusion folder's own") for hashes in (now, made))
        raise NearsafeError(
            f"generate.towers.{other[0]}: this tower is {there}, images were made and scored with {used}: "
            f"`dvc repro --force generate@{name}` and `nearsafe repro score@{name}` do it with this one"
        )


def _check_free(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise NearsafeError(f"{out}: is a file; choose a folder")
    there = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if there and not force:
        raise NearsafeError(f"{out}: is not empty; choose another folder, or replace an earlier export with --force")
    if foreign := [name for name in there if name not in (CARD, *PARTS)]:
        raise NearsafeError(f"{out}: holds {foreign[0]!r}, which is no part of an export; choose another folder")


def _publish(partial: Path, out: Path) -> None:
    """Rename, with what was there before moved aside first."""
    aside = out.with_name(f".{out.name}.old.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    if out.exists():
        os.replace(out, aside)
    os.replace(partial, out)
    shutil.rmtree(aside, ignore_errors=True)


def _card(
    params: Path, defence: Defence, data: Path, seed: int, digest: str, spec: Mapping[str, Any], facts: dict[str, Any]
) -> Card:
    database = connect(data, list(lookup(params, "defences")))
    rows = [row for row in headline(database) if row["seed"] == seed]
    numbers = {who: {row["name"]: row for row in rows if row["defence"] == who} for who in (defence.name, "original")}
    sampling = lookup(params, "generate") if facts["slot"] else {}
    return Card(
        defence=defence.name,
        method=defence.method,
        about=" ".join(_docstring(defence.source).split("\n\n")[0].split()),
        kind=defence.kind,
        towers=defence.towers,
        seed=seed,
        hash=digest,
        base=Path(lookup(params, "models.clip")),
        own=numbers[defence.name],
        undefended=numbers["original"] if defence.name != "original" else {},
        spec=spec,
        sampling={key: sampling.get(key) for key in ("steps", "guidance", "scheduler")} if facts["slot"] else {},
        revision=revision(params.parent),
        **facts,
    )


def _docstring(module: Path) -> str:
    return ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
