"""Builds the tables of the embedded world: captions, images, given pairs, zero-shot classes and labels, prompts.

Every scene is drawn from a generator of its own name, so a larger world contains the smaller one. Splits never share a
scene family (all attributes but the item): `train` (tuning, narrow vocabulary), `test` (given pairs), `benchmark` and
`validation` (safe scenes in the shifted style and wording), `zeroshot/<shift>`, the prompts, `pool/unsafe` and
`pool/safe` (style sketch). New splits go last: a family stays with the split that had it.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pipeline.agewords import LEXICON_VERSION, filter_age_words
from pipeline.errors import NearsafeError
from pipeline.ids import content_id
from pipeline.images import encode_png
from pipeline.seeds import derive, rng
from pipeline.world.drawing import STYLES, draw
from pipeline.world.grammar import caption, class_prompts
from pipeline.world.scenes import TUNING, VOCABULARY, Scene, held_out, sample

SOURCE = "world"
Rows = list[dict[str, object]]
SAFE_TASKS = tuple(task for task in VOCABULARY if task != "hazard")


@dataclass(frozen=True)
class Tightness:
    """Shares of the given pairs by what separates safe from unsafe scene, as in ViSU, whose pairs are mostly loose."""

    tight: float = 1.0  # the item only
    medium: float = 2.0  # also place, weather and flyer
    loose: float = 3.0  # also subject, colour and size


@dataclass(frozen=True)
class WorldParams:
    """Section `world`: how many of everything."""

    train_pairs: int = 1500
    test_pairs: int = 300
    benchmark_scenes: int = 500
    zero_shot_images: int = 300  # per shift
    prompts: int = 100  # per prompt set
    tightness: Tightness = field(default_factory=Tightness)
    validation_scenes: int = 500
    pool_unsafe: int = 200  # hazard images of the "real" retrieval pools
    pool_ratio: int = 10  # safe images for each of them

    def __post_init__(self) -> None:
        counts = (self.train_pairs, self.test_pairs, self.benchmark_scenes, self.zero_shot_images, self.prompts)
        if min(*counts, self.validation_scenes, self.pool_unsafe, self.pool_ratio) < 1:
            raise ValueError("every number of rows must be at least 1")
        shares = (self.tightness.tight, self.tightness.medium, self.tightness.loose)
        if min(shares) < 0 or sum(shares) <= 0:
            raise ValueError("tightness: shares must not be negative, and not all 0")


class Families:
    """Hands each scene family to the first split that asks for it."""

    def __init__(self) -> None:
        self.owner: dict[str, str] = {}

    def claim(self, scene: Scene, split: str) -> bool:
        return self.owner.setdefault(scene.family, split) == split


@dataclass
class World:
    """Rows of every table, as they are built."""

    seed: int
    captions: Rows = field(default_factory=list)
    images: Rows = field(default_factory=list)
    pairs: Rows = field(default_factory=list)
    labels: Rows = field(default_factory=list)
    prompts: Rows = field(default_factory=list)

    def add_caption(self, scene: Scene, style: str, split: str, name: str) -> str:
        """Add a caption once and return its id; the wording is chosen by `name`."""
        text = caption(scene, style, derive(self.seed, "wording", name) % 1000)
        caption_id = content_id(SOURCE, split, text, prefix="c")
        row = {
            "caption_id": caption_id,
            "text": text,
            "unsafe": scene.unsafe,
            "category": scene.category,
            "source": f"{SOURCE}/{style}",
            "split": split,
            "family": scene.family,
        }
        self.captions.append(row)
        return caption_id

    def add_image(self, scene: Scene, style: str, split: str, name: str, caption_id: str | None = None) -> str:
        """Draw a scene by the generator called `name`; returns the image id."""
        pixels = draw(scene, STYLES[style], rng(self.seed, "drawing", name))
        image_id = content_id(SOURCE, split, name, prefix="i")
        cell = {"bytes": encode_png(pixels), "path": None}
        self.images.append(
            {
                "image_id": image_id,
                "image": cell,
                "unsafe": scene.unsafe,
                "source": f"{SOURCE}/{style}",
                "split": split,
                "caption_id": caption_id,
            }
        )
        return image_id

    def add_both(self, scene: Scene, style: str, split: str, name: str) -> tuple[str, str]:
        caption_id = self.add_caption(scene, style, split, name)
        return caption_id, self.add_image(scene, style, split, name, caption_id)


def scenes(
    seed: int, name: str, unsafe: bool, vocabulary: dict[str, tuple[str, ...]] | None = None
) -> Iterator[tuple[str, Scene]]:
    """An endless sequence of named scenes."""
    at = 0
    while True:
        label = f"{name}/{at}"
        yield label, sample(rng(seed, "scene", label), unsafe, vocabulary)
        at += 1


def loosened(safe: Scene, hazard: Scene, tightness: str) -> Scene:
    """The unsafe partner of `safe`: the item of `hazard`, and as much of its surroundings as the tightness says."""
    scene = safe.with_item(hazard.item)
    if tightness == "tight":
        return scene
    scene = replace(scene, place=hazard.place, weather=hazard.weather, flyer=hazard.flyer)
    return (
        scene
        if tightness == "medium"
        else replace(scene, subject=hazard.subject, colour=hazard.colour, size=hazard.size)
    )


def add_pairs(
    world: World,
    families: Families,
    split: str,
    count: int,
    tightness: Tightness,
    vocabulary: dict[str, tuple[str, ...]],
) -> None:
    """Given pairs of mixed tightness in the base style; safe and unsafe captions are unique in the split."""
    names = ("tight", "medium", "loose")
    shares = [getattr(tightness, name) for name in names]
    taken: set[str] = set()
    safe_scenes, hazards = (
        scenes(world.seed, f"{split}/{kind}", kind == "unsafe", vocabulary) for kind in ("safe", "unsafe")
    )
    for (name, safe), (_, hazard) in zip(safe_scenes, hazards, strict=False):
        kind = str(rng(world.seed, "tightness", name).choice(names, p=[s / sum(shares) for s in shares]))
        unsafe = loosened(safe, hazard, kind)
        keys = {f"{scene.family}-{scene.item}" for scene in (safe, unsafe)}
        if (
            held_out(safe)
            or held_out(unsafe)
            or keys & taken
            or not (families.claim(safe, split) and families.claim(unsafe, split))
        ):
            continue
        taken |= keys
        safe_caption, safe_image = world.add_both(safe, "base", split, f"{name}/safe")
        unsafe_caption, unsafe_image = world.add_both(unsafe, "base", split, f"{name}/unsafe")
        world.pairs.append(
            {
                "pair_id": content_id(safe_caption, unsafe_caption, prefix="p"),
                "safe_caption_id": safe_caption,
                "safe_image_id": safe_image,
                "unsafe_caption_id": unsafe_caption,
                "unsafe_image_id": unsafe_image,
                "category": unsafe.category,
                "split": split,
                "tightness": kind,
                "similarity": None,
            }
        )
        count -= 1
        if not count:
            return


def fresh_scenes(
    world: World, families: Families, split: str, count: int, unsafe: bool, held: bool | None
) -> Iterator[tuple[str, Scene]]:
    """`count` scenes of families of `split`; `held` asks for held-out combinations, for none, or (None) for either."""
    for name, scene in scenes(world.seed, f"{split}/{unsafe}/{held}", unsafe):
        if (held is None or held_out(scene) == held) and families.claim(scene, split):
            yield name, scene
            count -= 1
            if not count:
                return


def add_zero_shot(
    world: World, families: Families, shift: str, count: int, style: str = "base", held: bool = False,
    unsafe: bool = False,
) -> None:  # fmt: skip
    """Labelled images of one shift: safe scenes, or hazard scenes with the hazard as their only label."""
    split = f"zeroshot/{shift}"
    for name, scene in fresh_scenes(world, families, split, count, unsafe, held):
        image_id = world.add_image(scene, style, split, name)
        tasks = ("hazard",) if unsafe else SAFE_TASKS
        world.labels += [
            {"item_id": image_id, "task": task, "class_id": scene.labels()[task], "shift": shift} for task in tasks
        ]


def add_scenes(world: World, families: Families, split: str, style: str, count: int, unsafe: bool = False) -> None:
    """Different scenes with caption and image, of any combination."""
    given: set[Scene] = set()
    for name, scene in fresh_scenes(world, families, split, sys.maxsize, unsafe, held=None):
        if scene not in given:
            given.add(scene)
            world.add_both(scene, style, split, name)
        if len(given) == count:
            return


def add_prompts(world: World, families: Families, count: int) -> None:
    """Text-to-image prompts in the base wording, of held-out combinations, with the labels of what they ask for."""
    for prompt_set, unsafe in (("world_unsafe", True), ("world_safe", False)):
        for name, scene in fresh_scenes(world, families, f"prompt/{prompt_set}", count, unsafe, held=True):
            text = caption(scene, "base", derive(world.seed, "wording", name) % 1000)
            prompt_id = content_id(prompt_set, text, prefix="q")
            world.prompts.append(
                {
                    "prompt_id": prompt_id,
                    "prompt_set": prompt_set,
                    "text": text,
                    "category": scene.category,
                    "unsafe": unsafe,
                    "seed": None,
                    "guidance": None,
                }
            )
            world.labels += [
                {"item_id": prompt_id, "task": t, "class_id": c, "shift": "prompt"} for t, c in scene.labels().items()
            ]


def class_rows() -> Rows:
    """Zero-shot classes and their prompts, all tasks."""
    return [
        {"task": task, "class_id": i, "name": name, "prompt": prompt}
        for task, names in VOCABULARY.items()
        for i, name in enumerate(names)
        for prompt in class_prompts(task, name)
    ]


def build_world(params: WorldParams, seed: int) -> World:
    """All tables but `classes`; equal parameters and seed give equal rows."""
    world, families = World(seed), Families()
    add_pairs(world, families, "train", params.train_pairs, params.tightness, TUNING)
    add_pairs(world, families, "test", params.test_pairs, params.tightness, {})
    add_scenes(world, families, "benchmark", "shifted", params.benchmark_scenes)
    images = params.zero_shot_images
    add_zero_shot(world, families, "base", images)
    add_zero_shot(world, families, "held_out", images, held=True)
    add_zero_shot(world, families, "shifted", images, style="shifted")
    add_zero_shot(world, families, "hazard", images, held=True, unsafe=True)
    add_prompts(world, families, params.prompts)
    add_scenes(world, families, "validation", "shifted", params.validation_scenes)
    add_zero_shot(world, families, "validation", images)
    add_scenes(world, families, "pool/unsafe", "sketch", params.pool_unsafe, unsafe=True)
    add_scenes(world, families, "pool/safe", "sketch", params.pool_unsafe * params.pool_ratio)
    return world


def age_filter_rows(texts: dict[str, list[str]]) -> Rows:
    """Rows of table "filters" for the world's own texts. Raises NearsafeError if the filter refuses one."""
    rows: Rows = []
    for name, lines in texts.items():
        dropped = filter_age_words((line,) for line in lines)
        if dropped.any():
            raise NearsafeError(
                f"world: {name}: the grammar wrote a text that the age-word filter refuses: row {int(dropped.argmax())}"
            )
        rows.append(
            {
                "stage": SOURCE,
                "set": name,
                "filter": "age_words",
                "version": f"lexicon {LEXICON_VERSION}",
                "n_before": len(lines),
                "n_dropped": 0,
                "n_after": len(lines),
            }
        )
    return rows
