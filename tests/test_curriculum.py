"""Cuts and nested epochs."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.curriculum import BucketParams, bucket_pairs, difficulty, epoch_rows
from pipeline.errors import NearsafeError
from pipeline.params import build


def test_quantile_cuts_give_thirds_high_cosine_easy():
    levels = difficulty(np.linspace(0, 1, 9), "quantile", (1 / 3, 2 / 3))
    assert levels.tolist() == ["hard"] * 3 + ["medium"] * 3 + ["easy"] * 3


def test_absolute_cuts_include_their_lower_end():
    assert difficulty([0.2, 0.5, 0.6, 0.8, 0.9], "absolute", (0.5, 0.8)).tolist() == [
        "hard", "medium", "medium", "easy", "easy"
    ]  # fmt: skip


def test_equal_cosines_fall_together():
    assert set(difficulty([0.7] * 5, "quantile", (1 / 3, 2 / 3))) == {"easy"}


def test_epochs_are_nested_and_cumulative():
    levels = np.array(["hard", "easy", "medium", "easy", "hard"])
    assert epoch_rows(levels, 1).tolist() == [1, 3]
    assert epoch_rows(levels, 2).tolist() == [1, 2, 3]
    for epoch in (3, 4, 9):
        assert epoch_rows(levels, epoch).tolist() == [0, 1, 2, 3, 4]
    assert epoch_rows(levels, 1, curriculum=False).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="epochs count from 1"):
        epoch_rows(levels, 0)


def targets() -> pa.Table:
    return pa.table({
        "pair_id": ["b", "b", "a", "a"], "rank": pa.array([0, 1, 0, 1], pa.int32()), "target_pair_id": ["a"] * 4,
        "cosine": pa.array([0.9, 0.8, 0.4, 0.3], pa.float32()),
        "cosine_given": pa.array([0.1, 0.1, 0.7, 0.7], pa.float32()),
    })  # fmt: skip


@pytest.mark.parametrize("measure, levels", [("nearest", ["hard", "easy"]), ("given", ["easy", "hard"])])
def test_the_measure_chooses_the_cosine(measure, levels):
    buckets = bucket_pairs(targets(), BucketParams(measure, "absolute", (0.5, 0.6)))
    assert buckets["pair_id"].tolist() == ["a", "b"] and buckets["difficulty"].tolist() == levels


@pytest.mark.parametrize("values", [[0.7, 0.3], [-0.1, 0.5], [0.1, 1.1]])
def test_cuts_that_make_no_sense_are_refused(values):
    with pytest.raises(NearsafeError, match="two ascending quantile cuts"):
        build(BucketParams, {"measure": "given", "cuts": "quantile", "values": values}, "params.yaml: buckets")
