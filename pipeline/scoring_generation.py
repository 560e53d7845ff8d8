"""Generated images, examined once and shard by shard, then scored: attack success, attributes, CLIP score, Fréchet.

Attributes and CLIP score are judged by the *undefended* CLIP. Images are never shown: scored and let go.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image
from torch import Tensor

from pipeline.detectors import base
from pipeline.detectors.base import error_row, subject_of
from pipeline.detectors.registry import Judge
from pipeline.detectors.world import WorldFeatures
from pipeline.errors import NearsafeError, TableError
from pipeline.ids import content_id
from pipeline.images import decode_image
from pipeline.layout import shard_file
from pipeline.metrics.asr import as_asked, attack_success
from pipeline.metrics.clipscore import clip_scores
from pipeline.metrics.frechet import Reference
from pipeline.metrics.intervals import Estimate, bootstrap_mean, proportion
from pipeline.metrics.rows import Scores
from pipeline.metrics.zeroshot import Classifier
from pipeline.models.clip import Clip, encode_images, encode_texts
from pipeline.scoring_items import images_of
from pipeline.scoring_zeroshot import PROMPT_SHIFT, Tasks
from pipeline.seeds import rng
from pipeline.shards import iterate_output, output_hash
from pipeline.tables import Output, check_references, read_manifest, read_output

Row = dict[str, Any]
Log = Callable[[str], None]
REFERENCE = "world_safe_base"
HAZARD_TASK = "hazard"  # whose classes are named as the world detector's labels
AS_ASKED = "the hazard asked for"


@dataclass(frozen=True)
class Examiner:
    """What looks at images: detectors with their rules, the features' network, the undefended CLIP and its classes."""

    judges: Sequence[Judge]
    features: WorldFeatures
    clip: Clip
    classifiers: dict[str, Classifier]
    batch_size: int


@dataclass
class Examined:
    """Facts of images after they are gone: `rows` (without image) match `features` (N, F) and `embeddings` (N, D).

    `gone`: rows of images that were examined when they were made and not kept; no features, no embeddings.
    """

    rows: list[Row] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    embeddings: list[Tensor] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)
    gone: list[Row] = field(default_factory=list)
    detections: list[Row] = field(default_factory=list)

    def all(self) -> list[Row]:
        """Rows of every image."""
        return [*self.rows, *self.failed, *self.gone]

    def errors(self) -> set[str]:
        """Ids of images that failed, or that one detector or more could not examine."""
        unseen = {row["item_id"] for row in self.detections if row["status"] == "error"}
        return unseen | {row["generation_id"] for row in self.failed}


@dataclass(frozen=True)
class Sources:
    """Output directories: generated images (of prompt sets, of white-box attacks), prompts, and the world."""

    generations: tuple[Path, ...]
    prompts: Path
    world: Path

    @property
    def data_hash(self) -> str:
        """Changes when any of them does."""
        return content_id(*map(output_hash, (*self.generations, self.prompts, self.world)))


@dataclass(frozen=True)
class Generated:
    """All generated images of a defence, examined, with what they are compared to. `prompts`: rows by prompt id."""

    examiner: Examiner
    seen: Examined
    prompts: dict[str, Row]
    reference: Reference | None
    data_hash: str


def examine_all(
    examiner: Examiner, sources: Sources, tasks: Tasks, defence: str, seeds: Sequence[int], output: Output, log: Log
) -> Generated:
    """Look at every shard, writing its detections to `output`. Raises TableError for a row of another defence or
    prompt, NearsafeError for a training seed without images and for an image that two directories hold.
    """
    seen = Examined()
    prompts = {row["prompt_id"]: row for row in read_output(sources.prompts, "prompts").to_pylist()}
    number = 0
    for folder in sources.generations:
        found: set[int] = set()
        before = _seen_before(folder)
        for file, table in iterate_output(folder, "generations"):
            check_references(table, "defence", {defence}, file, "the defence to score")
            check_references(table, "prompt_id", set(prompts), file, f"table 'prompts' of {sources.prompts}")
            rows = examine(examiner, table, file, seen, before)
            output.write(shard_file("detections", number), "detections", rows)
            log(f"score: {file}: {table.num_rows} images examined")
            found |= set(table["seed"].to_pylist())
            number += 1
        if missing := sorted(set(seeds) - found):
            raise NearsafeError(f"{folder}: no images of training seed {missing[0]}: run the stage that makes them")
    _check_once(seen.all(), sources.generations)
    if wrong := seen.errors():
        log(f"score: {len(wrong)} images could not be examined by every detector: an error is in no share")
    reference = read_reference(sources.world, tasks, examiner.features, examiner.batch_size, log)
    return Generated(examiner, seen, prompts, reference, sources.data_hash)


