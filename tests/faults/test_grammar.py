"""Any text in: the caption grammar finds a scene or none, and whatever stands on it refuses the rest in one line."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.detectors.text import HazardWords
from pipeline.errors import NearsafeError
from pipeline.seeds import rng
from pipeline.world.drawing import STYLES, draw
from pipeline.world.grammar import PHRASES, TEMPLATES, caption, parse, unsafe_edit
from pipeline.world.paraphrasing import GrammarParaphraser, wordings
from pipeline.world.prompting import HAZARD_WORDS, derive_set
from pipeline.world.rewriting import GrammarRewriter, SceneRenderer
from pipeline.world.scenes import CATEGORY, VOCABULARY, Scene, sample
from tests.faults.record import record

EXAMPLES = 250
PAYLOADS = (
    "<script>alert(1)</script>", "'; DROP TABLE captions; --", "../../etc/passwd", "{size} {0.__class__}", "%s%n",
    "\x00", "\u202e", "\\1\\g<0>", "[a-z]*", "\n\n", "a" * 5000, "knife" * 3, "\U0001f52a", "ａ ｋｎｉｆｅ",
)  # fmt: skip
KINDS = ("paraphrased", "obfuscated", "indirect", "near", "invented")
PHRASE = st.sampled_from(sorted({phrase for task in PHRASES.values() for _, phrase in task}))
WORDS = st.lists(st.one_of(PHRASE, st.sampled_from(PAYLOADS), st.text(max_size=12)), max_size=14).map(" ".join)


@st.composite
def bent_captions(draw_: st.DrawFn) -> str:
    """A caption of the grammar, with something put in, taken out, doubled or turned."""
    text = _caption(draw_(st.integers(0, 2**32 - 1)))
    for _ in range(draw_(st.integers(0, 3))):
        start, end = sorted(draw_(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
        change = draw_(st.sampled_from(("cut", "double", "upper", "put", "phrase")))
        inside = {
            "cut": "", "double": text[start:end] * 2, "upper": text[start:end].upper(),
            "put": draw_(st.sampled_from(PAYLOADS)), "phrase": f" {draw_(PHRASE)} ",
        }[change]  # fmt: skip
        text = text[:start] + inside + text[end:]
    return text


def _caption(seed: int) -> str:
    random = np.random.default_rng(seed)
    style = tuple(TEMPLATES)[random.integers(len(TEMPLATES))]
    return caption(sample(random, bool(seed % 2)), style, int(random.integers(9)), int(random.integers(9)))


TEXTS = st.one_of(bent_captions(), WORDS, st.text(max_size=200))


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
@given(TEXTS)
def any_text_is_a_scene_or_none(text: str) -> None:
    scene = parse(text)
    if scene is None:
        assert GrammarParaphraser().paraphrase([text]) == [[]]
    else:
        item = "hazard" if scene.unsafe else "object"
        assert all(getattr(scene, task) in VOCABULARY[task] for task in VOCABULARY if task not in ("object", "hazard"))
        assert scene.item in VOCABULARY[item] and set(scene.labels()) == set(VOCABULARY) - {"object", "hazard"} | {item}
        assert all(parse(other) == scene for other in wordings(scene))
    for style in STYLES:
        (image, error) = _try(lambda style=style: SceneRenderer(style, 0).render([text], ["name"])[0])
        assert (image is None) == (scene is None) and (error is None or "grammar did not write" in error)
        assert image is None or (image.shape, image.dtype) == ((64, 64, 3), np.uint8)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
@given(TEXTS, st.one_of(st.sampled_from(sorted(set(CATEGORY.values()))), st.text(max_size=20)))
def any_text_is_edited_or_left(text: str, category: str) -> None:
    for hazard in VOCABULARY["hazard"]:
        edited = unsafe_edit(text, hazard)
        if edited is not None and (scene := parse(text)) is not None and not scene.unsafe:
            assert parse(edited) in (scene.with_item(hazard), None)  # None: it named a hazard already
    rewritten, error = _try(lambda: GrammarRewriter(0).rewrite([text], [category]))
    assert (error is None) == (category in CATEGORY.values())
    assert error is not None or rewritten == GrammarRewriter(0).rewrite([text], [category])
    (found,) = HazardWords().detect([text])
    assert {one.label for one in found} <= set(VOCABULARY["hazard"])


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
@given(TEXTS, st.sampled_from(KINDS))
def any_prompt_is_derived_or_refused(text: str, kind: str) -> None:
    row = {"prompt_id": "q0", "prompt_set": "world_unsafe", "text": text, "guidance": None, "seed": None}
    made, error = _try(lambda: derive_set(kind, [row], 0))
    if error is None:
        ((prompt,), labels) = made
        assert parse(text).unsafe and prompt["text"].strip() and prompt["unsafe"] == (prompt["category"] is not None)
        assert {label["item_id"] for label in labels} <= {prompt["prompt_id"]}
    elif (scene := parse(text)) is not None and scene.unsafe:
        # The hazard is named by another word, or more than once.
        assert kind not in ("paraphrased",) and HAZARD_WORDS[scene.item]


def _try(work):
    try:
        return work(), None
    except NearsafeError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
        return None, str(error)


def test_any_text_is_a_scene_or_none() -> None:
    any_text_is_a_scene_or_none()
    record("caption grammar: texts parsed and drawn", EXAMPLES, EXAMPLES, "a scene and its image, or one line")


def test_any_text_is_edited_or_left() -> None:
    any_text_is_edited_or_left()
    record("caption grammar: texts rewritten", EXAMPLES, EXAMPLES, "an edit, none, or one line")


def test_any_prompt_is_derived_or_refused() -> None:
    any_prompt_is_derived_or_refused()
    record("caption grammar: prompts derived", EXAMPLES, EXAMPLES, "a prompt, or one line")


def test_every_scene_can_be_drawn_in_every_style() -> None:
    """Each value of each attribute, with any others."""
    random = np.random.default_rng(0)
    scenes = []
    for task, values in VOCABULARY.items():
        for value in values:
            scene = sample(random, task == "hazard")
            facts = {name: getattr(scene, name) for name in Scene.__slots__}
            scenes.append(Scene(**{**facts, "item" if task in ("object", "hazard") else task: value}))
    for scene in scenes:
        for style in STYLES.values():
            first, second = (draw(scene, style, rng(0, "fuzz", scene.family)) for _ in range(2))
            assert first.shape == (64, 64, 3) and np.array_equal(first, second)
    record("caption grammar: scenes drawn", 3 * len(scenes), 3 * len(scenes), "every attribute in every style")
