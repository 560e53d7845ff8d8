"""Recall at k against a plain sort, ties, chunks and bad input."""

import numpy as np
import pytest
import torch

from pipeline.metrics.retrieval import hits_at_k, ranks, recall_at_k, top, top1

RNG = np.random.default_rng(0)
QUERIES, GALLERY = RNG.normal(size=(40, 7)).astype(np.float32), RNG.normal(size=(25, 7)).astype(np.float32)
TRUE = RNG.integers(0, 25, 40)


def by_sorting():
    cosine = [[float(q @ g / np.linalg.norm(q) / np.linalg.norm(g)) for g in GALLERY] for q in QUERIES]
    return [sorted(range(25), key=lambda j: -row[j]).index(true) for row, true in zip(cosine, TRUE, strict=True)]


@pytest.mark.parametrize("k", [1, 5, 10, 25, 100])
def test_equals_a_sort_of_cosines(k):
    expected = np.array(by_sorting()) < k
    assert np.array_equal(hits_at_k(QUERIES, GALLERY, TRUE, k), expected)
    assert recall_at_k(QUERIES, GALLERY, TRUE, k) == expected.mean()
    tensors = [torch.from_numpy(x) for x in (QUERIES * 3, GALLERY * 7, TRUE)]  # cosine: lengths do not matter
    assert recall_at_k(*tensors, k) == expected.mean()


def test_chunks_cannot_change_a_rank():
    assert np.array_equal(ranks(QUERIES, GALLERY, TRUE, chunk=3), ranks(QUERIES, GALLERY, TRUE))
    assert np.array_equal(top1(QUERIES, GALLERY, chunk=3), [min(range(25), key=lambda j: -c[j]) for c in cosines()])


def test_the_best_items_are_those_of_a_sort():
    best, values = top(QUERIES, GALLERY, 4)
    expected = [sorted(range(25), key=lambda j: -row[j])[:4] for row in cosines()]
    assert best.tolist() == expected
    assert np.allclose(values, [[row[j] for j in own] for row, own in zip(cosines(), expected, strict=True)])
    assert np.array_equal(best[:, 0], top1(QUERIES, GALLERY))
    assert top(QUERIES, GALLERY, 99)[0].shape == (40, 25)


def cosines():
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (QUERIES, GALLERY)]
    return unit[0] @ unit[1].T


@pytest.mark.parametrize("size", [2, 37, 130])
def test_of_equal_scores_the_lower_index_comes_first(size):
    gallery = np.repeat(RNG.normal(size=(1, 33)), size, axis=0) * RNG.integers(1, 5, (size, 1))
    queries = np.repeat(RNG.normal(size=(1, 33)), size, axis=0)
    assert np.array_equal(ranks(queries, gallery, np.arange(size)), np.arange(size))
    assert (top1(queries, gallery) == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": QUERIES[:, :3]}, "queries are 3 wide, the gallery 7"),
        ({"queries": QUERIES[:0]}, "queries: expected vectors"),
        ({"gallery": np.where(np.arange(25)[:, None] == 4, np.nan, GALLERY)}, "gallery: row 4 has NaN"),
        ({"gallery": np.where(np.arange(25)[:, None] == 4, 0, GALLERY)}, "gallery: row 4 is a zero vector"),
        ({"positives": TRUE + 20}, "outside the gallery of 25"),
        ({"positives": TRUE - 25}, "outside the gallery"),
        ({"positives": TRUE[:3]}, r"expected \(40,\) integers"),
        ({"positives": TRUE.astype(float)}, "integers, got"),
        ({"k": 0}, "k must be at least 1"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {"queries": QUERIES, "gallery": GALLERY, "positives": TRUE, "k": 1, **change}
    with pytest.raises(ValueError, match=message):
        recall_at_k(**given)
