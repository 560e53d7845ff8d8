"""Prompt sets of the embedded world, derived from its plain hazard prompts: one derived prompt for each.

paraphrased: the scene in the words of another style, or only a part of it; the hazard keeps its name.
indirect: the plain wording, the hazard named by a synonym or a description.
obfuscated: the plain wording, the hazard's name misspelt (`pipeline.attacks.obfuscation`).
near: the plain wording with a safe object in place of the hazard: a control for false positives.
invented: the plain wording with a word that means nothing in place of the hazard: a control for `obfuscated`, since the
    generator draws a hazard for many a word that it does not know.

Choices are drawn by the id of the plain prompt. A derived prompt also has the plain one's noise: what differs between
the images of a prompt and of its disguise is the words.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from pipeline.attacks.obfuscation import obfuscate
from pipeline.errors import NearsafeError
from pipeline.ids import content_id
from pipeline.prompts import noise_seed
from pipeline.seeds import derive, rng
from pipeline.world.grammar import SYNONYMS, TEMPLATES, article, caption, item_phrase, parse, partial_caption
from pipeline.world.scenes import VOCABULARY, Scene

Row = dict[str, Any]
Kind = Literal["paraphrased", "obfuscated", "indirect", "near", "invented"]
SOURCE = "world_unsafe"
# The words of `item_phrase` that name the hazard; "a box of pills" hides nothing where it keeps its pills.
HAZARD_WORDS: dict[str, tuple[str, ...]] = {
    **{hazard: (hazard,) for hazard in VOCABULARY["hazard"]},
    "spraycan": ("spray", "can"),
}
INVENTED = ("flurb", "zibble", "morvek", "plonta", "quast", "trindle", "vopper", "gleem")
_OTHER_STYLES = tuple((style, n) for style in ("shifted", "sketch") for n in range(len(TEMPLATES[style])))
_SURROUNDINGS = ("size", "colour", "subject", "place", "weather", "flyer")


class Derived(NamedTuple):
    """A text, the scene that it asks for, and the tasks of the scene's labels that it names."""

    text: str
    scene: Scene
    named: frozenset[str]

    @property
    def category(self) -> str | None:
        """Of the hazard that the text asks for, None where it asks for none."""
        return self.scene.category if "hazard" in self.named else None


def derive_set(kind: Kind, plain: list[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """Rows of tables "prompts" (set world_<kind>) and "labels" (shift "prompt"), one prompt per plain hazard prompt.

    Raises NearsafeError for a prompt that the world's grammar did not write, or that asks for no hazard.
    """
    prompt_set = f"world_{kind}"
    prompts, labels = [], []
    for row in plain:
        scene = parse(row["text"])
        if scene is None or not scene.unsafe:
            raise NearsafeError(f"prompts: {prompt_set}: prompt {row['prompt_id']!r} is no hazard prompt of the world")
        made = _KINDS[kind](scene, row["text"], seed, row["prompt_id"])
        prompt_id = content_id(prompt_set, made.text, prefix="q")
        facts = {"category": made.category, "unsafe": made.category is not None, "guidance": row["guidance"]}
        prompt = {"prompt_id": prompt_id, "prompt_set": prompt_set, "text": made.text, **facts}
        prompts.append({**prompt, "seed": noise_seed(seed, row)})
        labels += [
            {"item_id": prompt_id, "task": task, "class_id": value, "shift": "prompt"}
            for task, value in made.scene.labels().items()
            if task in made.named
        ]
    return prompts, labels


def _paraphrased(scene: Scene, text: str, seed: int, name: str) -> Derived:
    random = rng(seed, "prompts", "paraphrased", name)
    if random.random() < 0.5:
        style, template = _OTHER_STYLES[random.integers(len(_OTHER_STYLES))]
        return _whole(caption(scene, style, template), scene)
    # Three to five of six attributes: a wording that the plain templates do not have, and still few prompts alike.
    count = int(random.integers(3, len(_SURROUNDINGS)))
    keep = set(random.choice(_SURROUNDINGS, count, replace=False).tolist())
    words = partial_caption(scene, keep | {"item"}, int(random.integers(10)))
    return Derived(words, scene, frozenset(keep | {"hazard"}))


def _obfuscated(scene: Scene, text: str, seed: int, name: str) -> Derived:
    _check_once(text, scene)
    words = HAZARD_WORDS[scene.item]
    return _whole(obfuscate(text, words, derive(seed, "prompts", "obfuscated", name)), scene)


def _indirect(scene: Scene, text: str, seed: int, name: str) -> Derived:
    synonym = 1 + int(rng(seed, "prompts", "indirect", name).integers(len(SYNONYMS[scene.item])))
    return _whole(_with(text, scene, item_phrase(scene.item, synonym)), scene)


def _near(scene: Scene, text: str, seed: int, name: str) -> Derived:
    objects = VOCABULARY["object"]
    item = objects[rng(seed, "prompts", "near", name).integers(len(objects))]
    return _whole(_with(text, scene, item_phrase(item)), scene.with_item(item))


def _invented(scene: Scene, text: str, seed: int, name: str) -> Derived:
    word = INVENTED[rng(seed, "prompts", "invented", name).integers(len(INVENTED))]
    return Derived(_with(text, scene, article(word)), scene, frozenset(scene.labels()) - {"hazard"})


def _with(text: str, scene: Scene, phrase: str) -> str:
    """The plain text with the hazard's phrase replaced. Raises NearsafeError where it is not there exactly once."""
    _check_once(text, scene)
    return text.replace(item_phrase(scene.item), phrase)


def _check_once(text: str, scene: Scene) -> None:
    plain = item_phrase(scene.item)
    if text.count(plain) != 1:
        raise NearsafeError(f"prompts: {plain!r} appears {text.count(plain)} times in a plain prompt, expected once")


def _whole(text: str, scene: Scene) -> Derived:
    return Derived(text, scene, frozenset(scene.labels()))


_KINDS: dict[Kind, Callable[[Scene, str, int, str], Derived]] = {
    "paraphrased": _paraphrased,
    "obfuscated": _obfuscated,
    "indirect": _indirect,
    "near": _near,
    "invented": _invented,
}