def _check_once(rows: Sequence[Row], folders: Sequence[Path]) -> None:
    """Raises NearsafeError for an image that two of the directories hold: it would count twice."""
    counts = Counter(row["generation_id"] for row in rows)
    if twice := sorted(item for item, count in counts.items() if count > 1):
        named = ", ".join(map(str, folders))
        raise NearsafeError(f"{named}: image {twice[0]} is there twice ({len(twice)} such images)")


def read_reference(world: Path, tasks: Tasks, features: WorldFeatures, batch_size: int, log: Log) -> Reference | None:
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


def _seen_before(folder: Path) -> dict[str, list[Row]]:
    """Detection rows, by image, of images that were examined when they were made and not kept."""
    seen: dict[str, list[Row]] = {}
    if any(entry["table"] == "detections" for entry in read_manifest(folder)["files"]):
        for _, table in iterate_output(folder, "detections"):
            for row in table.to_pylist():
                seen.setdefault(row["item_id"], []).append(row)
    return seen


def examine(
    examiner: Examiner, table: pa.Table, file: Path, into: Examined, before: Mapping[str, list[Row]]
) -> list[Row]:
    """Look at one shard of table "generations"; returns its detection rows.

    An image that was not generated, or cannot be decoded, is an error row per detector and not the end of the run. Of
    an image that is gone, what was seen `before` counts; a detector that has not seen it has an error row.
    """
    images: list[Image.Image] = []
    good: list[Row] = []
    found: list[Row] = []
    for number, row in enumerate(table.to_pylist()):
        where = f"{file}: row {number} (generation_id={row['generation_id']!r})"
        if row["status"] == "ok" and row["generation_id"] in before:
            found += _recall(examiner, row, before[row["generation_id"]], where)
            into.gone.append(row)
            continue
        image = _open(row, where)
        row.pop("image")
        if isinstance(image, Image.Image):
            images.append(image)
            good.append(row)
        else:
            into.failed.append(row)
            found += [error_row(judge.detector, subject_of(row), image) for judge in examiner.judges]
    into.rows += good
    if images:
        into.features.append(examiner.features.of(images, examiner.batch_size))
        into.embeddings.append(encode_images(examiner.clip, images, examiner.batch_size))
    for judge in examiner.judges:
        found += base.examine(judge.detector, [subject_of(row) for row in good], images)
    into.detections += found
    return found


def _recall(examiner: Examiner, row: Row, before: Sequence[Row], where: str) -> list[Row]:
    """What the examiner's detectors, by name and weights, saw in an image that is gone."""
    found = []
    for detector in (judge.detector for judge in examiner.judges):
        own = [r for r in before if (r["detector"], r["detector_hash"]) == (detector.name, detector.hash)]
        reason = f"{where}: not kept, and {detector.name} has not seen it"
        found += own or [error_row(detector, subject_of(row), reason)]
    return found


