"""A defence in params.yaml becomes checkpoint folders, one per training seed, that continue where they were stopped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from pipeline import checkpoint, curriculum, mining, seeds, token_set, training, training_set
from pipeline.checkpoint import Log
from pipeline.defences import losses, protocol, token_losses
from pipeline.defences.registry import Defence
from pipeline.errors import NearsafeError
from pipeline.layout import MANIFEST, seed_folder, shard_file
from pipeline.metrics.drift import tower_sizes
from pipeline.models import adapters, finetune
from pipeline.models import clip as clip_module
from pipeline.models.clip import load_clip
from pipeline.models.export import copy_clip, export_clip
from pipeline.models.hashing import model_hash, source_hash
from pipeline.params import build, load, to_spec
from pipeline.precision import pick_device, pick_precision
from pipeline.run_seeds import Seeds, read_seeds
from pipeline.shards import output_hash
from pipeline.tables import Output
from pipeline.token_set import TokenSet, read_token_set
from pipeline.training import Job, Trained, TrainParams, train
from pipeline.training_set import TrainingSet, read_training_set

_RESUME = ".resume"
FIXED = "defence.safetensors"
"""The method's own tensors inside a seed folder, where it has some: no part of the model."""
_LIBRARIES = ("torch", "transformers", "peft")
_CODE = (
    *(checkpoint, curriculum, mining, seeds, training, training_set),
    *(losses, protocol, adapters, clip_module, finetune),
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

    A defence that trains nothing gets the base model, byte by byte, an empty log and no drift. An interrupted run of
    the same spec is continued (finished seeds are kept); a finished `out` is made anew. Raises NearsafeError.
    """
    run = run or read_seeds(params)
    if defence.kind == "trained":
        _train_all(params, run, defence, inputs, out, report)
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


def _train_all(
    params: Path, run: Seeds, defence: Defence, inputs: Inputs, out: Path, report: Callable[[str], None]
) -> None:
    knobs = read_train_params(params, defence)
    device, why_device = pick_device()
    dtype, why_dtype = pick_precision(knobs.precision, device)
    report(f"{defence.name}: {why_device}; {why_dtype}")
    data = _read(defence, knobs, inputs)
    report(f"{defence.name}: {data.describe()}")
    spec = _spec(defence, knobs, run, inputs) | {"precision": str(dtype)}
    output = Output(out, spec, resume=not (out / MANIFEST).exists())
    for number, seed in enumerate(run.seeds):
        folder = seed_folder(seed)
        log_file, drift_file = shard_file("train_log", number), shard_file("drift", number)
        if (out / folder).is_dir() and output.done(log_file) and output.done(drift_file):
            report(f"{defence.name} seed {seed}: finished before, kept")
        else:
            job = Job(defence, data, knobs, seed, run.seed, dtype)
            state = out / _RESUME / f"{folder}.safetensors"
            found = train(job, load_clip(inputs.clip, device), state, report)
            _export(found, inputs.clip, out / folder)
            output.write(drift_file, "drift", found.log.drift_rows(defence.name, seed, tower_sizes(found.model)))
            output.write(log_file, "train_log", found.log.rows(defence.name, seed))
        output.add_file(folder)
    output.finish()


def _read(defence: Defence, knobs: TrainParams, inputs: Inputs) -> TrainingSet | TokenSet:
    clip = load_clip(inputs.clip)
    if defence.input == "tokens":
        return read_token_set(inputs.world, clip, inputs.buckets if knobs.curriculum else None)
    return read_training_set(inputs.world, inputs.embeddings, inputs.targets, inputs.buckets, clip)


def _export(found: Trained, base: Path, folder: Path) -> None:
    export_clip(found.model, base, folder)
    if found.fixed:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in found.fixed.items()}, folder / FIXED)


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
        "train": to_spec(knobs),
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
