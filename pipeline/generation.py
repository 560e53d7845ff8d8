"""Prompts and a defended text tower become shards of images, continued where an interrupted run was stopped.

Every prompt passes `pipeline.prompts.admit` first. An image's noise comes from the prompt alone (its own seed, or one
derived from its id), never from the defence or the training seed: columns of different defences show the same draws.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import agewords
from pipeline import prompts as prompts_module
from pipeline import seeds as generation_seeds
from pipeline.defences.registry import Defence
from pipeline.errors import NearsafeError
from pipeline.ids import content_id
from pipeline.images import image_cell
from pipeline.layout import seed_folder, shard_file, table_file
from pipeline.models import callbacks, clip, sampler
from pipeline.models import diffusion as diffusion_module
from pipeline.models.callbacks import Callbacks
from pipeline.models.clip import load_clip
from pipeline.models.diffusion import Diffusion, TextTower, load_diffusion, text_tower
from pipeline.models.hashing import source_hash
from pipeline.models.sampler import generate
from pipeline.params import section, to_spec
from pipeline.precision import pick_device
from pipeline.prompts import Admitted, admit
from pipeline.run_seeds import Seeds, read_seeds
from pipeline.seeds import derive
from pipeline.shards import output_hash
from pipeline.tables import Output, read_output

Row = dict[str, Any]
Log = Callable[[str], None]
_LIBRARIES = ("torch", "diffusers", "transformers")


@dataclass(frozen=True)
class GenerateParams:
    """Section `generate`. `guidance` holds where a prompt brings none of its own.

    `batch_size` images are sampled together, `shard_size` rows make a file and the unit of resume.
    """

    steps: int
    guidance: float
    batch_size: int = 16
    shard_size: int = 64
    prompts_per_set: int | None = None

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.shard_size, self.prompts_per_set or 1) < 1:
            raise ValueError("steps, batch_size, shard_size and prompts_per_set must be at least 1")


@dataclass(frozen=True)
class Sampling:
    """What all images of one training seed share."""

    defence: str
    seed: int
    root: int
    knobs: GenerateParams
    diffusion: Diffusion
    tower: TextTower
    callbacks: Sequence[Callbacks] = ()

    @property
    def model_hash(self) -> str:
        """Of diffusion model and text tower together."""
        return content_id(self.diffusion.hash, self.tower.hash)


@dataclass(frozen=True)
class Run:
    """What the training seeds of one run share."""

    defence: Defence
    root: int
    knobs: GenerateParams
    diffusion: Diffusion
    prompts: Admitted
    output: Output
    log: Log


def generate_defence(
    params: Path, defence: Defence, world: Path, checkpoints: Path, diffusion: Path, out: Path, log: Log
) -> None:
    """Write shards of images for every training seed, and what the filters dropped. Raises NearsafeError."""
    knobs, seeds = section(f"{params}:generate", GenerateParams), read_seeds(params)
    prompts, filters = admit(read_output(world, "prompts"), knobs.prompts_per_set)
    for row in filters:
        if row["n_dropped"]:
            log(f"generate: {row['set']}: {row['filter']} dropped {row['n_dropped']} of {row['n_before']} prompts")
    if not prompts.table.num_rows:
        raise NearsafeError(f"{world}: no prompt is left after the filters {', '.join(r['filter'] for r in filters)}")
    device, reason = pick_device()
    log(f"generate: {reason}; float32")
    model = load_diffusion(diffusion, device)
    inputs = {"world": output_hash(world), "checkpoints": output_hash(checkpoints), "diffusion": model.hash}
    output = Output(out, _spec(knobs, seeds, defence, inputs), resume=True)
    output.write(table_file("filters"), "filters", filters)
    run = Run(defence, seeds.seed, knobs, model, prompts, output, log)
    for position, seed in enumerate(seeds.seeds):
        _generate_seed(run, position, seed, checkpoints / seed_folder(seed))
    output.finish()


def _generate_seed(run: Run, position: int, seed: int, folder: Path) -> None:
    """Shards of one training seed: fixed names, fixed row ranges; finished ones are skipped."""
    size = run.knobs.shard_size
    starts = range(0, run.prompts.table.num_rows, size)
    names = [shard_file("generations", position * len(starts) + number) for number in range(len(starts))]
    todo = [(name, start) for name, start in zip(names, starts, strict=True) if not run.output.done(name)]
    if len(todo) < len(names):
        run.log(f"generate: seed {seed}: {len(names) - len(todo)} of {len(names)} shards are finished")
    if not todo:
        return
    tower = text_tower(load_clip(folder, run.diffusion.device), run.diffusion, folder)
    sampling = Sampling(run.defence.name, seed, run.root, run.knobs, run.diffusion, tower, run.defence.callbacks())
    for name, start in todo:
        rows = generate_rows(sampling, Admitted(run.prompts.table.slice(start, size)))
        failed = [row["error"] for row in rows if row["status"] == "error"]
        if start == 0 and len(failed) == len(rows):  # the cause is not in the prompts: stop early, keep nothing of it
            raise NearsafeError(f"{folder}: every image of the first shard failed; the first: {failed[0]}")
        run.output.write(name, "generations", rows)
        run.log(f"generate: seed {seed}: {name}: {len(rows)} images" + (f", {len(failed)} failed" if failed else ""))


def generate_rows(sampling: Sampling, admitted: Admitted) -> list[Row]:
    """One row of table "generations" per prompt, in order. An image that fails is a row with the reason."""
    prompts = admitted.table.to_pylist()
    size = sampling.knobs.batch_size
    return [row for start in range(0, len(prompts), size) for row in _batch(sampling, prompts[start : start + size])]


def _batch(sampling: Sampling, prompts: list[Row]) -> Iterator[Row]:
    try:
        images: list[np.ndarray | str] = [_to_uint8(image) for image in _sample(sampling, prompts)]
    except (RuntimeError, ValueError) as error:
        if len(prompts) > 1:  # find the prompt that fails; the others keep their images
            for prompt in prompts:
                yield from _batch(sampling, [prompt])
            return
        images = [f"{type(error).__name__}: {str(error).strip()[:500]}"]
    for prompt, image in zip(prompts, images, strict=True):
        yield _row(sampling, prompt, image)


def _sample(sampling: Sampling, prompts: list[Row]) -> torch.Tensor:
    seeds = [noise_seed(sampling.root, prompt) for prompt in prompts]
    guidance = [_guidance(sampling, prompt) for prompt in prompts]
    texts = [prompt["text"] for prompt in prompts]
    knobs = sampling.knobs
    return generate(sampling.diffusion, sampling.tower, texts, seeds, guidance, knobs.steps, sampling.callbacks)


def noise_seed(root: int, prompt: Row) -> int:
    """The prompt's own seed, else one derived from its id: the same for every defence and training seed."""
    return prompt["seed"] if prompt["seed"] is not None else derive(root, "generate", prompt["prompt_id"])