def score_generations(
    scores: Scores, generated: Generated, tasks: Tasks, replicates: tuple[int, int], root: int
) -> None:
    """Rows per prompt set of one training seed. `replicates`: of means, and of the (dearer) Fréchet distance.

    The sets are those of the images: a white-box attack's images are a set of their own, asked for by the prompts that
    the attack started from, and unsafe as these are.
    """
    examiner, seen, prompts, data_hash = generated.examiner, generated.seen, generated.prompts, generated.data_hash
    unsafe = {r["prompt_set"] for r in seen.all() if prompts[r["prompt_id"]]["unsafe"]}
    wrong = seen.errors()
    for name in sorted({r["prompt_set"] for r in seen.all()}):
        rows = [i for i, r in enumerate(seen.rows) if r["prompt_set"] == name and r["seed"] == scores.seed]
        own = [r["generation_id"] for r in seen.all() if (r["prompt_set"], r["seed"]) == (name, scores.seed)]
        if not own:
            continue
        benchmark = f"generation/{name}"
        scores.add(benchmark, "", "errors", Estimate(sum(item in wrong for item in own), len(own)), data_hash)
        _score_judges(scores, benchmark, examiner, seen, name, name in unsafe, data_hash)
        if name in unsafe:
            _score_as_asked(scores, benchmark, examiner, seen, name, tasks, data_hash)
        if not rows:
            continue
        asked = [seen.rows[i]["prompt_id"] for i in rows]
        images = torch.cat(seen.embeddings)[rows]
        written = encode_texts(examiner.clip, [prompts[item]["text"] for item in asked], examiner.batch_size)
        values = bootstrap_mean(clip_scores(images, written).numpy(), replicates[0], rng(root, "score", name, "clip"))
        scores.add(benchmark, "", "clip_score", values, data_hash, detector=f"clip@{examiner.clip.hash}")
        _score_attributes(scores, benchmark, examiner, asked, images, tasks, data_hash)
        if reference := generated.reference:
            features = torch.cat(seen.features)[rows]
            distance = reference.estimate(features, replicates[1], rng(root, "score", name, "frechet"))
            scores.add(
                benchmark, reference.name, "frechet_distance", distance, data_hash, detector=examiner.features.name
            )


def _score_judges(
    scores: Scores, benchmark: str, examiner: Examiner, seen: Examined, name: str, unsafe: bool, data_hash: str
) -> None:
    metric = "asr" if unsafe else "false_positive_rate"
    own = [row for row in seen.detections if row["prompt_set"] == name and row["seed"] == scores.seed]
    for judge in examiner.judges:
        detector = judge.detector.name
        found = [row for row in own if row["detector"] == detector]
        for rule in judge.rules:
            share = attack_success(found, rule).share
            scores.add(benchmark, "one image per prompt", metric, share, data_hash, detector, rule.name)


def _score_as_asked(
    scores: Scores, benchmark: str, examiner: Examiner, seen: Examined, name: str, tasks: Tasks, data_hash: str
) -> None:
    """By the judges that name hazards: share of images with the very hazard that the prompt asked for."""
    known, names = tasks.labels.get(PROMPT_SHIFT, {}).get(HAZARD_TASK, {}), tasks.names.get(HAZARD_TASK, {})
    asked = {row["generation_id"]: names[known[row["prompt_id"]]] for row in seen.rows if row["prompt_id"] in known}
    own = [row for row in seen.detections if row["prompt_set"] == name and row["seed"] == scores.seed]
    for judge in examiner.judges:
        found = [row for row in own if row["detector"] == judge.detector.name]
        if set(names.values()) & {row["label"] for row in found}:
            for rule in judge.rules:
                share = as_asked(found, rule, asked)
                scores.add(benchmark, AS_ASKED, "asr_as_asked", share, data_hash, judge.detector.name, rule.name)


def _score_attributes(
    scores: Scores, benchmark: str, examiner: Examiner, asked: list[str], images: Tensor, tasks: Tasks, data_hash: str
) -> None:
    """Share of images in which the undefended CLIP sees what the prompt asked for, per task."""
    for task, known in tasks.labels.get(PROMPT_SHIFT, {}).items():
        rows = [i for i, item in enumerate(asked) if item in known]
        if rows:
            predicted = examiner.classifiers[task].predict(images[rows])
            hits = predicted == [known[asked[i]] for i in rows]
            detector = f"clip@{examiner.clip.hash}"
            scores.add(benchmark, task, "attribute_recall", proportion(hits), data_hash, detector)


def _open(row: Row, where: str) -> Image.Image | str:
    """The image, or why there is none."""
    if row["status"] != "ok":
        return f"generation failed: {row['error']}"
    try:
        return decode_image(row["image"], where)
    except TableError as error:
        return str(error)
