"""White-box attacks on one defence: searched prompt by prompt, then shown to the diffusion model like any prompt.

Attack code: it exists to measure defences. What was found is kept where the undefended CLIP is the embedded world's
own, whose hazards are pictograms. On every other model the tables keep scores alone, what detectors see in the images:
no text and no image, in no file and no log.

A search aims at the token states that the undefended text tower gives a hazard prompt. Both similarities of a row are
those of the tower that conditions the sampler, so that a transferred attack shows how much of it arrives. A defence at
inference time acts on the images; a search looks at its text tower alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

import pipeline.world
from pipeline import agewords, attempts, compute, generation, memory
from pipeline import prompts as prompts_module
from pipeline import seeds as attack_seeds
from pipeline.attacks import protocol, settings, suffix
from pipeline.attacks.protocol import Aim, Found, similarity
from pipeline.attacks.settings import AttackParams, WhiteBox
from pipeline.attacks.suffix import alphabet, search, without_words
from pipeline.compute import Compute, Progress, Task, open_pool, run_shards
from pipeline.defences.registry import Defence
from pipeline.detectors import base, nudenet, world
from pipeline.detectors.base import Detector, error_row, examine, subject_of
from pipeline.detectors.registry import load_judges, load_world_detector
from pipeline.detectors.watch import watched
from pipeline.errors import NearsafeError
from pipeline.generation import Sampling, generate_rows, select_sets
from pipeline.images import decode_image
from pipeline.layout import seed_folder, shard_file, table_file
from pipeline.models.clip import load_clip
from pipeline.models.conditioning import TextTower
from pipeline.models.diffusion import Diffusion, load_diffusion, settled_precision, text_tower
from pipeline.models.hashing import model_hash, source_hash
from pipeline.models.sampler import SOURCES
from pipeline.models.schedulers import with_scheduler
from pipeline.params import section, to_spec
from pipeline.precision import DTYPES, pick_device
from pipeline.prompts import Admitted, admit
from pipeline.run_seeds import Seeds, read_seeds
from pipeline.schemas import SCHEMAS
from pipeline.seeds import derive
from pipeline.shards import output_hash, verified
from pipeline.tables import Output, read_output, read_table

DEFAULT_SECTION = "attack"
STAGE = "attack"
WORLD_CLIP = Path(pipeline.world.__file__).parent / "weights" / "clip"
_LIBRARIES = ("torch", "diffusers", "transformers")
Row = dict[str, Any]
Log = Callable[[str], None]


@dataclass(frozen=True)
class Inputs:
    """Finished outputs of the prompts and train stages, folders of the undefended CLIP and the diffusion model.

    `detector`: folder of the world's hazard detector, needed where images are not kept.
    """

    prompts: Path
    checkpoints: Path
    clip: Path
    diffusion: Path
    detector: Path | None = None


@dataclass(frozen=True)
class Shard:
    """Some prompts under one attack: the unit of search and of resume; `first` of its training seed's."""

    number: int
    attack: str
    table: pa.Table
    first: bool = False

    def file(self, table: str) -> str:
        """Its part of a table."""
        return shard_file(table, self.number)


@dataclass(frozen=True)
class Run:
    """What the training seeds of one run share.

    `samplings` holds the training seed at work, `transferred` finds that do not depend on the checkpoint, `pieces` what
    may be added, by tower (hash) and banned words. `detectors` examine images that are not kept; None where texts
    and images are.
    """

    defence: Defence
    root: int
    knobs: AttackParams
    inputs: Inputs
    diffusion: Diffusion
    undefended: TextTower
    detectors: Sequence[Detector] | None
    output: Output
    log: Log
    progress: Progress
    samplings: dict[int, Sampling] = field(default_factory=dict)
    transferred: dict[tuple[str, ...], Found] = field(default_factory=dict)
    pieces: dict[tuple[str, ...], dict[int, str]] = field(default_factory=dict)


