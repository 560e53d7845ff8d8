"""How many rows each stage of a run will see: counted in the user's files, else the published number."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pipeline.errors import NearsafeError
from pipeline.params import load
from pipeline.prompt_files import read_prompt_file
from pipeline.prompt_sets import PromptsParams
from pipeline.sources import coco, copro
from pipeline.sources.protocol import CaptionRow, Drops, ImageRow, PairRow
from pipeline.sources.registry import Entry, read_sources
from pipeline.targets import TRAIN_SPLIT

_SECONDS = 5.0  # at most for each source: what is not through by then counts as published
# Rows of the published data (specifications of this project; test images of CoOp's splits), before any filter. Keys:
# kind, or kind/part.
PUBLISHED: dict[str, dict[str, int]] = {
    "visu": {"captions": 330_000, "images": 330_000, "scored_images": 20_000, "train_pairs": 155_000},
    "copro/sexual": {"captions": 13_822, "train_pairs": 6_911},  # all three lists to train on, as DES does
    "copro/all": {"captions": 65_370, "train_pairs": 32_685},
    "nsfwcaps": {"captions": 2_000, "images": 2_000, "scored_images": 2_000},
    "nocaps": {"captions": 4_500, "images": 4_500, "scored_images": 4_500},
    "coco": {"captions": 40_504, "images": 40_504},  # val2014, one caption each
    "coco/all captions": {"captions": 202_654, "images": 40_504},
    **{
        f"zero_shot/{name}": {"images": count, "scored_images": count}
        for name, count in (
            ("imagenet", 50_000), ("caltech101", 2_465), ("oxford_pets", 3_669), ("stanford_cars", 8_041),
            ("flowers102", 2_463), ("food101", 30_300), ("fgvc_aircraft", 3_333), ("sun397", 19_850), ("dtd", 1_692),
            ("eurosat", 8_100), ("ucf101", 3_783),
        )
    },
}  # fmt: skip
# Rows of prompt files by schema, or by schema and set as profiles/paper-des.yaml names it (evaluation.md section 11).
PUBLISHED_PROMPTS = {
    "i2p": 4_703, "coco": 30_000, "unlearndiffatk": 142, "prompt_csv/coco": 9_969, "prompt_csv/sneakyprompt": 124,
    "prompt_csv/mma": 1_000, "prompt_csv/ringabell": 107, "prompt_csv/p4d": 272, "prompt_csv/i2p_sexual": 931,
}  # fmt: skip


@dataclass
class Workload:
    """Rows in all; `published`: what was not counted, `unknown`: what nothing is known of; `absent`: missing paths."""

    captions: int = 0
    images: int = 0
    train_pairs: int = 0
    scored_images: int = 0
    """Images that are embedded again with each checkpoint: all but those to train on."""
    reply_images: int = 0
    asked: int = 0
    """Prompts that images are asked of, for each checkpoint."""
    published: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    absent: dict[str, list[Path]] = field(default_factory=dict)


def read_workload(root: Path, params: Path) -> Workload:
    """What a parameter file asks for, its files as they are below `root`. Raises NearsafeError for a broken section."""
    knobs, entries = read_sources(params)
    values, found = load(params), Workload()
    for entry in entries:
        _add_source(found, entry, root / knobs.root, set((values["reply"].get("image_sets") or {}).values()))
    if not entries:
        _add_world(found, values)
    _add_prompts(found, root, params, values)
    return found


def _add_source(found: Workload, entry: Entry, root: Path, reply_splits: set[str]) -> None:
    absent = [path for path in _paths(entry) if not _there(root / path)]
    if absent:
        found.absent[entry.name] = [root / path for path in absent]
    counts = None if absent else _count(entry, root, reply_splits)
    if counts is None:
        counts = PUBLISHED.get("/".join(filter(None, (entry.kind, _part(entry.source)))))
        (found.unknown if counts is None else found.published).append(entry.name)
    for name, number in (counts or {}).items():
        setattr(found, name, getattr(found, name) + number)


def _part(source: Any) -> str:
    """Which part of the published data it takes; "" for all of a kind, a name that is in no table where none is known.

    Of CoPro the sizes of single lists and of other categories were not published.
    """
    if isinstance(source, copro.Source):
        whole = set(source.splits) == set(copro.LISTS) and set(source.splits.values()) == {TRAIN_SPLIT}
        categories = "all" if source.categories is None else "+".join(source.categories).casefold()
        return categories if whole else "part"
    if isinstance(source, coco.Source):
        return {1: "", None: "all captions"}.get(source.per_image, "part")
    return getattr(source, "set", None) or ""


def _count(entry: Entry, root: Path, reply_splits: set[str]) -> Mapping[str, int] | None:
    """Rows of a source; None where it takes too long, or its files cannot be read."""
    counts: Counter[str] = Counter()
    end = time.monotonic() + _SECONDS
    try:
        for record in entry.source.rows(root, Drops()):
            for row in record.rows:
                counts["captions"] += isinstance(row, CaptionRow)
                counts["images"] += isinstance(row, ImageRow)
                counts["scored_images"] += isinstance(row, ImageRow) and row.split != TRAIN_SPLIT
                counts["train_pairs"] += isinstance(row, PairRow) and row.split == TRAIN_SPLIT
                counts["reply_images"] += isinstance(row, ImageRow) and row.split in reply_splits
            if time.monotonic() > end:
                return None
    except NearsafeError:
        return None
    return counts


def _add_world(found: Workload, values: Mapping[str, Any]) -> None:
    """The embedded world's own numbers: pairs have two captions and two images."""
    world = values["world"]
    pairs, pools = world["train_pairs"] + world["test_pairs"], world["pool_unsafe"] * (1 + world["pool_ratio"])
    scenes = world["benchmark_scenes"] + world["validation_scenes"] + pools
    found.captions, found.train_pairs = 2 * pairs + scenes, world["train_pairs"]
    found.images = 2 * pairs + scenes + 5 * world["zero_shot_images"]
    found.scored_images = found.images - 2 * found.train_pairs
    sets = values["reply"].get("image_sets") or {}
    found.reply_images = len(sets) * (values["reply"].get("images_per_set") or world["zero_shot_images"])