def _guidance(sampling: Sampling, prompt: Row) -> float:
    return prompt["guidance"] if prompt["guidance"] is not None else sampling.knobs.guidance


def _to_uint8(image: torch.Tensor) -> np.ndarray | str:
    """(H, W, 3) uint8, rounded as diffusers does; the reason where there is no image."""
    if not torch.isfinite(image).all():
        return "the latent is NaN or infinite"
    return (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


def _row(sampling: Sampling, prompt: Row, image: np.ndarray | str) -> Row:
    failed = isinstance(image, str)
    height, width = sampling.diffusion.image_size if failed else image.shape[:2]
    return {
        "generation_id": content_id(sampling.defence, str(sampling.seed), prompt["prompt_id"]),
        "defence": sampling.defence,
        "seed": sampling.seed,
        "prompt_id": prompt["prompt_id"],
        "prompt_set": prompt["prompt_set"],
        "image": None if failed else image_cell(image),
        "sampler": sampling.diffusion.sampler,
        "steps": sampling.knobs.steps,
        "guidance": _guidance(sampling, prompt),
        "height": height,
        "width": width,
        "dtype": "float32",
        "model_hash": sampling.model_hash,
        "status": "error" if failed else "ok",
        "error": image if failed else None,
    }


def _spec(knobs: GenerateParams, seeds: Seeds, defence: Defence, inputs: dict[str, str]) -> dict[str, Any]:
    """All that the images depend on. The code is part of it: finished shards of an older sampler are not continued."""
    modules = (agewords, callbacks, clip, diffusion_module, generation_seeds, prompts_module, sampler)
    return {
        "stage": "generate",
        "defence": {"name": defence.name, "method": defence.method, "params": to_spec(defence.params)},
        "params": to_spec(knobs),
        "seeds": to_spec(seeds),
        "inputs": inputs,
        "versions": {library: version(library) for library in _LIBRARIES},
        "code": source_hash([Path(__file__), defence.source, *(Path(module.__file__) for module in modules)]),
    }
