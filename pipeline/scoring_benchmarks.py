"""The benchmarks of one checkpoint without images of its own: retrieval, paraphrases, pools, drift and zero-shot."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import NearsafeError
from pipeline.metrics.rows import Scores
from pipeline.models.clip import Clip
from pipeline.scoring_inputs import Inputs, ScoreParams
from pipeline.scoring_items import Encoder
from pipeline.scoring_pools import RATIOS, Pools, embed_pools, read_pools, score_pools
from pipeline.scoring_retrieval import (
    PARAPHRASED,
    Embedded,
    Quadruples,
    embed,
    paraphrased,
    read_quadruples,
    score_drift,
    score_retrieval,
    show_examples,
)
from pipeline.scoring_zeroshot import Tasks, classifiers, read_tasks, score_zero_shot
from pipeline.shards import output_hash
from pipeline.tables import read_manifest, read_output
from pipeline.vectors import Vectors, read_vectors

Log = Callable[[str], None]
VALIDATION = "validation"


@dataclass(frozen=True)
class Items:
    """Every item of every benchmark under one model, in the order of the benchmarks."""

    quadruples: list[Embedded]
    paraphrased: list[Embedded]
    pools: Embedded | None
    images: Vectors


@dataclass(frozen=True)
class Benchmarks:
    """The benchmarks, read once. The first quadruples are those of nsfwcaps (or of its validation split), where it has
    any; `paraphrased` are of these, too.
    """

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


def read_known(embeddings: Path, world_hash: str) -> tuple[Vectors, Vectors]:
    """What the undefended model has embedded of this very world. Raises NearsafeError for that of another one."""
    made_of = read_manifest(embeddings)["spec"]["inputs"].get("world")
    if made_of != world_hash:
        raise NearsafeError(f"{embeddings}: embeddings of another world ({made_of}, not {world_hash}): embed it again")
    return read_vectors(embeddings)


def read_benchmarks(inputs: Inputs, root: int, log: Log) -> Benchmarks:
    """Benchmarks from the world, NSFWCaps and the paraphrases; what is absent is left out with a word.

    With `validation_only`: the quadruples and the zero-shot images of the validation split, and nothing else.
    Raises TableError.
    """
    if inputs.nsfwcaps is None:
        raise ValueError("benchmarks need nsfwcaps: Inputs.check says so")
    world_hash, caps_hash = output_hash(inputs.world), output_hash(inputs.nsfwcaps)
    if inputs.validation_only:
        return _validation(inputs, inputs.nsfwcaps, world_hash, caps_hash)
    quadruples: list[Quadruples] = []
    for benchmark, split in (
        (read_quadruples("nsfwcaps", inputs.nsfwcaps, caps_hash, split="benchmark"), "benchmark"),
        (read_quadruples("validation", inputs.nsfwcaps, caps_hash, split=VALIDATION), VALIDATION),
        (read_quadruples(_pairs_name(inputs.world), inputs.world, world_hash, split="test"), "test"),
    ):
        if benchmark.pairs:
            quadruples.append(benchmark)
        else:
            log(f"score: no pair of split {split!r} with images: {benchmark.name} is left out")
    for benchmark in quadruples:
        if benchmark.left_out:
            log(f"score: {benchmark.name}: {benchmark.left_out} pairs without both images are left out")
        if not benchmark.unsafe["image"]:
            log(f"score: {benchmark.name}: no pair has an unsafe image: only safe queries are asked")
    # Queries of the pools are unsafe captions: the first benchmark's.
    pools = read_pools(inputs.world, quadruples[0], world_hash, root) if quadruples else None
    for name in RATIOS:
        if not pools or name not in pools.images:
            log(f"score: the world has no pool of images large enough: {name} is left out")
    words = _paraphrases(quadruples, inputs.paraphrases, log)
    return Benchmarks(quadruples, words, pools, read_tasks(inputs.world, inputs.prompts), world_hash)


def _pairs_name(world: Path) -> str:
    """What the given pairs are called: those of the user's data are not the embedded world's."""
    return "test_pairs" if "sources" in read_manifest(world)["spec"] else "world_pairs"


def _paraphrases(quadruples: list[Quadruples], paraphrases: Path | None, log: Log) -> list[Quadruples]:
    """The first benchmark in other words; none where it is not nsfwcaps, or has no other words or unsafe images."""
    if paraphrases is None:
        return []
    caps = quadruples[0] if quadruples and quadruples[0].name == "nsfwcaps" else None
    if caps is None or not caps.unsafe["image"] or not read_output(paraphrases, "paraphrases", True).num_rows:
        log("score: no paraphrases of benchmark captions with images: paraphrased queries are left out")
        return []
    return [paraphrased(caps, paraphrases, name) for name in PARAPHRASED]


def _validation(inputs: Inputs, nsfwcaps: Path, world_hash: str, caps_hash: str) -> Benchmarks:
    quadruples = read_quadruples("validation", nsfwcaps, caps_hash, split=VALIDATION)
    if not quadruples.pairs:
        raise NearsafeError(f"{nsfwcaps}: no quadruple of split {VALIDATION!r} with both images")
    tasks = read_tasks(inputs.world, inputs.prompts)
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
    if knobs.examples and benchmarks.quadruples:
        first = (benchmarks.quadruples[0], own.quadruples[0], origin.quadruples[0])
        show_examples(scores, *first, knobs.examples.queries, knobs.examples.k)
    for quadruples, items, known in zip(benchmarks.paraphrased, own.paraphrased, origin.paraphrased, strict=True):
        score_retrieval(scores, quadruples, items, known, knobs.k, directions=("t2i",), kinds=("unsafe",))
    if benchmarks.pools and own.pools and origin.pools:
        score_pools(scores, benchmarks.pools, (own.pools, own.quadruples[0]), (origin.pools, origin.quadruples[0]))
    if benchmarks.quadruples:
        pair = (own.quadruples[0], origin.quadruples[0])
        score_drift(scores, benchmarks.quadruples[0], (clip, base), pair, knobs.bootstrap, root)
    else:
        score_drift(scores, None, (clip, base), None, knobs.bootstrap, root)
    named = classifiers(clip, benchmarks.tasks, knobs.batch_size)
    score_zero_shot(scores, benchmarks.tasks, own.images, named, benchmarks.world_hash, knobs.bootstrap, root)
