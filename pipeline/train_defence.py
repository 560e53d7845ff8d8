"""A defence in params.yaml becomes checkpoint folders, one per training seed, that continue where they were stopped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipeline import (
    checkpoint,
    curriculum,
    image_cache,
    ledger,
    memory,
    mining,
    seeds,
    steps,
    token_set,
    training,
    training_set,
    two_pass,
)
from pipeline import team as teams
from pipeline.checkpoint import Log
from pipeline.defences import losses, protocol, token_losses
from pipeline.defences.registry import Defence
from pipeline.errors import NearsafeError
from pipeline.files import give_usual_modes, writing
from pipeline.image_cache import ImageCache
from pipeline.layout import MANIFEST, seed_folder, shard_file
from pipeline.memory import OutOfMemory
from pipeline.metrics.drift import tower_sizes
from pipeline.models import adapters, finetune
from pipeline.models import clip as clip_module
from pipeline.models.clip import load_clip
from pipeline.models.export import copy_clip, export_clip
from pipeline.models.hashing import model_hash, source_hash
from pipeline.models.layouts import import_checkpoint, locate
from pipeline.params import build, load, to_spec
from pipeline.precision import pick_attention, pick_compile, pick_device, pick_precision
from pipeline.run_seeds import Seeds, read_seeds
from pipeline.shards import output_hash
from pipeline.tables import Output
from pipeline.team import Team
from pipeline.token_set import TokenSet, read_token_set
from pipeline.training import Job, Trained, TrainParams, steps_of, train
from pipeline.training_set import TrainingSet, read_training_set

_RESUME = ".resume"
FIXED = "defence.safetensors"
"""The method's own tensors inside a seed folder, where it has some: no part of the model."""
_MEMORY_ONLY = ("image_memory_mib",)  # changes no number: an interrupted training may be continued with another
_LIBRARIES = ("torch", "transformers", "peft")
_CODE = (
    *(checkpoint, curriculum, image_cache, ledger, mining, seeds, steps, teams, training, training_set, two_pass),
    *(memory, losses, protocol, adapters, clip_module, finetune),
)
_TOKEN_CODE = (token_set, token_losses)
"""What only a defence that works on token states runs: a change there leaves other checkpoints as they are."""


@dataclass(frozen=True)
class Inputs:
    """What training reads: four output directories and the folder of the base CLIP."""

    world: Path
    embeddings: Path
    targets: Path
    buckets: Path
    clip: Path


def read_train_params(params: Path, defence: Defence) -> TrainParams:
    """Section `train` with the defence's own overrides, nested ones key by key. Raises NearsafeError."""
    shared = load(params).get("train")
    if not isinstance(shared, Mapping):
        raise NearsafeError(f"{params}: no section 'train'")
    return build(TrainParams, _overlay(shared, defence.train), f"{params}: train (with defences.{defence.name}.train)")


def make_checkpoints(
    params: Path, defence: Defence, inputs: Inputs, out: Path, report: Callable[[str], None], run: Seeds | None = None
) -> None:
    """Write `out`/seed-<s>/, the training log and the drift of every training seed (of `run`; default: the file's).

    A defence that trains nothing gets the base model, byte by byte, or the imported one; an empty log and no drift. An
    interrupted run of the same spec is continued (finished seeds are kept); a finished `out` is made anew. Raises
    NearsafeError.
    """
    run = run or read_seeds(params)
    if defence.kind == "trained":
        _train_all(params, run, defence, inputs, out, report)
    elif defence.kind == "imported":
        _import_all(run, defence, inputs.clip, out, report)
    else:
        _copy_all(run, defence, inputs.clip, out, report)


def _copy_all(run: Seeds, defence: Defence, clip: Path, out: Path, report: Callable[[str], None]) -> None:
    spec = {"stage": "train", "method": defence.method, "seeds": run.seeds, "inputs": {"clip": model_hash(clip)}}
    output = Output(out, spec)
    for number, seed in enumerate(run.seeds):
        copy_clip(clip, out / seed_folder(seed))
        output.add_file(seed_folder(seed))
        output.write(shard_file("train_log", number), "train_log", Log().rows(defence.name, seed))
    output.finish()
    report(f"{defence.name}: trains nothing, the checkpoint is the base model {spec['inputs']['clip']}")


def _import_all(run: Seeds, defence: Defence, clip: Path, out: Path, report: Callable[[str], None]) -> None:
    """The same checkpoint of others for every training seed: it has none of ours."""
    given = defence.params
    place = locate(given.layout, given.folder)
    digest = model_hash(place)
    if given.hash not in (None, digest):
        raise NearsafeError(f"{place}: its model hash is {digest}, the entry {defence.name} says {given.hash}")
    inputs = {"clip": model_hash(clip), "imported": digest}
    spec = {"stage": "train", "defence": defence.name, "method": defence.method, "params": to_spec(given)}
    output = Output(out, {**spec, "seeds": run.seeds, "inputs": inputs})
    first = out / seed_folder(run.seeds[0])
    moved = import_checkpoint(given.layout, place, clip, first)
    for number, seed in enumerate(run.seeds):
        if number:
            copy_clip(first, out / seed_folder(seed))
        output.add_file(seed_folder(seed))
        output.write(shard_file("train_log", number), "train_log", Log().rows(defence.name, seed))
    output.finish()
    change = ", ".join(f"{tower} weights {share:.2%} from the base model's" for tower, share in moved.items())
    report(f"{defence.name}: imported from {place} ({given.layout}): {change}; {model_hash(first)}")


