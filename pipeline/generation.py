"""Prompts and a defended text tower become shards of images, continued where an interrupted run was stopped.

Every prompt passes `pipeline.prompts.admit` first. An image's noise comes from the prompt alone (its own seed, or one
derived from its id), never from the defence or the training seed: columns of different defences show the same draws.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from pipeline import agewords, attempts, memory
from pipeline import prompts as prompts_module
from pipeline import seeds as generation_seeds
from pipeline.attempts import Failed, attempt
from pipeline.compute import Progress, Shard, Task, open_pool, read_compute, run_shards
from pipeline.defences.registry import Defence
from pipeline.errors import NearsafeError
from pipeline.ids import content_id
from pipeline.images import image_cell
from pipeline.layout import seed_folder, shard_file, table_file
from pipeline.models.callbacks import Callbacks
from pipeline.models.clip import load_clip
from pipeline.models.conditioning import Conditioner
from pipeline.models.diffusion import Diffusion, Precision, conditioner, load_diffusion, settled_precision
from pipeline.models.hashing import model_hash, source_hash
from pipeline.models.sampler import SOURCES, generate
from pipeline.models.schedulers import Name as Scheduler
from pipeline.models.schedulers import with_scheduler
from pipeline.parallel import stream
from pipeline.params import section, to_spec
from pipeline.precision import DTYPES, pick_device
from pipeline.prompts import Admitted, admit, noise_seed
from pipeline.run_seeds import Seeds, read_seeds
from pipeline.shards import output_hash, verified
from pipeline.tables import Output, read_output

DEFAULT_SECTION = "generate"
Row = dict[str, Any]
Log = Callable[[str], None]
_LIBRARIES = ("torch", "diffusers", "transformers")


@dataclass(frozen=True)
class GenerateParams:
    """Section `generate`. `guidance` holds where a prompt brings none of its own.

    `batch_size` images are sampled together, `shard_size` rows make a file and the unit of resume. `prompt_sets` are
    the sets to generate (null: all), of each the first `prompts_per_set` prompts (null: all), or as many as `limits`
    says of a set. `precision` is that of denoiser and VAE (auto: fp32 on a CPU, bf16 on a GPU, by the machine that
    starts the run). `towers` says what further slots of a diffusion model with several text encoders hold:
    {text_encoder_2: a CLIP folder, or null for the diffusion folder's own}; the defended tower goes where it fits. The
    undefended model keeps the diffusion folder's own in all of them.
    `scheduler` samples in place of the folder's own, with its noise schedule.
    """

    steps: int
    guidance: float
    batch_size: int = 16
    shard_size: int = 64
    prompts_per_set: int | None = None
    prompt_sets: tuple[str, ...] | None = None
    limits: dict[str, int] = field(default_factory=dict)
    precision: Precision = "auto"
    towers: dict[str, Path | None] = field(default_factory=dict)
    scheduler: Scheduler | None = None

    def __post_init__(self) -> None:
        limit = 1 if self.prompts_per_set is None else self.prompts_per_set
        if min(self.steps, self.batch_size, self.shard_size, limit, *self.limits.values()) < 1:
            raise ValueError("steps, batch_size, shard_size, prompts_per_set and limits must be at least 1")
        if self.prompt_sets is not None and not self.prompt_sets:
            raise ValueError("prompt_sets: expected one or more names, or null for all sets")
        if unknown := [name for name in self.limits if self.prompt_sets is not None and name not in self.prompt_sets]:
            raise ValueError(f"limits: {unknown[0]!r} is none of prompt_sets")

    def limit(self, names: Iterable[str]) -> dict[str, int]:
        """How many prompts of each set are generated; a set that is not in it is generated whole."""
        general = {} if self.prompts_per_set is None else dict.fromkeys(names, self.prompts_per_set)
        return general | self.limits

    def of(self, defence: Defence) -> "GenerateParams":
        """The parameters for a defence: `towers` are defended ones, so the undefended model goes without them."""
        return replace(self, towers=dict.fromkeys(self.towers)) if defence.kind == "none" else self


@dataclass(frozen=True)
class Sampling:
    """What all images of one training seed share."""

    defence: str
    seed: int
    root: int
    knobs: GenerateParams
    diffusion: Diffusion
    tower: Conditioner
    callbacks: Sequence[Callbacks] = ()

    @property
    def model_hash(self) -> str:
        """Of diffusion model and text towers together."""
        return content_id(self.diffusion.hash, self.tower.hash)

    def guidance(self, prompt: Row) -> float:
        """The prompt's own guidance scale, else that of the parameters."""
        return prompt["guidance"] if prompt["guidance"] is not None else self.knobs.guidance

    def noise_seed(self, prompt: Row) -> int:
        """See `pipeline.prompts.noise_seed`."""
        return noise_seed(self.root, prompt)


# Rows of table "prompts" to images (B, 3, H, W) float32 in [0, 1] on the CPU; a failed image is NaN.
Sampler = Callable[[Sampling, list[Row]], torch.Tensor]


@dataclass(frozen=True)
class Asked:
    """The prompts of a shard, for the checkpoint of one training seed in `folder`; `first` of the seed's shards."""

    seed: int
    folder: Path
    prompts: Admitted
    first: bool


@dataclass(frozen=True)
class Painter:
    """How every image of a run is made. Its models are loaded once; of the checkpoints, the one that was last asked.

    The precision of `knobs` is settled, not "auto": every worker computes in the same one.
    """

    defence: Defence
    root: int
    knobs: GenerateParams
    diffusion: Path

    def load(self) -> "Studio":
        """The diffusion model on this machine's device, in the driver's number format. Raises NearsafeError."""
        model = load_diffusion(self.diffusion, pick_device()[0], DTYPES[self.knobs.precision])
        return Studio(with_scheduler(model, self.knobs.scheduler))

    def paint(self, studio: "Studio", asked: Asked) -> list[Row]:
        """Rows of table "generations" of one shard."""
        if studio.folder != asked.folder:
            studio.sampling = None  # let the last tower go first
            clip = load_clip(verified(asked.folder), studio.diffusion.device)
            tower = conditioner(clip, studio.diffusion, asked.folder, self.knobs.towers)
            own = (self.knobs, studio.diffusion, tower, self.defence.callbacks())
            studio.folder, studio.sampling = asked.folder, Sampling(self.defence.name, asked.seed, self.root, *own)
        return generate_rows(studio.sampling, asked.prompts)


@dataclass
class Studio:
    """A worker's models; `sampling` is that of the checkpoint in `folder`."""

    diffusion: Diffusion
    folder: Path | None = None
    sampling: Sampling | None = None


def generate_defence(
    params: Path,
    defence: Defence,
    prompts: Path,
    checkpoints: Path,
    diffusion: Path,
    out: Path,
    log: Log,
    where: str = DEFAULT_SECTION,
    only: Sequence[int] | None = None,
) -> None:
    """Write shards of images for every training seed (`only`: these), and what the filters dropped.

    `prompts` is the output of the prompts stage, `where` the section of the parameter file. Raises NearsafeError.
    """
    knobs, seeds = section(f"{params}:{where}", GenerateParams).of(defence), read_seeds(params, only)
    asked = select_sets(read_output(prompts, "prompts"), knobs.prompt_sets, prompts)
    check_known(asked, knobs.limits, prompts)
    admitted, filters = admit(asked, knobs.limit(asked["prompt_set"].to_pylist()))
    for row in filters:
        if row["n_dropped"]:
            log(f"generate: {row['set']}: {row['filter']} dropped {row['n_dropped']} of {row['n_before']} prompts")
    if not admitted.table.num_rows:
        raise NearsafeError(f"{prompts}: no prompt is left after the filters {', '.join(r['filter'] for r in filters)}")
    device, reason = pick_device()
    precision, why = settled_precision(knobs.precision, device)
    knobs = replace(knobs, precision=precision)  # goes into the spec: a run continued elsewhere does not mix
    log(f"generate: {reason}; {why}")
    inputs = {"prompts": admitted.hash, "checkpoints": output_hash(checkpoints), "diffusion": model_hash(diffusion)}
    inputs |= {name: model_hash(folder) for name, folder in knobs.towers.items() if folder is not None}
    painter = Painter(defence, seeds.seed, knobs, diffusion)
    progress = Progress(admitted.table.num_rows * len(seeds.seeds))
    with open_pool(Task(painter.load, painter.paint), read_compute(params), log) as pool:
        output = Output(out, _spec(knobs, seeds, defence, inputs), resume=True)
        output.write(table_file("filters"), "filters", filters)

        def write(shard: Shard, rows: list[Row]) -> None:
            name, failed = shard.files[0], [row["error"] for row in rows if row["status"] == "error"]
            if shard.job.first and len(failed) == len(rows):  # the cause is not in the prompts: keep nothing of it
                folder = shard.job.folder
                raise NearsafeError(f"{folder}: every image of the first shard failed; the first: {failed[0]}")
            output.write(name, "generations", rows)
            progress.add(len(rows))
            log(f"{shard.group}: {progress}" + (f"; {len(failed)} of {name} failed" if failed else ""))

        shards = _shards(admitted.table, knobs.shard_size, seeds.seeds, checkpoints)
        run_shards(pool, shards, output, write, log, lambda shard: progress.kept(shard.rows))
        output.finish()


def _shards(prompts: pa.Table, size: int, seeds: Sequence[int], checkpoints: Path) -> Iterator[Shard]:
    """Every training seed's shards: fixed names, fixed row ranges."""
    starts = range(0, prompts.num_rows, size)
    for position, seed in enumerate(seeds):
        for number, start in enumerate(starts):
            rows = prompts.slice(start, size)
            asked = Asked(seed, checkpoints / seed_folder(seed), Admitted(rows), start == 0)
            file = shard_file("generations", position * len(starts) + number)
            yield Shard((file,), asked, f"generate: seed {seed}", rows.num_rows)


def select_sets(prompts: pa.Table, names: Sequence[str] | None, path: Path) -> pa.Table:
    """Rows of the named prompt sets, in their order in the table; all where `names` is None.

    Raises NearsafeError listing the known sets for an unknown one.
    """
    if names is None:
        return prompts
    check_known(prompts, names, path)
    return prompts.filter(pc.is_in(prompts["prompt_set"], value_set=pa.array(names, pa.string())))


def check_known(prompts: pa.Table, names: Iterable[str], path: Path) -> None:
    """Raises NearsafeError listing the known prompt sets for a name that is none of them."""
    known = list(dict.fromkeys(prompts["prompt_set"].to_pylist()))
    if unknown := [name for name in names if name not in known]:
        raise NearsafeError(f"{path}: unknown prompt set {unknown[0]!r}; known: {', '.join(known)}")


def generate_rows(sampling: Sampling, admitted: Admitted, sample: Sampler | None = None) -> list[Row]:
    """One row of table "generations" per prompt, in order. An image that fails is a row with the reason.

    `sample` brings a conditioning of its own (an attack's), by default that of the prompts' texts. It is called with
    at most `batch_size` prompts, with single ones again where RuntimeError or ValueError came out of a batch, and with
    fewer where memory is full (`pipeline.attempts`). The reason is the exception's type, a colon and its message, which
    may quote the prompt. Images are encoded in threads while the next batch is sampled. Raises OutOfMemory.
    """
    prompts = admitted.table.to_pylist()
    sampler = sample or sample_texts
    draw = lambda batch: [_to_uint8(image) for image in sampler(sampling, batch)]  # noqa: E731
    made = attempt(prompts, sampling.knobs.batch_size, draw, (RuntimeError, ValueError))
    return list(stream(lambda pair: _row(sampling, *pair), made))


def sample_texts(sampling: Sampling, prompts: list[Row]) -> torch.Tensor:
    """Images (B, 3, H, W) float32 in [0, 1] on the CPU of the prompts' texts; a failed one is NaN."""
    seeds = [sampling.noise_seed(prompt) for prompt in prompts]
    guidance = [sampling.guidance(prompt) for prompt in prompts]
    texts = [prompt["text"] for prompt in prompts]
    steps = sampling.knobs.steps
    return generate(sampling.diffusion, sampling.tower, texts, seeds, guidance, steps, sampling.callbacks)


def _to_uint8(image: torch.Tensor) -> np.ndarray | Failed:
    """(H, W, 3) uint8, rounded as diffusers does; the reason where there is no image."""
    if not torch.isfinite(image).all():
        return Failed("the latent is NaN or infinite")
    return (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


def _row(sampling: Sampling, prompt: Row, image: np.ndarray | Failed) -> Row:
    failed = isinstance(image, Failed)
    height, width = sampling.diffusion.image_size if failed else image.shape[:2]
    return {
        "generation_id": content_id(sampling.defence, str(sampling.seed), prompt["prompt_set"], prompt["prompt_id"]),
        "defence": sampling.defence,
        "seed": sampling.seed,
        "prompt_id": prompt["prompt_id"],
        "prompt_set": prompt["prompt_set"],
        "image": None if failed else image_cell(image),
        "sampler": sampling.diffusion.sampler,
        "steps": sampling.knobs.steps,
        "guidance": sampling.guidance(prompt),
        "height": height,
        "width": width,
        "dtype": str(sampling.diffusion.dtype).removeprefix("torch."),
        "model_hash": sampling.model_hash,
        "status": "error" if failed else "ok",
        "error": image.reason if failed else None,
    }


def _spec(knobs: GenerateParams, seeds: Seeds, defence: Defence, inputs: dict[str, str]) -> dict[str, Any]:
    """All that the images depend on. The code is part of it: finished shards of an older sampler are not continued."""
    modules = (agewords, attempts, generation_seeds, memory, prompts_module)
    return {
        "stage": "generate",
        "defence": {"name": defence.name, "method": defence.method, "params": to_spec(defence.params)},
        "params": to_spec(knobs),
        "seeds": to_spec(seeds),
        "inputs": inputs,
        "versions": {library: version(library) for library in _LIBRARIES},
        "code": source_hash([Path(__file__), defence.source, *SOURCES, *(Path(module.__file__) for module in modules)]),
    }
