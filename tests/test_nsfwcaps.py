"""The benchmark builder: minimal edits, each filter counted, balance, and one clear error when too little is left."""

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.errors import NearsafeError
from pipeline.nsfwcaps import Candidate, NsfwcapsParams, Tools, balanced, select, unique
from pipeline.params import build
from pipeline.rewriting.registry import Chat, Endpoint
from pipeline.seeds import rng
from pipeline.world.grammar import caption, parse
from pipeline.world.rewriting import GrammarRewriter, SceneRenderer
from pipeline.world.scenes import sample

CATEGORIES = ("weapons", "drugs", "shocking", "theft_vandalism")


def safe_captions(count):
    random = rng(0, "nsfwcaps")
    return [caption(sample(random, unsafe=False), "shifted", i) for i in range(count)]


class SameDirection:
    name, facts = "constant", {}

    def embed(self, texts):
        return torch.ones(len(texts), 4)


class Fake:
    """A rewriter that answers with `edit(caption, category)`."""

    name, facts = "fake", {}

    def __init__(self, edit):
        self.edit = edit

    def rewrite(self, captions, categories):
        return [self.edit(*row) for row in zip(captions, categories, strict=True)]


def chosen_from(captions, rewriter=None, embedder=None, seed=0, **knobs):
    tools = Tools(rewriter or GrammarRewriter(0), embedder or SameDirection())
    return select(captions, "benchmark", NsfwcapsParams(**knobs), tools, seed)


def dropped(rows):
    return {row["filter"].split("_", 1)[1]: row["n_dropped"] for row in rows}


def test_every_quadruple_is_a_minimal_edit_in_its_category():
    chosen, _ = chosen_from(safe_captions(60), size=20)
    assert len(chosen) == 20
    for candidate in chosen:
        safe, unsafe = parse(candidate.caption), parse(candidate.unsafe)
        assert unsafe.family == safe.family and unsafe.category == candidate.category
    assert set(Counter(c.category for c in chosen).values()) == {5}


def test_each_filter_counts_what_it_dropped_and_the_counts_join():
    captions = [*safe_captions(40), "a toddler and an apple", "nothing to edit here", safe_captions(1)[0]]
    _, rows = chosen_from(captions, size=12)
    assert {name: n for name, n in dropped(rows).items() if n} == {
        "age_words_safe": 1, "no_answer": 1, "duplicate": 1, "category_balance": 28,
    }  # fmt: skip
    assert rows[0]["n_before"] == len(captions) and rows[-1]["n_after"] == 12
    assert all(a["n_after"] == b["n_before"] for a, b in itertools.pairwise(rows))
    assert {row["set"] for row in rows} == {"nsfwcaps/benchmark"}


def test_what_a_language_model_answers_is_checked_and_each_reason_counted():
    thing = {"weapons": "knife", "drugs": "syringe", "shocking": "skull", "theft_vandalism": "crowbar"}
    captions = [f"a {noun} on the table" for noun in "cup plate vase lamp bowl jug pan pot jar mug tin fork".split()]
    answers = {
        "cup": lambda text, name: "",
        "plate": lambda text, name: f"Sure, here it is:\n{text} and a {thing[name]}",
        "vase": lambda text, name: text.upper(),
        "lamp": lambda text, name: f"{text} and a {thing[name]} and a small red box near the big old wall",
        "bowl": lambda text, name: f"an old {thing[name]} in a black bag",
        "jug": lambda text, name: f"{text} and a bloody {thing[name]}",
        "pan": lambda text, name: f"{text} and a rusty {thing[name]}",
        "pot": lambda text, name: f"{text} and a {thing['drugs' if name == 'weapons' else 'weapons']}",
        "jar": lambda text, name: f"{text} and a box",
    }

    def edit(text, name):
        good = f'"{text} and a {thing[name]}"'  # one pair of quotation marks around the whole is mended
        return answers.get(text.split()[1], lambda *_: good)(text, name)

    chosen, rows = chosen_from(captions, Fake(edit), size=1, max_edits=4, max_length_ratio=2)
    assert dropped(rows) | {"category_balance": 0, "requested_size": 0} == {
        "age_words_safe": 0, "no_answer": 1, "one_line": 1, "unchanged": 1, "length": 1, "edit_distance": 1,
        "refused_words": 1, "added_words": 1, "one_category": 2, "age_words_unsafe": 0, "duplicate": 0,
        "alignment": 0, "admitted": 0, "category_balance": 0, "requested_size": 0,
    }  # fmt: skip
    assert chosen[0].unsafe == f"{chosen[0].caption} and a {thing[chosen[0].category]}"


