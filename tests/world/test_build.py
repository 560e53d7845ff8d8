"""The world's tables: splits that do not leak, counts, determinism, one clear error for a wrong parameter."""

import dataclasses
from collections import Counter

import pytest

from pipeline.errors import NearsafeError
from pipeline.params import build
from pipeline.tables import read_output
from pipeline.world.build import Tightness, WorldParams, age_filter_rows, build_world, class_rows
from pipeline.world.grammar import parse
from pipeline.world.scenes import TUNING, held_out
from stages import world as stage

SMALL = WorldParams(
    train_pairs=40, test_pairs=10, benchmark_scenes=12, zero_shot_images=6, prompts=5, tightness=Tightness(1, 1, 1),
    validation_scenes=7, pool_unsafe=3, pool_ratio=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def small():
    return build_world(SMALL, seed=0)


def test_the_asked_numbers_are_there(small):
    assert Counter(row["split"] for row in small.pairs) == {"train": 40, "test": 10}
    assert Counter(row["prompt_set"] for row in small.prompts) == {"world_unsafe": 5, "world_safe": 5}
    images = Counter((row["split"], row["source"], row["unsafe"]) for row in small.images)
    assert images["benchmark", "world/shifted", False] == 12
    assert images["validation", "world/shifted", False] == 7
    assert images["zeroshot/validation", "world/base", False] == 6
    assert images["pool/unsafe", "world/sketch", True] == 3
    assert images["pool/safe", "world/sketch", False] == 12
    assert {row["shift"] for row in small.labels} == {"base", "held_out", "shifted", "hazard", "validation", "prompt"}


def test_new_splits_change_no_row_of_the_others(small):
    """Splits that were there before the later ones keep every row: those are made last."""
    less = build_world(dataclasses.replace(SMALL, validation_scenes=1, pool_unsafe=1, pool_ratio=1), seed=0)
    late = ("validation", "zeroshot/validation", "pool/unsafe", "pool/safe")
    for table in ("captions", "images"):
        early = [row for row in getattr(small, table) if row["split"] not in late]
        assert early and early == [row for row in getattr(less, table) if row["split"] not in late]
    assert small.prompts == less.prompts and small.pairs == less.pairs


def test_scenes_of_a_pool_are_all_different_and_have_caption_and_image(small):
    texts = {row["caption_id"]: row["text"] for row in small.captions}
    for split in ("validation", "pool/unsafe", "pool/safe"):
        scenes = [parse(texts[row["caption_id"]]) for row in small.images if row["split"] == split]
        assert len(set(scenes)) == len(scenes) > 0


def test_no_scene_family_is_in_two_splits(small):
    owners = {}
    for row in small.captions:
        assert owners.setdefault(row["family"], row["split"]) == row["split"]
    for row in small.prompts:
        assert parse(row["text"]).family not in owners


def test_pairs_differ_as_much_as_their_tightness_says(small):
    scenes = {row["caption_id"]: parse(row["text"]) for row in small.captions}
    for row in small.pairs:
        safe, unsafe = scenes[row["safe_caption_id"]], scenes[row["unsafe_caption_id"]]
        assert not safe.unsafe and unsafe.unsafe and unsafe.category == row["category"]
        same = {name for name in ("subject", "colour", "size", "place") if getattr(safe, name) == getattr(unsafe, name)}
        if row["tightness"] == "tight":
            assert safe.family == unsafe.family
        elif row["tightness"] == "medium":
            assert same >= {"subject", "colour", "size"}


def test_tuning_uses_its_vocabulary_and_never_a_held_out_combination(small):
    for row in small.captions:
        scene = parse(row["text"])
        if row["split"] == "train":
            assert all(getattr(scene, task) in words for task, words in TUNING.items())
        if row["split"] in ("train", "test"):
            assert not held_out(scene)


def test_equal_seeds_give_equal_tables_and_a_larger_world_contains_the_smaller(small):
    again = build_world(SMALL, seed=0)
    assert again.captions == small.captions and again.images == small.images
    larger = build_world(dataclasses.replace(SMALL, train_pairs=60), seed=0)
    ids = {row["pair_id"] for row in larger.pairs}
    assert {row["pair_id"] for row in small.pairs if row["split"] == "train"} <= ids
    assert build_world(SMALL, seed=1).captions != small.captions


def test_the_stage_writes_tables_that_read_back(tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text(
        "seed: 0\nworld: {train_pairs: 20, test_pairs: 4, benchmark_scenes: 5, zero_shot_images: 3, prompts: 3, "
        "validation_scenes: 3, pool_unsafe: 2, pool_ratio: 2}\nsources: {}\n"
    )
    stage.main(params, tmp_path / "world")
    for table in ("captions", "images", "pairs", "classes", "labels", "prompts", "filters"):
        assert read_output(tmp_path / "world", table).num_rows > 0
    assert {row["n_dropped"] for row in read_output(tmp_path / "world", "filters").to_pylist()} == {0}


@pytest.mark.parametrize(
    "values, named",
    [
        ({"train_pairs": 0}, "at least 1"),
        ({"pool_ratio": 0}, "at least 1"),
        ({"tightness": {"tight": -1}}, "tightness"),
        ({"trian_pairs": 3}, "trian_pairs"),
    ],
)
def test_a_wrong_parameter_is_named(values, named):
    with pytest.raises(NearsafeError, match=named):
        build(WorldParams, values, "params.yaml: world")


def test_a_text_that_the_age_filter_refuses_stops_the_world():
    with pytest.raises(NearsafeError, match=r"captions.*row 1"):
        age_filter_rows({"captions": ["a red cat", "a toddler"]})


def test_class_prompts_are_unique_per_class():
    rows = class_rows()
    assert len({(r["task"], r["class_id"], r["prompt"]) for r in rows}) == len(rows)