def _add_prompts(found: Workload, root: Path, params: Path, values: Mapping[str, Any]) -> None:
    from pipeline.generation import GenerateParams
    from pipeline.params import section

    files = section(f"{params}:prompts", PromptsParams).files
    knobs = section(f"{params}:generate", GenerateParams)
    names = knobs.prompt_sets or tuple(files)
    for name in names:
        count: int | None = values["world"]["prompts"] if name.startswith("world_") else None
        if name in files:
            count = _prompts(found, name, files[name], root)
        if count is None:
            found.unknown.append(f"prompts {name}")
            continue
        limit = knobs.limit(names).get(name)
        own = files[name].limit if name in files else None
        found.asked += min(number for number in (count, limit, own) if number is not None)


def _prompts(found: Workload, name: str, file: Any, root: Path) -> int | None:
    if not (root / file.path).is_file():
        found.absent[f"prompts {name}"] = [root / file.path]
        if (count := PUBLISHED_PROMPTS.get(f"{file.schema}/{name}", PUBLISHED_PROMPTS.get(file.schema))) is not None:
            found.published.append(f"prompts {name}")
        return count
    try:
        return len(read_prompt_file(name, replace(file, path=root / file.path))[0])
    except NearsafeError:
        return None  # said by the check of prompt files


def _paths(entry: Entry) -> list[Path]:
    """Every path among the options of a source."""
    return [value for one in fields(entry.source) if isinstance(value := getattr(entry.source, one.name), Path)]


def _there(path: Path) -> bool:
    """Is it there? A pattern is where something fits it."""
    return path.exists() or ("*" in path.name and any(path.parent.glob(path.name)))