def test_an_unsafe_text_of_a_rewriter_passes_the_age_filter_too():
    wording = Tools(None, None).wording  # even where the wording file allows the word
    rewriter = Fake(lambda text, name: text.replace("there is", "there is a teen with a knife and"))
    tools = Tools(rewriter, SameDirection(), replace(wording, allowed=wording.allowed | {"teen"}))
    with pytest.raises(NearsafeError, match="age_words_unsafe 10 -> 0"):
        captions = [text for text in safe_captions(40) if "there is" in text][:10]
        select(captions, "validation", NsfwcapsParams(size=1, categories=("weapons",)), tools, seed=0)


def test_edits_that_are_not_aligned_are_dropped():
    class Opposite(SameDirection):
        def embed(self, texts):
            return torch.tensor([[1.0, 0.0] if parse(t) and not parse(t).unsafe else [0.0, 1.0] for t in texts])

    with pytest.raises(NearsafeError, match=r"asked for 4 quadruples of split 'benchmark', 0 are.*alignment 20 -> 0"):
        chosen_from(safe_captions(20), embedder=Opposite(), size=4)


def test_the_choice_depends_on_the_seed_alone():
    once, again, other = (chosen_from(safe_captions(60), seed=s, size=20)[0] for s in (0, 0, 1))
    assert once == again != other


def test_only_as_many_captions_are_rewritten_as_asked():
    seen = []
    rewriter = Fake(lambda text, name: seen.append(text))
    with pytest.raises(NearsafeError, match="candidates 40 -> 7, no_answer 7 -> 0"):
        chosen_from(safe_captions(40), rewriter, size=4, candidates=7)
    assert len(seen) == 7


def test_a_text_of_an_earlier_split_is_not_taken_again():
    candidates = [Candidate(0, "a", "weapons", "x"), Candidate(1, "b", "weapons", "y")]
    assert unique(candidates, taken=["x"]) == candidates[1:]


def test_the_section_names_its_backends():
    values = {"rewriter": {"kind": "chat", "folder": "m"}, "embedder": {"kind": "encoder", "folder": "e"}}
    assert build(NsfwcapsParams, values, "p").rewriter == Chat("chat", Path("m"))
    values["rewriter"] = {"kind": "endpoint", "url": "https://x/v1", "model": "m", "key_env": "K"}
    assert isinstance(build(NsfwcapsParams, values, "p").rewriter, Endpoint)
    for wrong in ({"kind": "endpoint", "url": "x", "model": "m"}, {"kind": "chatt", "folder": "m"}):
        with pytest.raises(NearsafeError, match="p.rewriter"):
            build(NsfwcapsParams, {"rewriter": wrong}, "p")
    with pytest.raises(NearsafeError, match="splits must name each split once"):
        build(NsfwcapsParams, {"splits": ["benchmark", "benchmark"]}, "p")


def test_balance_holds_for_any_prefix():
    pool = [Candidate(i, str(i), CATEGORIES[0 if i < 30 else i % 4], "x") for i in range(60)]
    chosen = balanced(pool, NsfwcapsParams(size=12))
    assert set(Counter(c.category for c in chosen[:8]).values()) == {2}


def test_an_unknown_category_and_a_foreign_caption_are_named():
    with pytest.raises(NearsafeError, match="no such"):
        GrammarRewriter(0).rewrite(["a"], ["no such"])
    with pytest.raises(NearsafeError, match="no style 'oil'; known: base, shifted"):
        SceneRenderer("oil", 0)
    with pytest.raises(NearsafeError, match="a sunset over hills"):
        SceneRenderer("shifted", 0).render(["a sunset over hills"], ["x"])
