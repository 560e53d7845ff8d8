"""Shards of answers: kept whole, asked again when they are broken or belong to other captions."""

import pytest

from pipeline.rewriting.resume import Resumable


class Counting:
    name, facts = "counting", {"model": "x"}

    def __init__(self):
        self.asked = []

    def rewrite(self, captions, categories):
        self.asked.append(list(captions))
        return [f"{c} {n}" if c != "e" else None for c, n in zip(captions, categories, strict=True)]


@pytest.fixture
def made(tmp_path):
    lines = []
    return Resumable(Counting(), tmp_path / "resume", 2, lines.append), lines


ASKED = (list("abcde"), list("vwxyz"))


def test_finished_shards_are_not_asked_again(made):
    rewriter, lines = made
    first = rewriter.rewrite(*ASKED)
    assert first == ["a v", "b w", "c x", "d y", None] and rewriter.name == "counting"
    assert rewriter.rewriter.asked == [["a", "b"], ["c", "d"], ["e"]]
    assert rewriter.rewrite(*ASKED) == first and len(rewriter.rewriter.asked) == 3
    assert lines[-1] == "5 of 5 captions had been rewritten before the interruption"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"asked": [["c", "x"], ["d", "y"]], "answers": ["c x"]}'])
def test_a_broken_shard_is_asked_again(made, text):
    rewriter, _ = made
    first = rewriter.rewrite(*ASKED)
    (rewriter.folder / "rewrites-00001.json").write_text(text)
    assert rewriter.rewrite(*ASKED) == first and rewriter.rewriter.asked[3:] == [["c", "d"]]


def test_answers_of_another_caption_or_category_are_not_taken(made):
    rewriter, _ = made
    rewriter.rewrite(*ASKED)
    assert rewriter.rewrite(list("abcde"), list("vwxxz"))[3] == "d x"
    assert rewriter.rewriter.asked[3:] == [["c", "d"]]
