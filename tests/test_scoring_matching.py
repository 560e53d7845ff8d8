"""Generated images held against the real images of their own prompts."""

import numpy as np
import pytest
import torch

from pipeline.images import image_cell
from pipeline.layout import table_file
from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.rows import Scores
from pipeline.models.clip import load_clip
from pipeline.scoring_items import Encoder
from pipeline.scoring_matching import MATCHING, Matching, embed_matching, real_images
from pipeline.tables import Output
from pipeline.vectors import normalise
from tests.models.tiny import save_clip
from tests.worldlet import picture


def write_world(path, origins):
    """Three images, and what belongs together."""
    images = [
        {"image_id": f"i{n}", "image": image_cell(picture(n)), "unsafe": False, "source": "coco", "split": "test",
         "caption_id": None}
        for n in range(3)
    ]  # fmt: skip
    world = Output(path, {"stage": "world"})
    world.write(table_file("images"), "images", images)
    captions = [("c0", "a cup on a table"), ("c2", "a dog"), ("c1", "a dog"), ("c9", "a boat")]
    rows = [
        {"caption_id": item, "text": text, "unsafe": False, "category": None, "source": "coco", "split": "test",
         "family": item}
        for item, text in captions
    ]  # fmt: skip
    world.write(table_file("captions"), "captions", rows)
    if origins:
        rows = [{"item_id": item, "source": source, "origin": origin} for item, source, origin in origins]
        world.write(table_file("origins"), "origins", rows)
    world.finish()
    return path


def test_a_prompt_has_the_image_of_its_own_source_and_origin(tmp_path):
    known = [
        ("i0", "coco", "7"), ("c0", "coco", "7"), ("q0", "coco", "7"),
        ("i1", "nocaps", "7"), ("q1", "nocaps", "7"),
        ("q2", "coco", "8"), ("i9", "coco", "8"),
        ("q3", "coco", "9"), ("i2", "coco", "9"),
    ]  # fmt: skip
    world = write_world(tmp_path / "world", known)
    asked = dict.fromkeys(("q0", "q1", "q2", "other"), "a dog")
    assert real_images(world, asked) == {"q0": "i0", "q1": "i1"}, "i9 is not there, q3 not asked"
    assert real_images(write_world(tmp_path / "plain", []), asked) == {}


def test_a_prompt_of_a_file_has_the_image_of_a_caption_with_its_words(tmp_path):
    known = [
        ("i0", "coco", "7"), ("c0", "coco", "7"), ("q0", "coco", "7"),
        ("i1", "coco", "8"), ("c1", "coco", "8"), ("i2", "coco", "9"), ("c2", "coco", "9"), ("c9", "coco", "10"),
    ]  # fmt: skip
    world = write_world(tmp_path / "world", known)
    texts = {"q0": "other words", "f0": "a cup on a table", "f1": "a dog", "f2": "a boat", "f3": "A dog"}
    assert real_images(world, texts) == {"q0": "i0", "f0": "i0", "f1": "i2"}, "a boat has no image; words are exact"


def test_the_embeddings_are_those_of_the_images(tmp_path):
    save_clip(tmp_path / "clip")
    encoder = Encoder(load_clip(tmp_path / "clip"), 2)
    world = write_world(tmp_path / "world", [])
    matching = embed_matching({"q0": "i2", "q1": "i0", "q2": "i2"}, encoder, world)
    expected = encoder.images(world, ["i0", "i2"])
    for prompt, image in (("q0", "i2"), ("q1", "i0"), ("q2", "i2")):
        torch.testing.assert_close(matching.values[matching.image[prompt]], expected.of([image])[0])


def test_the_distance_is_that_of_prompts_that_have_an_image(tmp_path):
    draw = torch.Generator().manual_seed(0)
    real, made = (normalise(torch.randn(count, 4, generator=draw), [""] * count, "test") for count in (6, 9))
    matching = Matching({f"q{n}": n for n in range(6)}, real)
    asked = ["q1", "none", "q2", "q3", "q5", "nor", "q4"]
    scores = Scores("d", 0, "model")
    matching.score(scores, "generation/coco", asked, 7 * made[:7], "clip@x", "data", 20, 0)  # lengths do not matter
    (row,) = scores.rows
    expected = frechet_distance(real[1:6], made[[0, 2, 3, 4, 6]])
    assert row["value"] == pytest.approx(expected)
    assert (row["protocol"], row["metric"], row["detector"], row["n"]) == (MATCHING, "frechet_distance", "clip@x", 5)
    assert row["ci_low"] <= row["value"] <= row["ci_high"]
    matching.score(scores, "generation/coco", ["q1", "none"], made[:2], "clip@x", "data", 20, 0)
    shared = Matching({"q0": 0, "q1": 0}, real)
    shared.score(scores, "generation/coco", ["q0", "q1"], made[:2], "clip@x", "data", 20, 0)
    assert len(scores.rows) == 1, "one image has no covariance"
    assert np.isfinite(row["value"])