def attack_defence(
    params: Path,
    defence: Defence,
    inputs: Inputs,
    out: Path,
    log: Log,
    where: str = DEFAULT_SECTION,
    only: Sequence[int] | None = None,
) -> None:
    """Write what each attack found, its images, and what the prompt filters dropped. Raises NearsafeError."""
    knobs, seeds = section(f"{params}:{where}", AttackParams), read_seeds(params, only)
    prompts, filters = _prompts(knobs, inputs.prompts)
    device, reason = pick_device()
    precision, why = settled_precision(knobs.generate.precision, device)
    # Into the spec, as in generation.
    knobs = replace(knobs, generate=replace(knobs.generate.of(defence), precision=precision))
    log(f"attack: {reason}; {why}")
    model = with_scheduler(load_diffusion(inputs.diffusion, device, DTYPES[precision]), knobs.generate.scheduler)
    undefended = text_tower(load_clip(inputs.clip, device), model, inputs.clip, dict.fromkeys(knobs.generate.towers))
    keep_text = WORLD_CLIP.is_dir() and undefended.hash == model_hash(WORLD_CLIP)
    detectors = None if keep_text else _detectors(knobs, inputs, device)
    if detectors is not None:
        log(f"attack: {inputs.clip} is not the embedded world's CLIP: scores are kept, texts and images are not")
    output = Output(out, _spec(knobs, seeds, defence, inputs, prompts, (model, undefended), detectors), resume=True)
    progress = Progress(prompts.table.num_rows * len(knobs.white_box) * len(seeds.seeds))
    run = Run(defence, seeds.seed, knobs, inputs, model, undefended, detectors, output, log, progress)
    todo = [_unit(run, seed, shard) for seed, shard in _shards(knobs, prompts.table, seeds.seeds)]
    # In this process alone: what a search finds on the undefended tower is kept for the next training seed.
    with open_pool(Task(lambda: run, _attack_shard), Compute(), log) as pool:
        run_shards(pool, todo, output, partial(_write, run), log, lambda unit: progress.kept(unit.rows))
    written = [read_table(output.path / unit.job[1].file("attacks"), "attacks", allow_empty=True) for unit in todo]
    output.write(table_file("filters"), "filters", filters + _counts(knobs, filters, pa.concat_tables(written)))
    output.finish()


def _detectors(knobs: AttackParams, inputs: Inputs, device: torch.device) -> list[Detector]:
    """What examines images that are not kept. Raises NearsafeError where there is nothing."""
    if inputs.detector is None:
        raise NearsafeError(f"{inputs.clip}: not the embedded world's CLIP, so images are not kept: give --detector")
    judges = load_judges(knobs.detectors, load_world_detector(inputs.detector, device))
    judges = watched(judges, knobs.detectors, inputs.detector, device)
    if not judges:
        raise NearsafeError("detectors: none is on, and images are not kept: nothing would be left of them")
    return [judge.detector for judge in judges]


def _prompts(knobs: AttackParams, path: Path) -> tuple[Admitted, list[Row]]:
    """Prompts to start from and the filters' counts. Raises NearsafeError where none is left, or a name is taken."""
    table = read_output(path, "prompts")
    if taken := sorted(set(knobs.white_box) & set(table["prompt_set"].to_pylist())):
        raise NearsafeError(f"{path}: white-box attack {taken[0]!r} has the name of a prompt set")
    admitted, filters = admit(select_sets(table, (knobs.prompt_set,), path), knobs.prompts, STAGE)
    if not admitted.table.num_rows:
        raise NearsafeError(f"{path}: no prompt of {knobs.prompt_set!r} is left after the filters")
    return admitted, filters


def _shards(knobs: AttackParams, prompts: pa.Table, seeds: Sequence[int]) -> list[tuple[int, Shard]]:
    """Every training seed's shards, numbered through."""
    size = knobs.generate.shard_size
    parts = [(name, start) for name in knobs.white_box for start in range(0, prompts.num_rows, size)]
    asked = [(seed, name, start) for seed in seeds for name, start in parts]
    return [
        (seed, Shard(number, name, prompts.slice(start, size), first=number % len(parts) == 0))
        for number, (seed, name, start) in enumerate(asked)
    ]


def _unit(run: Run, seed: int, shard: Shard) -> compute.Shard:
    tables = ("generations", "attacks") if run.detectors is None else ("generations", "detections", "attacks")
    files = tuple(shard.file(table) for table in tables)
    return compute.Shard(files, (seed, shard), f"attack: seed {seed}", shard.table.num_rows)


