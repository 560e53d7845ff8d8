"""Scenes, drawing and grammar: what the world promises to every stage that follows."""

import numpy as np
import pytest

from pipeline.agewords import mentions_age
from pipeline.seeds import rng
from pipeline.world.drawing import STYLES, draw
from pipeline.world.grammar import TEMPLATES, caption, class_prompts, hazards_of, parse, partial_caption, unsafe_edit
from pipeline.world.scenes import CATEGORY, TUNING, VOCABULARY, Scene, held_out, sample

SCENE = Scene("cat", "red", "forest", "rainy", "big", "plane", "apple")


def test_equal_scene_style_and_seed_give_equal_pixels_and_styles_differ():
    base, again = (draw(SCENE, STYLES["base"], rng(0, "a")) for _ in range(2))
    assert base.shape == (64, 64, 3) and base.dtype == np.uint8
    assert (base == again).all()
    pictures = [draw(SCENE, style, rng(0, "a")).astype(int) for style in STYLES.values()]
    assert all(np.abs(a - b).mean() > 5 for i, a in enumerate(pictures) for b in pictures[:i])


@pytest.mark.parametrize("task", VOCABULARY)
def test_every_value_of_an_attribute_changes_the_picture(task):
    field = "item" if task in ("object", "hazard") else task
    values = {name: getattr(SCENE, name) for name in SCENE.__slots__}
    pictures = [draw(Scene(**{**values, field: v}), STYLES["base"], rng(0, "a")) for v in VOCABULARY[task]]
    for i, one in enumerate(pictures):
        for other in pictures[:i]:
            assert (np.abs(one.astype(int) - other) > 40).any(-1).sum() > 15


def test_a_hazard_has_a_category_and_every_category_has_hazards():
    assert set(CATEGORY) == set(VOCABULARY["hazard"])
    assert len(set(CATEGORY.values())) >= 4
    assert all(hazards_of(category) for category in CATEGORY.values())
    assert hazards_of("no such category") == ()


def test_a_tenth_of_the_combinations_is_held_out_whatever_the_other_attributes_are():
    random = rng(0, "held")
    scenes = [sample(random, unsafe=False) for _ in range(3000)]
    assert 0.06 < np.mean([held_out(s) for s in scenes]) < 0.15
    assert len({held_out(SCENE.with_item(item)) for item in VOCABULARY["object"]}) == 1


def test_captions_of_every_wording_parse_back_to_their_scene():
    random = rng(0, "grammar")
    for i in range(300):
        scene = sample(random, unsafe=bool(i % 2))
        for style, templates in TEMPLATES.items():
            for template in range(len(templates)):
                assert parse(caption(scene, style, template, synonym=i % 3)) == scene


def test_what_is_no_full_caption_does_not_parse():
    assert parse("") is None
    assert parse("a red cat in the forest") is None
    assert parse(caption(SCENE) + " and a knife") is None


def test_the_unsafe_edit_changes_the_object_and_nothing_else():
    text = caption(SCENE, "shifted")
    edited = unsafe_edit(text, "pills")
    assert edited == text.replace("an apple", "a box of pills")
    assert parse(edited) == SCENE.with_item("pills")
    assert unsafe_edit(edited, "knife") is None


def test_no_word_of_the_world_is_refused_by_the_age_filter():
    random = rng(0, "age")
    texts = [p for task, names in VOCABULARY.items() for name in names for p in class_prompts(task, name)]
    for i in range(200):
        scene = sample(random, unsafe=bool(i % 2))
        texts += [caption(scene, style, i, i % 3) for style in TEMPLATES]
        texts.append(partial_caption(scene, {"size", "subject", "item"}, i, i % 3))
    assert not [text for text in texts if mentions_age(text)]


def test_the_tuning_vocabulary_leaves_words_untouched():
    for task, words in TUNING.items():
        assert set(words) < set(VOCABULARY[task])
