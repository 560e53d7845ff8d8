"""All scores of one defence: retrieval, zero-shot, drift, and what the detectors say about its images."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch

from pipeline.detectors.registry import DetectorParams, load_judges, load_world_detector
from pipeline.detectors.world import WorldFeatures
from pipeline.errors import NearsafeError
from pipeline.ids import content_id
from pipeline.layout import seed_folder, shard_file, table_file
from pipeline.metrics.frechet import Reference
from pipeline.metrics.rows import Scores
from pipeline.models.clip import Clip, load_clip
from pipeline.params import section, to_spec
from pipeline.precision import pick_device
from pipeline.run_seeds import read_seeds
from pipeline.scoring_generation import Examined, Examiner, examine, score_generations
from pipeline.scoring_items import embed_images, images_of
from pipeline.scoring_retrieval import Embedded, Quadruples, embed, read_quadruples, score_drift, score_retrieval
from pipeline.scoring_zeroshot import Tasks, classifiers, read_tasks, score_zero_shot
from pipeline.shards import iterate_output, output_hash
from pipeline.tables import Output, check_references, read_output
from pipeline.vectors import Vectors

Log = Callable[[str], None]
_LIBRARIES = ("torch", "transformers", "torchmetrics", "onnxruntime", "opencv-python-headless")
REFERENCE = "world_safe_base"


@dataclass(frozen=True)
class ScoreParams:
    """Section `score`: k of R@k, bootstrap replicates (fewer for the Fréchet distance), which detectors run."""

    k: tuple[int, ...]
    bootstrap: int
    frechet_bootstrap: int = 200
    batch_size: int = 256
    detectors: DetectorParams = field(default_factory=DetectorParams)

    def __post_init__(self) -> None:
        if not self.k or min(*self.k, self.bootstrap, self.frechet_bootstrap, self.batch_size) < 1:
            raise ValueError("k, bootstrap, frechet_bootstrap and batch_size must be at least 1")


@dataclass(frozen=True)
class Inputs:
    """What scoring reads: output directories and model folders."""

    world: Path
    nsfwcaps: Path
    checkpoints: Path
    generations: Path
    clip: Path
    detector: Path


@dataclass(frozen=True)
class Baseline:
    """The benchmarks, and every item of them under the undefended model: made once, used for each training seed."""

    clip: Clip
    quadruples: list[Quadruples]
    embedded: list[Embedded]
    tasks: Tasks
    images: Vectors
    world_hash: str


def score_defence(params: Path, defence: str, inputs: Inputs, out: Path, log: Log) -> None:
    """Write detections (one shard per shard of images) and scores of every training seed. Raises NearsafeError."""
    knobs, seeds = section(f"{params}:score", ScoreParams), read_seeds(params)
    device, reason = pick_device()
    log(f"score: {reason}; float32")
    base = load_clip(inputs.clip, device)
    detector = load_world_detector(inputs.detector, device)
    baseline = read_baseline(inputs, base, knobs, log)
    features = WorldFeatures(detector)
    judges = load_judges(knobs.detectors, detector)
    examiner = Examiner(judges, features, base, classifiers(base, baseline.tasks, knobs.batch_size), knobs.batch_size)
    output = Output(
        out, _spec(defence, knobs, to_spec(seeds), inputs, {j.detector.name: j.detector.hash for j in judges})
    )
    prompts = read_output(inputs.world, "prompts").to_pylist()
    known = {prompt["prompt_id"] for prompt in prompts}
    seen = _examine_all(examiner, inputs.generations, (defence, known), output, log)
    if missing := sorted(set(seeds.seeds) - {row["seed"] for row in [*seen.rows, *seen.failed]}):
        raise NearsafeError(f"{inputs.generations}: no images of training seed {missing[0]}: run the generate stage")
    reference = _reference(inputs.world, baseline.tasks, features, knobs.batch_size, log)
    data_hash = content_id(output_hash(inputs.generations), baseline.world_hash)
    rows = []
    for seed in seeds.seeds:
        folder = inputs.checkpoints / seed_folder(seed)
        clip = load_clip(folder, device)
        scores = Scores(defence, seed, clip.hash)
        score_model(scores, clip, baseline, knobs, seeds.seed)
        replicates = (knobs.bootstrap, knobs.frechet_bootstrap)
        score_generations(scores, examiner, seen, prompts, baseline.tasks, reference, data_hash, replicates, seeds.seed)
        log(f"score: {defence}, seed {seed}: {len(scores.rows)} scores")
        rows += scores.rows
    output.write(table_file("scores"), "scores", rows)
    output.finish()


def read_baseline(inputs: Inputs, base: Clip, knobs: ScoreParams, log: Log) -> Baseline:
    """Benchmarks from the world and NSFWCaps, embedded by the undefended model. Raises TableError."""
    world_hash = output_hash(inputs.world)
    quadruples = [
        read_quadruples("nsfwcaps", inputs.nsfwcaps, output_hash(inputs.nsfwcaps)),
        read_quadruples("world_pairs", inputs.world, world_hash, split="test"),
    ]
    if not quadruples[0].safe["text"]:
        raise NearsafeError(f"{inputs.nsfwcaps}: no quadruple with both images")
    if not quadruples[1].safe["text"]:
        log("score: no pair of split 'test' with both images: world_pairs is left out")
        quadruples.pop()
    embedded = [embed(benchmark, base, knobs.batch_size) for benchmark in quadruples]
    tasks = read_tasks(inputs.world)
    images = embed_images(base, inputs.world, tasks.images(), knobs.batch_size)
    return Baseline(base, quadruples, embedded, tasks, images, world_hash)


def score_model(scores: Scores, clip: Clip, baseline: Baseline, knobs: ScoreParams, root: int) -> None:
    """Retrieval, drift and zero-shot of one checkpoint; the undefended model is not encoded twice."""
    same = clip.hash == baseline.clip.hash
    embedded = baseline.embedded if same else [embed(q, clip, knobs.batch_size) for q in baseline.quadruples]
    for quadruples, own, base in zip(baseline.quadruples, embedded, baseline.embedded, strict=True):
        score_retrieval(scores, quadruples, own, base, knobs.k)
    models = (clip, baseline.clip)
    pair = (embedded[0], baseline.embedded[0])
    score_drift(scores, baseline.quadruples[0], models, pair, knobs.bootstrap, root)
    tasks = baseline.tasks
    images = baseline.images if same else embed_images(clip, tasks.path, tasks.images(), knobs.batch_size)
    named = classifiers(clip, tasks, knobs.batch_size)
    score_zero_shot(scores, tasks, images, named, baseline.world_hash, knobs.bootstrap, root)


def _examine_all(
    examiner: Examiner, generations: Path, expected: tuple[str, set[str]], output: Output, log: Log
) -> Examined:
    """Every shard of images; `expected` is the defence and the known prompt ids. Raises TableError for others."""
    seen = Examined()
    for number, (file, table) in enumerate(iterate_output(generations, "generations")):
        check_references(table, "defence", {expected[0]}, file, "the defence to score")
        check_references(table, "prompt_id", expected[1], file, "table 'prompts' of the world")
        rows = examine(examiner, table, file, seen)
        output.write(shard_file("detections", number), "detections", rows)
        log(f"score: {file.name}: {table.num_rows} images examined")
    if seen.failed:
        log(f"score: {len(seen.failed)} images could not be examined: they are errors, in no share")
    return seen


def _reference(world: Path, tasks: Tasks, features: WorldFeatures, batch_size: int, log: Log) -> Reference | None:
    """Features of the safe images with a base-style label; None, and a word about it, where the world has under two."""
    wanted = {item for known in tasks.labels.get("base", {}).values() for item in known}
    safe = set()
    for _, table in iterate_output(world, "images"):
        safe.update(table.filter(pc.invert(table["unsafe"]))["image_id"].to_pylist())
    wanted &= safe
    if len(wanted) < 2:
        log("score: no safe base-style images: the Fréchet distance is left out")
        return None
    found = [features.of(images, batch_size) for _, images in images_of(world, wanted)]
    return Reference(REFERENCE, torch.cat(found))


def _spec(
    defence: str, knobs: ScoreParams, seeds: dict[str, Any], inputs: Inputs, detectors: dict[str, str]
) -> dict[str, Any]:
    folders = ("world", "nsfwcaps", "checkpoints", "generations")
    return {
        "stage": "score",
        "defence": defence,
        "params": to_spec(knobs),
        "seeds": seeds,
        "detectors": detectors,
        "inputs": {name: output_hash(getattr(inputs, name)) for name in folders},
        "versions": {library: version(library) for library in _LIBRARIES},
    }
