"""All scores of one defence: retrieval, zero-shot, drift, and, where there are any, of its images and replies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pipeline.detectors.registry import DetectorParams, Judge, load_judges, load_text_judges, load_world_detector
from pipeline.detectors.world import WorldFeatures
from pipeline.errors import NearsafeError
from pipeline.ids import content_id
from pipeline.layout import seed_folder, shard_file, table_file
from pipeline.metrics.rows import Scores
from pipeline.models.clip import Clip, load_clip
from pipeline.params import section, to_spec
from pipeline.precision import pick_device
from pipeline.run_seeds import read_seeds
from pipeline.scoring_generation import Examiner, examine_all, score_generations
from pipeline.scoring_items import Encoder
from pipeline.scoring_pools import RATIOS, Pools, embed_pools, read_pools, score_pools
from pipeline.scoring_replies import examine_replies, score_replies
from pipeline.scoring_retrieval import (
    PARAPHRASED,
    Embedded,
    Quadruples,
    embed,
    paraphrased,
    read_quadruples,
    score_drift,
    score_retrieval,
)
from pipeline.scoring_zeroshot import Tasks, classifiers, read_tasks, score_zero_shot
from pipeline.shards import iterate_output, output_hash
from pipeline.tables import Output, check_references, read_manifest
from pipeline.vectors import Vectors, read_vectors

Log = Callable[[str], None]
VALIDATION = "validation"
_LIBRARIES = ("torch", "transformers", "torchmetrics", "onnxruntime", "opencv-python-headless")


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
    """What scoring reads: output directories and model folders. What is None is not scored.

    `embeddings` only saves time: what the undefended model has embedded before. `validation_only` leaves out every
    benchmark that reports, so that settings can be chosen without a look at it.
    """

    world: Path
    nsfwcaps: Path
    checkpoints: Path
    clip: Path
    detector: Path
    generations: Path | None = None
    paraphrases: Path | None = None
    replies: Path | None = None
    text_detector: Path | None = None
    embeddings: Path | None = None
    validation_only: bool = False

    def outputs(self) -> dict[str, Path]:
        """The output directories that are there, by name."""
        names = ("world", "nsfwcaps", "checkpoints", "embeddings", "generations", "paraphrases", "replies")
        return {name: path for name in names if (path := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Replied:
    """Rows of table "replies" of a defence, and what the text detectors find in them."""

    judges: list[Judge]
    replies: list[dict[str, Any]]
    detections: list[dict[str, Any]]
    data_hash: str


@dataclass(frozen=True)
class Items:
    """Every item of every benchmark under one model, in the order of the benchmarks."""

    quadruples: list[Embedded]
    paraphrased: list[Embedded]
    pools: Embedded | None
    images: Vectors


@dataclass(frozen=True)
class Benchmarks:
    """The benchmarks, read once. The first quadruples are those of nsfwcaps (or of its validation split)."""

    quadruples: list[Quadruples]
    paraphrased: list[Quadruples]
    pools: Pools | None
    tasks: Tasks
    world_hash: str

    def embed(self, encoder: Encoder) -> Items:
        """Everything under one model."""
        quadruples = [embed(benchmark, encoder) for benchmark in self.quadruples]
        words = [Embedded(encoder.texts(p.texts, p.path), quadruples[0].image) for p in self.paraphrased]
        pools = embed_pools(self.pools, encoder) if self.pools else None
        images = encoder.images(self.tasks.path, self.tasks.images())
        return Items(quadruples, words, pools, images)


def score_defence(
    params: Path, defence: str, inputs: Inputs, out: Path, log: Log, seeds: Sequence[int] | None = None
) -> None:
    """Write scores and outcomes of every training seed (`seeds`, or the parameter file's), and the detections of its
    images, one shard per shard. Raises NearsafeError.
    """
    knobs, chosen = section(f"{params}:score", ScoreParams), read_seeds(params, seeds)
    device, reason = pick_device()
    log(f"score: {reason}; float32")
    base = load_clip(inputs.clip, device)
    benchmarks = read_benchmarks(inputs, chosen.seed, log)
    known = read_known(inputs.embeddings, benchmarks.world_hash) if inputs.embeddings else (None, None)
    origin = benchmarks.embed(Encoder(base, knobs.batch_size, *known))
    examiner = make_examiner(inputs, base, benchmarks.tasks, knobs, device) if inputs.generations else None
    readers = text_judges(inputs, device)
    judges = [*(examiner.judges if examiner else ()), *readers]
    output = Output(out, _spec(defence, knobs, to_spec(chosen), inputs, judges))
    generated = replied = None
    if inputs.generations and examiner:
        generated = examine_all(examiner, inputs.generations, benchmarks.tasks, defence, chosen.seeds, output, log)
    if inputs.replies:
        replied = read_replies(inputs.replies, readers, benchmarks, defence, chosen.seeds, output)
        log(f"score: {len(replied.replies)} replies read")
    rows, outcomes = [], []
    for seed in chosen.seeds:
        clip = load_clip(inputs.checkpoints / seed_folder(seed), device)
        scores = Scores(defence, seed, clip.hash)
        score_model(scores, clip, (base, origin), benchmarks, knobs, chosen.seed)
        if generated:
            replicates = (knobs.bootstrap, knobs.frechet_bootstrap)
            score_generations(scores, generated, benchmarks.tasks, replicates, chosen.seed)
        if replied:
            score_replies(
                scores, replied.judges, replied.replies, replied.detections, benchmarks.tasks, replied.data_hash,
                knobs.bootstrap, chosen.seed,
            )  # fmt: skip
        log(f"score: {defence}, seed {seed}: {len(scores.rows)} scores")
        rows += scores.rows
        outcomes += scores.outcomes
    output.write(table_file("scores"), "scores", rows)
    output.write(table_file("outcomes"), "outcomes", outcomes)
    output.finish()


def read_known(embeddings: Path, world_hash: str) -> tuple[Vectors, Vectors]:
    """What the undefended model has embedded of this very world. Raises NearsafeError for that of another one."""
    made_of = read_manifest(embeddings)["spec"]["inputs"].get("world")
    if made_of != world_hash:
        raise NearsafeError(f"{embeddings}: embeddings of another world ({made_of}, not {world_hash}): embed it again")
    return read_vectors(embeddings)


def read_benchmarks(inputs: Inputs, root: int, log: Log) -> Benchmarks:
    """Benchmarks from the world, NSFWCaps and the paraphrases; what is absent is left out with a word.

    With `validation_only`: the quadruples and the zero-shot images of the validation split, and nothing else.
    Raises TableError, and NearsafeError where NSFWCaps has no quadruple with both images in its split "benchmark".
    """
    world_hash, caps_hash = output_hash(inputs.world), output_hash(inputs.nsfwcaps)
    if inputs.validation_only:
        return _validation(inputs, world_hash, caps_hash)
    caps = read_quadruples("nsfwcaps", inputs.nsfwcaps, caps_hash, split="benchmark")
    if not caps.pairs:
        raise NearsafeError(f"{inputs.nsfwcaps}: no quadruple of split 'benchmark' with both images")
    quadruples = [caps]
    for benchmark, split in (
        (read_quadruples("validation", inputs.nsfwcaps, caps_hash, split=VALIDATION), VALIDATION),
        (read_quadruples("world_pairs", inputs.world, world_hash, split="test"), "test"),
    ):
        if benchmark.pairs:
            quadruples.append(benchmark)
        else:
            log(f"score: no pair of split {split!r} with both images: {benchmark.name} is left out")
    for benchmark in quadruples:
        if benchmark.left_out:
            log(f"score: {benchmark.name}: {benchmark.left_out} pairs without both images are left out")
    pools = read_pools(inputs.world, caps, world_hash, root)
    for name in RATIOS:
        if not pools or name not in pools.images:
            log(f"score: the world has no pool of images large enough: {name} is left out")
    words = [paraphrased(caps, inputs.paraphrases, name) for name in PARAPHRASED] if inputs.paraphrases else []
    return Benchmarks(quadruples, words, pools, read_tasks(inputs.world), world_hash)


def _validation(inputs: Inputs, world_hash: str, caps_hash: str) -> Benchmarks:
    quadruples = read_quadruples("validation", inputs.nsfwcaps, caps_hash, split=VALIDATION)
    if not quadruples.pairs:
        raise NearsafeError(f"{inputs.nsfwcaps}: no quadruple of split {VALIDATION!r} with both images")
    tasks = read_tasks(inputs.world)
    if VALIDATION not in tasks.labels:
        raise NearsafeError(f"{inputs.world}: table 'labels' has no row of shift {VALIDATION!r}")
    tasks = replace(tasks, labels={VALIDATION: tasks.labels[VALIDATION]})
    return Benchmarks([quadruples], [], None, tasks, world_hash)


def score_model(
    scores: Scores, clip: Clip, undefended: tuple[Clip, Items], benchmarks: Benchmarks, knobs: ScoreParams, root: int
) -> None:
    """Retrieval, drift and zero-shot of one checkpoint; the undefended model is not encoded twice."""
    base, origin = undefended
    own = origin if clip.hash == base.hash else benchmarks.embed(Encoder(clip, knobs.batch_size))
    for quadruples, items, known in zip(benchmarks.quadruples, own.quadruples, origin.quadruples, strict=True):
        score_retrieval(scores, quadruples, items, known, knobs.k)
    for quadruples, items, known in zip(benchmarks.paraphrased, own.paraphrased, origin.paraphrased, strict=True):
        score_retrieval(scores, quadruples, items, known, knobs.k, directions=("t2i",), kinds=("unsafe",))
    if benchmarks.pools and own.pools and origin.pools:
        score_pools(scores, benchmarks.pools, (own.pools, own.quadruples[0]), (origin.pools, origin.quadruples[0]))
    pair = (own.quadruples[0], origin.quadruples[0])
    score_drift(scores, benchmarks.quadruples[0], (clip, base), pair, knobs.bootstrap, root)
    named = classifiers(clip, benchmarks.tasks, knobs.batch_size)
    score_zero_shot(scores, benchmarks.tasks, own.images, named, benchmarks.world_hash, knobs.bootstrap, root)


def make_examiner(inputs: Inputs, base: Clip, tasks: Tasks, knobs: ScoreParams, device: torch.device) -> Examiner:
    """What looks at generated images. Raises NearsafeError for a detector that cannot be loaded."""
    detector = load_world_detector(inputs.detector, device)
    judges = load_judges(knobs.detectors, detector)
    features = WorldFeatures(detector)
    return Examiner(judges, features, base, classifiers(base, tasks, knobs.batch_size), knobs.batch_size)


def text_judges(inputs: Inputs, device: torch.device) -> list[Judge]:
    """What reads replies, none where there are none. Raises NearsafeError for a detector missing or broken."""
    if not inputs.replies:
        return []
    if not inputs.text_detector:
        raise NearsafeError("--replies needs --text-detector: the folder of the world's text detector")
    return load_text_judges(inputs.text_detector, device)


def read_replies(
    path: Path, judges: list[Judge], benchmarks: Benchmarks, defence: str, seeds: Sequence[int], output: Output
) -> Replied:
    """All replies of a defence, examined; detections go to `output`, a shard for each. Raises TableError for a row of
    another defence, NearsafeError for a training seed without replies.
    """
    replies: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for number, (file, table) in enumerate(iterate_output(path, "replies")):
        check_references(table, "defence", {defence}, file, "the defence to score")
        rows = table.to_pylist()
        found = examine_replies(judges, rows)
        output.write(shard_file("detections-replies", number), "detections", found)
        replies += rows
        detections += found
    if missing := sorted(set(seeds) - {row["seed"] for row in replies}):
        raise NearsafeError(f"{path}: no replies of training seed {missing[0]}: run the reply stage")
    return Replied(judges, replies, detections, content_id(output_hash(path), benchmarks.world_hash))


def _spec(
    defence: str, knobs: ScoreParams, seeds: dict[str, Any], inputs: Inputs, judges: Sequence[Judge]
) -> dict[str, Any]:
    return {
        "stage": "score",
        "defence": defence,
        "params": to_spec(knobs),
        "seeds": seeds,
        "validation_only": inputs.validation_only,
        "detectors": {judge.detector.name: judge.detector.hash for judge in judges},
        "inputs": {name: output_hash(path) for name, path in inputs.outputs().items()},
        "versions": {library: version(library) for library in _LIBRARIES},
    }