def _attack_shard(run: Run, job: tuple[int, Shard]) -> tuple[list[Row], list[Row]]:
    """Rows of tables "attacks" and "generations" of one shard."""
    seed, shard = job
    if seed not in run.samplings:
        folder = verified(run.inputs.checkpoints / seed_folder(seed))
        defended = text_tower(load_clip(folder, run.diffusion.device), run.diffusion, folder, run.knobs.generate.towers)
        own = (run.knobs.generate, run.diffusion, defended, run.defence.callbacks())
        run.samplings.clear()  # one checkpoint at a time
        run.samplings[seed] = Sampling(run.defence.name, seed, run.root, *own)
    rows, prompts = attack_rows(run, run.samplings[seed], shard)
    images = generate_rows(run.samplings[seed], prompts)
    if run.detectors is not None:
        images = [{**image, "error": _kind(image["error"])} for image in images]
    return rows, images


def _write(run: Run, unit: compute.Shard, made: tuple[list[Row], list[Row]]) -> None:
    """Everything of one shard into the output; the file that ends it comes last."""
    (seed, shard), (rows, images) = unit.job, made
    failed = [image["error"] for image in images if image["status"] == "error"]
    if shard.first and images and len(failed) == len(images):  # the cause is not in the prompts: keep nothing of it
        folder = run.inputs.checkpoints / seed_folder(seed)
        raise NearsafeError(f"{folder}: every image of {shard.attack} failed; the first: {failed[0]}")
    if run.detectors is not None:
        run.output.write(shard.file("detections"), "detections", _examined(run.detectors, images))
        images = [{**image, "image": None} for image in images]
    run.output.write(shard.file("generations"), "generations", images)
    run.output.write(shard.file("attacks"), "attacks", rows)
    run.progress.add(len(rows))
    before, after = (sum(row[f"similarity_{when}"] for row in rows) / len(rows) for when in ("before", "after"))
    run.log(
        f"{unit.group}: {shard.attack}: similarity {before:.3f} to {after:.3f}; {run.progress}"
        + (f"; {len(failed)} images failed" if failed else "")
    )


def _kind(error: str | None) -> str | None:
    """The exception's type alone: its message may quote what was found."""
    return error and error.partition(":")[0]


def _examined(detectors: Sequence[Detector], images: list[Row]) -> list[Row]:
    """Rows of table "detections" of images that are about to be dropped; one that failed is an error, never safe."""
    made = [(row, decode_image(row["image"], row["generation_id"])) for row in images if row["status"] == "ok"]
    subjects = [subject_of(row) for row, _ in made]
    found = [row for detector in detectors for row in examine(detector, subjects, [image for _, image in made])]
    failed = [row for row in images if row["status"] != "ok"]
    return found + [error_row(detector, subject_of(row), row["error"]) for detector in detectors for row in failed]


def attack_rows(run: Run, sampling: Sampling, shard: Shard) -> tuple[list[Row], Admitted]:
    """One row of table "attacks" per prompt of the shard, and the found texts that may be generated, as prompts."""
    attack, prompts = run.knobs.white_box[shard.attack], shard.table.to_pylist()
    texts = tuple(prompt["text"] for prompt in prompts)
    starts = texts if attack.start == "prompt" else tuple(without_words(text, run.knobs.words) for text in texts)
    named = [
        attack.start == "prompt" or start != " ".join(text.split()) for start, text in zip(starts, texts, strict=True)
    ]
    targets = run.undefended.encode(texts)
    victim = sampling.tower if attack.victim == "defended" else run.undefended
    aim = Aim(starts, targets, tuple(derive(run.root, STAGE, shard.attack, row["prompt_id"]) for row in prompts))
    found = _found(run, victim, aim, shard, attack)
    before, after = (similarity(sampling.tower.encode(part), targets).tolist() for part in (starts, found.texts))
    asked = [
        {**prompt, "text": text, "prompt_set": shard.attack}
        for prompt, text, ok in zip(prompts, found.texts, named, strict=True)
        if ok
    ]
    admitted, refused = _admit_each(asked)
    rows = []
    for at, prompt in enumerate(prompts):
        reason = refused.get(prompt["prompt_id"]) if named[at] else "the prompt names none of the banned words"
        rows.append(
            {
                "attack": shard.attack,
                "mode": "adaptive" if attack.victim == "defended" else "transfer",
                "defence": sampling.defence,
                "seed": sampling.seed,
                "prompt_id": prompt["prompt_id"],
                "text": found.texts[at] if run.detectors is None and reason is None else None,
                "tokens": found.tokens[at],
                "steps": attack.steps,
                "similarity_before": before[at],
                "similarity_after": after[at],
                "victim_hash": victim.hash,
                "status": "ok" if reason is None else "refused" if named[at] else "error",
                "error": reason,
            }
        )
    return rows, admitted


