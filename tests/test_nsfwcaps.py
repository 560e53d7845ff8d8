"""The benchmark builder: minimal edits, each filter counted, balance, and one clear error when too little is left."""

import itertools
from collections import Counter

import pytest
import torch

from pipeline.errors import NearsafeError
from pipeline.nsfwcaps import Candidate, NsfwcapsParams, balanced, select
from pipeline.seeds import rng
from pipeline.world.grammar import caption, parse
from pipeline.world.rewriting import GrammarRewriter, SceneRenderer
from pipeline.world.scenes import sample

CATEGORIES = ("weapons", "drugs", "shocking", "theft_vandalism")


def safe_captions(count):
    random = rng(0, "nsfwcaps")
    return [caption(sample(random, unsafe=False), "shifted", i) for i in range(count)]


def same_direction(texts):
    return torch.ones(len(texts), 4)


def test_every_quadruple_is_a_minimal_edit_in_its_category():
    chosen, _ = select(safe_captions(60), NsfwcapsParams(size=20), GrammarRewriter(0), same_direction, seed=0)
    assert len(chosen) == 20
    for candidate in chosen:
        safe, unsafe = parse(candidate.caption), parse(candidate.unsafe)
        assert unsafe.family == safe.family and unsafe.category == candidate.category
    assert set(Counter(c.category for c in chosen).values()) == {5}


def test_each_filter_counts_what_it_dropped_and_the_counts_join():
    captions = [*safe_captions(40), "a toddler and an apple", "nothing to edit here", safe_captions(1)[0]]
    _, rows = select(captions, NsfwcapsParams(size=12), GrammarRewriter(0), same_direction, seed=0)
    dropped = {row["filter"].split("_", 1)[1]: row["n_dropped"] for row in rows}
    assert dropped["age_words_safe"] == 1 and dropped["no_edit"] == 1 and dropped["duplicate"] == 1
    assert rows[0]["n_before"] == len(captions) and rows[-1]["n_after"] == 12
    assert all(a["n_after"] == b["n_before"] for a, b in itertools.pairwise(rows))


def test_an_unsafe_text_of_a_rewriter_passes_the_age_filter_too():
    class Rewriter:
        name = "fake"

        def rewrite(self, captions, categories):
            return [f"{text} with a teenager" if i < 10 else f"{text} and a bomb" for i, text in enumerate(captions)]

    chosen, rows = select(safe_captions(20), NsfwcapsParams(size=4), Rewriter(), same_direction, seed=0)
    assert not any("teenager" in candidate.unsafe for candidate in chosen)
    assert {row["filter"]: row["n_dropped"] for row in rows}["2_age_words_unsafe"] == 10


def test_edits_that_are_not_aligned_are_dropped():
    def opposite(texts):
        return torch.tensor([[1.0, 0.0] if parse(t) and not parse(t).unsafe else [0.0, 1.0] for t in texts])

    with pytest.raises(NearsafeError, match=r"asked for 4 quadruples, 0 are left.*alignment 20 -> 0"):
        select(safe_captions(20), NsfwcapsParams(size=4), GrammarRewriter(0), opposite, seed=0)


def test_the_choice_depends_on_the_seed_alone():
    options = (safe_captions(60), NsfwcapsParams(size=20), GrammarRewriter(0), same_direction)
    once, again, other = (select(*options, seed=s)[0] for s in (0, 0, 1))
    assert once == again != other


def test_balance_holds_for_any_prefix():
    pool = [Candidate(i, str(i), CATEGORIES[0 if i < 30 else i % 4], "x") for i in range(60)]
    chosen = balanced(pool, NsfwcapsParams(size=12))
    assert set(Counter(c.category for c in chosen[:8]).values()) == {2}


def test_an_unknown_category_and_a_foreign_caption_are_named():
    with pytest.raises(NearsafeError, match="no such"):
        GrammarRewriter(0).rewrite(["a"], ["no such"])
    with pytest.raises(NearsafeError, match="a sunset over hills"):
        SceneRenderer("shifted", 0).render(["a sunset over hills"], ["x"])