def _train_all(
    params: Path, run: Seeds, defence: Defence, inputs: Inputs, out: Path, report: Callable[[str], None]
) -> None:
    knobs = read_train_params(params, defence)
    device, why_device = pick_device()
    dtype, why_dtype = pick_precision(knobs.precision, device)
    size, why_size = teams.team_size(knobs.processes, device)
    attention, why_attention = pick_attention(knobs.attention, device, dtype)
    report(f"{defence.name}: {why_device}; {why_dtype}; {why_attention}; {why_size}")
    spec = _spec(defence, knobs, run, inputs) | {"precision": str(dtype), "attention": attention}
    output = Output(out, spec, resume=not (out / MANIFEST).exists())
    # Several processes share one file of images instead of holding each its own.
    cache = ImageCache(out / _RESUME, knobs.image_memory_mib if size == 1 else 0)
    data = _read(defence, knobs, inputs, cache)
    report(f"{defence.name}: {data.describe()}")
    for number, seed in enumerate(run.seeds):
        folder = seed_folder(seed)
        log_file, drift_file = shard_file("train_log", number), shard_file("drift", number)
        if output.kept(folder) and output.done(log_file) and output.done(drift_file):
            report(f"{defence.name} seed {seed}: finished before, kept")
        else:
            job = Job(defence, data, knobs, seed, run.seed, dtype)
            state = out / _RESUME / f"{folder}.safetensors"
            report(f"{job.name}: {pick_compile(knobs.compile, device, steps_of(job))[1]}")
            if size > 1:  # they leave a finished state, which this process only has to merge
                _train_together(size, device, job, inputs, cache, state, report)
            found = train(job, load_clip(inputs.clip, device), state, report)
            _export(found, inputs.clip, out / folder)
            output.write(drift_file, "drift", found.log.drift_rows(defence.name, seed, tower_sizes(found.model)))
            output.write(log_file, "train_log", found.log.rows(defence.name, seed))
        output.add_file(folder)
    output.finish()


def _train_together(
    size: int, device: torch.device, job: Job, inputs: Inputs, cache: ImageCache, state: Path, report: Callable
) -> None:
    """Train with a team, again from its last checkpoint with smaller parts of a batch where memory is full."""
    knobs = job.params
    share = -(-knobs.batch_size // size)
    while True:
        task = (job.defence, knobs, inputs, cache, job.seed, job.root_seed, job.dtype, state)
        try:
            return teams.launch(size, device, _member, *task)
        except OutOfMemory as error:
            pairs = min(knobs.micro_batch or share, share)
            if pairs == 1:
                raise
            knobs = replace(knobs, micro_batch=(pairs + 1) // 2)
            report(f"{error}; again from the last checkpoint with {knobs.micro_batch}: train.micro_batch")


def _member(
    team: Team,
    defence: Defence,
    knobs: TrainParams,
    inputs: Inputs,
    cache: ImageCache,
    seed: int,
    root_seed: int,
    dtype: torch.dtype,
    state: Path,
) -> None:
    """What each process of a team does: the same training, its own share of every batch."""
    data = _read(defence, knobs, inputs, cache)
    job = Job(defence, data, knobs, seed, root_seed, dtype)
    train(job, load_clip(inputs.clip, team.device), state, partial(print, flush=True), team)


def _read(
    defence: Defence, knobs: TrainParams, inputs: Inputs, cache: ImageCache | None = None
) -> TrainingSet | TokenSet:
    clip = load_clip(inputs.clip)
    if defence.input == "tokens":
        return read_token_set(inputs.world, clip, inputs.buckets if knobs.curriculum else None)
    return read_training_set(inputs.world, inputs.embeddings, inputs.targets, inputs.buckets, clip, cache)


def _export(found: Trained, base: Path, folder: Path) -> None:
    export_clip(found.model, base, folder)
    if found.fixed:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in found.fixed.items()}
        with writing(folder / FIXED):
            save_file(tensors, folder / FIXED)
            give_usual_modes(folder)


def _spec(defence: Defence, knobs: TrainParams, run: Seeds, inputs: Inputs) -> dict[str, Any]:
    """Everything a checkpoint depends on; a change of any of it starts training afresh."""
    names, code = ("world", "embeddings", "targets", "buckets"), _CODE
    if defence.input == "tokens":  # needs prompt pairs alone, and difficulties for a curriculum
        names, code = ("world", "buckets") if knobs.curriculum else ("world",), (*_CODE, *_TOKEN_CODE)
    tables = {name: output_hash(getattr(inputs, name)) for name in names}
    return {
        "stage": "train",
        "defence": defence.name,
        "method": defence.method,
        "params": to_spec(defence.params),
        "train": {name: value for name, value in to_spec(knobs).items() if name not in _MEMORY_ONLY},
        "seed": run.seed,
        "seeds": run.seeds,
        "inputs": {**tables, "clip": model_hash(inputs.clip)},
        "libraries": {name: version(name) for name in _LIBRARIES},
        "code": source_hash([defence.source, *(Path(module.__file__) for module in code)]),
    }


def _overlay(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`shared` with the values of `own`; mappings inside are laid over each other too."""
    merged = dict(shared)
    for key, value in own.items():
        below = merged.get(key)
        merged[key] = _overlay(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