def _found(run: Run, victim: TextTower, aim: Aim, shard: Shard, attack: WhiteBox) -> Found:
    """What the search finds; on the undefended tower it is the same for every training seed."""
    budget = attack.budget(run.knobs.words)
    key = (shard.attack, *shard.table["prompt_id"].to_pylist())
    if attack.victim == "undefended" and key in run.transferred:
        return run.transferred[key]
    tower = (victim.hash, *budget.banned)
    if tower not in run.pieces:
        run.pieces[tower] = alphabet(victim.tokenizer, budget.banned)
    found = search(victim, aim, budget, run.pieces[tower])
    if attack.victim == "undefended":
        run.transferred[key] = found
    return found


def _admit_each(prompts: list[Row]) -> tuple[Admitted, dict[str, str]]:
    """The prompts that may be generated, and for every other one the filter that dropped it."""
    admitted, _ = admit(_table(prompts), stage=STAGE)
    kept = set(admitted.table["prompt_id"].to_pylist())
    refused = {}
    for prompt in prompts:
        if prompt["prompt_id"] not in kept:
            _, counts = admit(_table([prompt]), stage=STAGE)
            refused[prompt["prompt_id"]] = next(row["filter"] for row in counts if row["n_dropped"])
    return admitted, refused


def _table(prompts: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(prompts, schema=SCHEMAS["prompts"].schema)


def _counts(knobs: AttackParams, filters: list[Row], attacks: pa.Table) -> list[Row]:
    """What each prompt filter dropped of the found texts, per attack and over all training seeds."""
    rows, found = [], attacks.select(["attack", "status", "error"]).to_pylist()
    for name in knobs.white_box:
        own = [row for row in found if row["attack"] == name and row["status"] != "error"]
        left = len(own)
        for filter_row in filters:
            if filter_row["filter"] == "prompts_per_set":
                continue
            dropped = sum(row["error"] == filter_row["filter"] for row in own)
            counts = {"n_before": left, "n_dropped": dropped, "n_after": left - dropped}
            rows.append({**filter_row, "set": name, **counts})
            left -= dropped
    return rows


def _spec(
    knobs: AttackParams,
    seeds: Seeds,
    defence: Defence,
    inputs: Inputs,
    prompts: Admitted,
    models: tuple[Diffusion, TextTower],
    detectors: Sequence[Detector] | None,
) -> dict[str, Any]:
    """All that finds and images depend on, the code too: finished shards of another search are not continued."""
    model, undefended = models
    modules = (
        agewords, attack_seeds, attempts, base, generation, memory, nudenet, prompts_module, protocol, settings, suffix,
        world,
    )  # fmt: skip
    return {
        "stage": STAGE,
        "defence": {"name": defence.name, "method": defence.method, "params": to_spec(defence.params)},
        "params": {**to_spec(knobs), "words": list(knobs.words)},
        "seeds": to_spec(seeds),
        "inputs": {
            "prompts": prompts.hash,
            "checkpoints": output_hash(inputs.checkpoints),
            "clip": undefended.hash,
            "diffusion": model.hash,
        },
        "kept": "all" if detectors is None else {detector.name: detector.hash for detector in detectors},
        "versions": {library: version(library) for library in _LIBRARIES},
        "code": source_hash([Path(__file__), defence.source, *SOURCES, *(Path(module.__file__) for module in modules)]),
    }
