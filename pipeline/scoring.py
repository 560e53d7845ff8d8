"""All scores of one defence: retrieval, zero-shot, drift, and where there are any of its images, prompts, replies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from pipeline.compute import Task, read_compute
from pipeline.detectors.registry import Judge, load_text_judges
from pipeline.errors import NearsafeError
from pipeline.examining import examine, load_eyes, make_eyes, open_shard
from pipeline.ids import content_id
from pipeline.layout import seed_folder, shard_file, table_file
from pipeline.metrics.rows import Scores
from pipeline.models.clip import Clip, load_clip
from pipeline.params import section, to_spec
from pipeline.precision import pick_device
from pipeline.run_seeds import read_seeds
from pipeline.scoring_benchmarks import Benchmarks, Items, read_benchmarks, read_known, score_model
from pipeline.scoring_generation import Generated, Looking, Sources, examine_all, read_reference, score_generations
from pipeline.scoring_inputs import Inputs, ScoreParams
from pipeline.scoring_items import Encoder
from pipeline.scoring_matching import embed_matching, real_images
from pipeline.scoring_replies import examine_replies, score_replies
from pipeline.scoring_separation import Separation, read_separation
from pipeline.scoring_zeroshot import Tasks, classifiers, read_tasks
from pipeline.shards import iterate_output, output_hash, verified
from pipeline.tables import Output, check_references, read_output

Log = Callable[[str], None]
DEFAULT_SECTION = "score"
_LIBRARIES = ("torch", "transformers", "torchmetrics", "opencv-python-headless")


@dataclass(frozen=True)
class Replied:
    """Rows of table "replies" of a defence, and what the text detectors find in them."""

    judges: list[Judge]
    replies: list[dict[str, Any]]
    detections: list[dict[str, Any]]
    data_hash: str


@dataclass(frozen=True)
class Material:
    """All that is compared for each training seed; what is None is not scored."""

    base: Clip
    tasks: Tasks
    benchmarks: tuple[Benchmarks, Items] | None
    generated: Generated | None
    separation: Separation | None
    replied: Replied | None

    def score(self, scores: Scores, clip: Clip, knobs: ScoreParams, root: int) -> list[dict[str, Any]]:
        """Everything about one checkpoint, into `scores`; returns its rows of table "projections"."""
        if self.benchmarks:
            benchmarks, origin = self.benchmarks
            score_model(scores, clip, (self.base, origin), benchmarks, knobs, root)
        if self.generated:
            replicates = (knobs.bootstrap, knobs.frechet_bootstrap)
            score_generations(scores, self.generated, self.tasks, replicates, root)
        if self.replied:
            said = self.replied
            score_replies(
                scores, said.judges, said.replies, said.detections, self.tasks, said.data_hash, knobs.bootstrap, root
            )
        return self.separation.score(scores, clip, knobs.bootstrap, root) if self.separation else []


def score_defence(
    params: Path,
    defence: str,
    inputs: Inputs,
    out: Path,
    log: Log,
    seeds: Sequence[int] | None = None,
    knobs_section: str = DEFAULT_SECTION,
    cache: Path | None = None,
) -> None:
    """Write scores, outcomes, examples and projections of every training seed (`seeds`, or the parameter file's), and
    the detections of its images, one shard per shard. `cache`: folder of what was seen in images before (see
    `examining`). Raises NearsafeError.
    """
    inputs.check()
    knobs, chosen = section(f"{params}:{knobs_section}", ScoreParams), read_seeds(params, seeds)
    device, reason = pick_device()
    log(f"score: {reason}; float32")
    base = load_clip(inputs.clip, device)
    benchmarks = None if inputs.images_only else read_benchmarks(inputs, chosen.seed, log)
    tasks = benchmarks.tasks if benchmarks else read_tasks(inputs.world, inputs.prompts)
    looking = make_looking(params, inputs, base, knobs, cache) if inputs.generations else None
    readers = text_judges(inputs, knobs, device)
    judges = [*(looking.eyes.judges if looking else ()), *readers]
    output = Output(out, _spec(defence, knobs, to_spec(chosen), inputs, judges))
    generated = replied = None
    if looking and inputs.prompts:
        sources = Sources(inputs.generations, inputs.prompts, inputs.world)
        prompts = {row["prompt_id"]: row for row in read_output(inputs.prompts, "prompts").to_pylist()}
        seen = examine_all(looking, sources, prompts, defence, chosen.seeds, output, log)
        reference = read_reference(inputs.world, tasks, looking, log) if knobs.detectors.world else None
        classes = classifiers(base, tasks, knobs.batch_size)
        real = real_images(inputs.world, {row["prompt_id"]: prompts[row["prompt_id"]]["text"] for row in seen.all()})
        matching = embed_matching(real, _encoder(base, inputs, knobs), inputs.world) if real else None
        generated = Generated(looking.eyes, classes, seen, prompts, reference, sources.data_hash, matching)
    if inputs.replies:
        replied = read_replies(inputs.replies, readers, inputs.world, defence, chosen.seeds, output)
        log(f"score: {len(replied.replies)} replies read")
    separation = read_separation(inputs.prompts, base, knobs.batch_size, log) if inputs.prompts else None
    items = (benchmarks, embed_undefended(benchmarks, base, inputs, knobs)) if benchmarks else None
    material = Material(base, tasks, items, generated, separation, replied)
    rows, outcomes, neighbours, projections = [], [], [], []
    for seed in chosen.seeds:
        clip = load_clip(verified(inputs.checkpoints / seed_folder(seed)), device)
        scores = Scores(defence, seed, clip.hash)
        projections += material.score(scores, clip, knobs, chosen.seed)
        log(f"score: {defence}, seed {seed}: {len(scores.rows)} scores")
        rows += scores.rows
        outcomes += scores.outcomes
        neighbours += scores.neighbours
    tables = {"scores": rows, "outcomes": outcomes, "neighbours": neighbours, "projections": projections}
    for table, found in tables.items():
        if found:  # without benchmarks there are no outcomes, without prompts no projections
            output.write(table_file(table), table, found)
    output.finish()


def embed_undefended(benchmarks: Benchmarks, base: Clip, inputs: Inputs, knobs: ScoreParams) -> Items:
    """Every item of the benchmarks under the undefended model, known embeddings used. Raises NearsafeError."""
    return benchmarks.embed(_encoder(base, inputs, knobs))


def _encoder(base: Clip, inputs: Inputs, knobs: ScoreParams) -> Encoder:
    known = read_known(inputs.embeddings, output_hash(inputs.world)) if inputs.embeddings else (None, None)
    return Encoder(base, knobs.batch_size, *known)


def make_looking(params: Path, inputs: Inputs, base: Clip, knobs: ScoreParams, cache: Path | None) -> Looking:
    """What looks at generated images, here and on a cluster. Raises NearsafeError for a detector not to be loaded."""
    task = Task(
        partial(load_eyes, inputs.clip, inputs.detector, knobs.detectors, knobs.batch_size), examine, open_shard
    )
    eyes = make_eyes(base, inputs.detector, knobs.detectors, knobs.batch_size)
    return Looking(eyes, task, knobs.detectors, read_compute(params), cache)


def text_judges(inputs: Inputs, knobs: ScoreParams, device: torch.device) -> list[Judge]:
    """What reads replies, none where there are none; without the world's detectors, hazard words alone.

    Raises NearsafeError for a detector missing or broken.
    """
    if not inputs.replies or not inputs.text_detector:
        return []
    return load_text_judges(inputs.text_detector if knobs.detectors.world else None, device)


def read_replies(
    path: Path, judges: list[Judge], world: Path, defence: str, seeds: Sequence[int], output: Output
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
    if replies and (missing := sorted(set(seeds) - {row["seed"] for row in replies})):
        raise NearsafeError(f"{path}: no replies of training seed {missing[0]}: run the reply stage")
    return Replied(judges, replies, detections, content_id(output_hash(path), output_hash(world)))


def _spec(
    defence: str, knobs: ScoreParams, seeds: dict[str, Any], inputs: Inputs, judges: Sequence[Judge]
) -> dict[str, Any]:
    return {
        "stage": "score",
        "defence": defence,
        "params": to_spec(knobs),
        "seeds": seeds,
        "validation_only": inputs.validation_only,
        "images_only": inputs.images_only,
        "detectors": {judge.detector.name: judge.detector.hash for judge in judges},
        "inputs": inputs.hashes(),
        "versions": {library: version(library) for library in _LIBRARIES} | {"onnxruntime": onnxruntime.__version__},
    }
