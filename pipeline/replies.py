"""Images and a defended vision tower become shards of replies, continued where an interrupted run was stopped.

The second generation task of the papers: a LLaVA whose vision tower is the defended CLIP's describes images. The query
and every caption that belongs to an image pass the age-word filter first. A reply's noise comes from its image alone,
never from the defence or the training seed: columns of different defences show the same draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import agewords, attempts, ids, memory, precision, shards
from pipeline import images as images_module
from pipeline import seeds as reply_seeds
from pipeline.agewords import LEXICON_VERSION, filter_age_words, mentions_age
from pipeline.attempts import Failed, attempt
from pipeline.errors import NearsafeError, TableError
from pipeline.ids import NAME_RULE, content_id, is_name
from pipeline.images import decode_image
from pipeline.layout import seed_folder, shard_file, table_file
from pipeline.models import clip
from pipeline.models import llava as llava_module
from pipeline.models.clip import load_clip
from pipeline.models.hashing import source_hash
from pipeline.models.llava import Llava, describe, load_llava, with_vision_tower
from pipeline.params import section, to_spec
from pipeline.precision import DTYPES, pick_device
from pipeline.run_seeds import Seeds, read_seeds
from pipeline.seeds import derive
from pipeline.shards import iterate_output, output_hash, verified
from pipeline.tables import Output, check_references, read_output

Row = dict[str, Any]
Log = Callable[[str], None]
STAGE = "reply"
NO_TEXT = "no_text"
_LIBRARIES = ("torch", "transformers")


@dataclass(frozen=True)
class ReplyParams:
    """Section `reply`. `image_sets` names splits of the world's images (none: no replies are asked for);
    `images_per_set` takes the first of each.

    `query`, `temperature` 0.2 and 128 new tokens are the papers' (evaluation specification §8). `batch_size` replies
    are sampled together, `shard_size` rows make a file and the unit of resume. `precision` is that of the whole LLaVA:
    LLaVA 1.5 7B takes 28 GB in fp32, 14 GB in bf16 or fp16.
    """

    image_sets: dict[str, str]
    query: str = "Describe this image."
    temperature: float = 0.2
    max_new_tokens: int = 128
    batch_size: int = 25
    shard_size: int = 100
    images_per_set: int | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    def __post_init__(self) -> None:
        if min(self.max_new_tokens, self.batch_size, self.shard_size, self.images_per_set or 1) < 1:
            raise ValueError("max_new_tokens, batch_size, shard_size and images_per_set must be at least 1")
        if self.temperature < 0 or not self.query.strip():
            raise ValueError("temperature must not be negative; query must not be empty")
        if wrong := [name for name in self.image_sets if not is_name(name)]:
            raise ValueError(f"image_sets: {wrong[0]!r}: {NAME_RULE}")
        if mentions_age(self.query):
            raise ValueError(f"query: {self.query!r} matches the age-word filter")


@dataclass(frozen=True)
class Shown:
    """Images that may be described, in the order of the replies: `rows` of table "images" without the image itself."""

    rows: list[Row]
    filters: list[Row]


@dataclass(frozen=True)
class Speaking:
    """What all replies of one training seed share."""

    defence: str
    seed: int
    root: int
    knobs: ReplyParams
    llava: Llava


def reply_defence(
    params: Path, defence: str, world: Path, checkpoints: Path, llava: Path, out: Path, seeds: Sequence[int] | None,
    log: Log,
) -> None:  # fmt: skip
    """Write shards of replies for every training seed, and what the filter dropped. Raises NearsafeError."""
    knobs, run = section(f"{params}:reply", ReplyParams), read_seeds(params, seeds)
    shown = admit_images(world, knobs)
    for row in shown.filters:
        if row["n_dropped"]:
            log(f"reply: {row['set']}: {row['filter']} dropped {row['n_dropped']} of {row['n_before']} images")
        elif row["filter"] == NO_TEXT and row["n_before"]:
            log(f"reply: {row['set']}: {row['n_before']} images have no text that the age-word filter could read")
    if not shown.rows:
        return _nothing(out, _spec(knobs, run, defence, {"world": output_hash(world)}), log)
    device, reason = pick_device()
    log(f"reply: {reason}; {knobs.precision}")
    model = load_llava(llava, device, DTYPES[knobs.precision])
    inputs = {"world": output_hash(world), "checkpoints": output_hash(checkpoints), "llava": model.hash}
    output = Output(out, _spec(knobs, run, defence, inputs), resume=True)
    output.write(table_file("filters"), "filters", shown.filters)
    size = knobs.shard_size
    starts = range(0, len(shown.rows), size)
    for position, seed in enumerate(run.seeds):
        names = {shard_file("replies", position * len(starts) + number): at for number, at in enumerate(starts)}
        todo = {name: at for name, at in names.items() if not output.done(name)}
        if len(todo) < len(names):
            log(f"reply: seed {seed}: {len(names) - len(todo)} of {len(names)} shards are finished")
        if not todo:
            continue
        folder = checkpoints / seed_folder(seed)
        speaking = Speaking(defence, seed, run.seed, knobs, _swapped(model, folder, device))
        for name, at in todo.items():
            rows = reply_rows(speaking, with_cells(world, shown.rows[at : at + size]))
            failed = [row["error"] for row in rows if row["status"] == "error"]
            if at == 0 and len(failed) == len(rows):  # the cause is not in the images: stop early, keep nothing of it
                raise NearsafeError(f"{folder}: every reply of the first shard failed; the first: {failed[0]}")
            output.write(name, "replies", rows)
            log(f"reply: seed {seed}: {name}: {len(rows)} replies" + (f", {len(failed)} failed" if failed else ""))
    output.finish()


def _nothing(out: Path, spec: dict[str, Any], log: Log) -> None:
    """A finished output without replies."""
    output = Output(out, spec)
    output.write(shard_file("replies", 0), "replies", [])
    output.finish()
    log("reply: reply.image_sets is empty: no image is described, no language model is loaded")


def admit_images(world: Path, knobs: ReplyParams) -> Shown:
    """The images of every set, without those of which a text mentions age (the filter has no switch), and its counts.

    An image's texts are its caption and, where it is part of a pair, both captions of the pair. An image without any
    text passes unread: row "no_text" of the counts says how many of the set, all of them kept. Raises TableError for a
    caption_id that the world lacks, NearsafeError naming a split that the world lacks, and a set that the filter
    empties.
    """
    captions = {row["caption_id"]: row["text"] for row in read_output(world, "captions", allow_empty=True).to_pylist()}
    paired = _paired_captions(world, captions)
    by_split: dict[str, list[Row]] = {}
    for file, table in iterate_output(world, "images"):
        check_references(table, "caption_id", set(captions), file, "table 'captions' of the world")
        for row in table.drop_columns("image").to_pylist():
            by_split.setdefault(row["split"], []).append(row)
    rows, filters = [], []
    for name, split in knobs.image_sets.items():
        found = by_split.get(split, [])
        if not found:
            raise NearsafeError(
                f"{world}: image set {name!r}: no image of split {split!r}; there are: {', '.join(sorted(by_split))}"
            )
        texts = [
            [captions[i] for i in {row["caption_id"], *paired.get(row["image_id"], ())} if i is not None]
            for row in found
        ]
        dropped = filter_age_words(texts)
        kept = [row for row, drop in zip(found, dropped, strict=True) if not drop]
        filters.append(_count(name, "age_words", f"lexicon {LEXICON_VERSION}", len(found), len(kept)))
        unread = sum(not own for own in texts)
        filters.append(_count(name, NO_TEXT, f"lexicon {LEXICON_VERSION}", unread, unread))
        if not kept:
            raise NearsafeError(f"{world}: image set {name!r}: no image is left after the filter age_words")
        if knobs.images_per_set is not None:
            before, kept = len(kept), kept[: knobs.images_per_set]
            filters.append(_count(name, "images_per_set", str(knobs.images_per_set), before, len(kept)))
        rows += [{**row, "image_set": name} for row in kept]
    return Shown(rows, filters)


def _paired_captions(world: Path, captions: dict[str, str]) -> dict[str, set[str]]:
    """Image -> both captions of every pair that shows it. Raises TableError for a caption that the world lacks."""
    found: dict[str, set[str]] = {}
    pairs = read_output(world, "pairs", allow_empty=True)
    for column in ("safe_caption_id", "unsafe_caption_id"):
        check_references(pairs, column, set(captions), world / table_file("pairs"), "table 'captions' of the world")
    for pair in pairs.to_pylist():
        both = {pair["safe_caption_id"], pair["unsafe_caption_id"]}
        for image in (pair["safe_image_id"], pair["unsafe_image_id"]):
            if image is not None:
                found.setdefault(image, set()).update(both)
    return found


def with_cells(world: Path, rows: list[Row]) -> list[Row]:
    """`rows` with the image cell, and in `where` the file and row it comes from."""
    cells: dict[str, Row] = {}
    known = pa.array(sorted({row["image_id"] for row in rows}), pa.string())
    for file, table in iterate_output(world, "images"):
        at = pc.indices_nonzero(pc.is_in(table["image_id"], value_set=known))
        for number, row in zip(at.to_pylist(), table.take(at).to_pylist(), strict=True):
            where = f"{file}: row {number} (image_id={row['image_id']!r})"
            cells[row["image_id"]] = {"image": row["image"], "where": where}
    return [{**row, **cells[row["image_id"]]} for row in rows]


def reply_rows(speaking: Speaking, images: list[Row]) -> list[Row]:
    """One row of table "replies" per image, in order; a failed reply is a row with the reason. Raises OutOfMemory."""
    speak = lambda batch: _replies(speaking, batch)  # noqa: E731
    errors = (RuntimeError, ValueError, TableError)
    return [_row(speaking, *pair) for pair in attempt(images, speaking.knobs.batch_size, speak, errors)]


def _replies(speaking: Speaking, images: Sequence[Row]) -> list[str]:
    knobs = speaking.knobs
    decoded = [decode_image(row["image"], row["where"]) for row in images]
    seeds = [derive(speaking.root, STAGE, row["image_id"]) for row in images]
    return describe(speaking.llava, decoded, knobs.query, seeds, knobs.temperature, knobs.max_new_tokens)


def _row(speaking: Speaking, image: Row, reply: str | Failed) -> Row:
    failed = isinstance(reply, Failed)
    return {
        "reply_id": content_id(speaking.defence, str(speaking.seed), image["image_set"], image["image_id"]),
        "defence": speaking.defence,
        "seed": speaking.seed,
        "image_id": image["image_id"],
        "image_set": image["image_set"],
        "unsafe": image["unsafe"],
        "query": speaking.knobs.query,
        "text": None if failed else reply,
        "temperature": speaking.knobs.temperature,
        "max_new_tokens": speaking.knobs.max_new_tokens,
        "model_hash": speaking.llava.hash,
        "status": "error" if failed else "ok",
        "error": reply.reason if failed else None,
    }


def _swapped(llava: Llava, folder: Path, device: Any) -> Llava:
    try:
        return with_vision_tower(llava, load_clip(verified(folder), device))
    except NearsafeError as error:
        raise NearsafeError(f"{folder}: {error}") from error


def _count(name: str, filter_name: str, filter_version: str, before: int, after: int) -> Row:
    counts = {"n_before": before, "n_dropped": before - after, "n_after": after}
    return {"stage": STAGE, "set": name, "filter": filter_name, "version": filter_version, **counts}


def _spec(knobs: ReplyParams, seeds: Seeds, defence: str, inputs: dict[str, str]) -> dict[str, Any]:
    """All that the replies depend on. The code is part of it: finished shards of older code are not continued."""
    modules = (agewords, attempts, clip, ids, images_module, llava_module, memory, precision, reply_seeds, shards)
    return {
        "stage": STAGE,
        "defence": defence,
        "params": to_spec(knobs),
        "seeds": to_spec(seeds),
        "inputs": inputs,
        "versions": {library: version(library) for library in _LIBRARIES},
        "code": source_hash([Path(__file__), *(Path(module.__file__) for module in modules)]),
    }
