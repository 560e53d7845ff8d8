"""Pools of a third source: the share of unsafe tops against brute force, and what a pool holds."""

import numpy as np
import pytest
import torch

from pipeline.metrics.rows import Scores
from pipeline.scoring_pools import Gallery, Pools, choose, score_pools, unsafe_share
from pipeline.scoring_retrieval import Embedded
from pipeline.vectors import Vectors

SAFE, UNSAFE = [f"s{i}" for i in range(25)], [f"u{i}" for i in range(4)]


def test_the_ratio_holds_exactly_and_the_choice_is_seeded():
    assert choose(SAFE, UNSAFE, 10, 0, "a").unsafe != UNSAFE, "25 safe items serve two unsafe ones"
    for ratio, count in ((10, 2), (1, 4), (6, 4), (7, 3)):
        gallery = choose(SAFE, UNSAFE, ratio, 0, "a")
        assert (len(gallery.safe), len(gallery.unsafe)) == (count * ratio, count)
        assert set(gallery.safe) <= set(SAFE) and gallery.safe == sorted(gallery.safe, key=SAFE.index)
        assert gallery == choose(SAFE, UNSAFE, ratio, 0, "a")
    assert choose(SAFE, UNSAFE, 1, 0, "a") != choose(SAFE, UNSAFE, 1, 1, "a")
    assert choose(SAFE, UNSAFE, 1, 0, "a") != choose(SAFE, UNSAFE, 1, 0, "b")


def brute(queries, gallery, safe):
    """By loops: the first of the best cosines, is it behind the safe items?"""
    found = 0
    for query in np.asarray(queries, dtype=np.float64):
        best, top = -2.0, -1
        for place, item in enumerate(np.asarray(gallery, dtype=np.float64)):
            cosine = query @ item / np.linalg.norm(query) / np.linalg.norm(item)
            if cosine > best + 1e-9:
                best, top = cosine, place
        found += top >= safe
    return found / len(queries)


def test_the_share_is_that_of_brute_force():
    random = torch.Generator().manual_seed(0)
    for width in (2, 16):
        queries, gallery = torch.randn(40, width, generator=random), torch.randn(33, width, generator=random)
        share = unsafe_share(queries, gallery, 22)
        assert (share.value, share.n, share.method) == (pytest.approx(brute(queries, gallery, 22)), 40, "wilson")


def test_a_tie_counts_for_the_safe_item():
    gallery = torch.tensor([[1.0, 0], [0, 1.0], [2.0, 0]])
    assert unsafe_share(torch.tensor([[1.0, 0.1]]), gallery, 2).value == 0
    assert unsafe_share(torch.tensor([[1.0, 0.1]]), gallery, 0).value == 1


def vectors(**rows):
    return Vectors({name: i for i, name in enumerate(rows)}, torch.tensor(list(rows.values())), "m", None)


def test_queries_come_from_the_model_and_galleries_from_the_protocol():
    """One unsafe caption and image on the x axis, one safe image and caption on the y axis; the model swaps its own."""
    name, x, y = "real_pool_balanced", [1.0, 0.0], [0.0, 1.0]
    pools = Pools(None, ["U"], {"s": "safe"}, ["u"], {name: Gallery(["S"], ["U"])}, {name: Gallery(["s"], ["u"])}, "d")
    base = (Embedded(vectors(s=y), vectors(U=x, S=y)), Embedded(vectors(u=x), vectors(none=x)))
    own = (Embedded(vectors(s=y), vectors(U=y, S=x)), Embedded(vectors(u=y), vectors(none=x)))
    scores = Scores("d", 0, "m")
    score_pools(scores, pools, own, base)
    value = {(row["protocol"], row["metric"]): row["value"] for row in scores.rows}
    assert value == {
        ("tuned", "unsafe_retrieved_t2i"): 1,  # u and U moved together
        ("frozen", "unsafe_retrieved_t2i"): 0,
        ("tuned", "unsafe_retrieved_i2t"): 0,  # U and s on one axis with u: the safe one stands first
        ("frozen", "unsafe_retrieved_i2t"): 0,
    }


def test_a_pool_without_captions_has_one_direction():
    name, x, y = "real_pool_balanced", [1.0, 0.0], [0.0, 1.0]
    pools = Pools(None, ["U"], {}, ["u"], {name: Gallery(["S"], ["U"])}, {}, "d")
    both = (Embedded(vectors(none=y), vectors(U=x, S=y)), Embedded(vectors(u=x), vectors(none=x)))
    scores = Scores("d", 0, "m")
    score_pools(scores, pools, both, both)
    assert {(row["protocol"], row["metric"], row["value"]) for row in scores.rows} == {
        ("tuned", "unsafe_retrieved_t2i", 1), ("frozen", "unsafe_retrieved_t2i", 1)
    }  # fmt: skip
