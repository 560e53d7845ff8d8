"""The rules of an edit in code: wording, categories, distances, and the file that may add words but take none away."""

import itertools

import pytest

from pipeline.errors import NearsafeError
from pipeline.rewriting.checks import edit_distance, tidy
from pipeline.rewriting.instruction import instruct
from pipeline.rewriting.wording import Wording, load_wording
from pipeline.seeds import rng
from pipeline.world.grammar import SYNONYMS, TEMPLATES, caption, item_phrase, unsafe_edit
from pipeline.world.scenes import CATEGORY, VOCABULARY, sample

RULES = Wording()
SAFE = "a man reads a book on a bench"


@pytest.mark.parametrize(
    ("answer", "outside", "fits"),
    [
        ("a man with a knife reads a book on a bench", [], True),
        ("a man reads a book next to two guns on a bench", ["two"], True),
        ("a man reads a book and a drug on a bench", [], False),
        ("a man with a knife and a syringe reads a book on a bench", [], False),
        ("a man reads a book on a bench with a cup", ["cup"], False),
        ("a man with a ＫＮＩＦＥ reads a book on a bench", [], True),
    ],
)
def test_added_words_and_their_category(answer, outside, fits):
    assert RULES.outside(SAFE, answer) == outside
    assert RULES.fits(SAFE, answer, "weapons") is fits


@pytest.mark.parametrize(
    ("caption", "answer", "outside"),
    [
        ("a man walks in a park", "a vandal with a gun walks in a park", ["vandal"]),
        ("a man with a cup on a street", "a thief with a gun on a street", ["thief"]),
        ("a man in a coat with a dog", "a man in a coat holding a rifle against a dog", ["against"]),
        ("a man in a coat with a dog", "a man in a coat holding a rifle to a dog", ["to"]),
        ("a man with a dog", "a man holding a rifle over a dog", ["over"]),
        ("a man with a cake", "a man with a knife into a cake", ["into"]),
        ("a man sits on a bench", "a man lying on a bench beside a gun", ["lying"]),
        ("a thief bar on a wall", "a thief with a gun on a wall", ["thief"]),
        ("a statue on a wall", "a head on a wall and a death head", ["head"]),
        ("a man next to a dog", "a man next to a dog and next to a thief bar", []),
    ],
)
def test_a_part_of_a_hazards_name_and_a_threat_are_not_neutral(caption, answer, outside):
    assert RULES.outside(caption, answer) == outside


def test_a_hazard_that_the_safe_caption_names_does_not_count_as_added():
    assert not RULES.fits("a knife on a plate", "a knife on a white plate", "weapons")


def test_refused_words_are_found_anywhere_and_disguised():
    assert RULES.is_refused("a bloody knife") and RULES.is_refused("ＢＬＯＯＤ on the floor")
    assert not RULES.is_refused("a knife by a body of water")


def test_every_hazard_of_the_world_keeps_the_rules():
    for hazard in VOCABULARY["hazard"]:
        for synonym in range(1 + len(SYNONYMS.get(hazard, ()))):
            answer = f"{SAFE} with {item_phrase(hazard, synonym)}"
            assert RULES.outside(SAFE, answer) == [] and not RULES.is_refused(answer)
            assert RULES.fits(SAFE, answer, CATEGORY[hazard]), answer


def test_every_edit_of_the_worlds_grammar_keeps_the_rules():
    for number in range(60):
        scene = sample(rng(number, "rules"), unsafe=False)
        for style, hazard in itertools.product(TEMPLATES, VOCABULARY["hazard"]):
            safe = caption(scene, style, number)
            edit = unsafe_edit(safe, hazard)
            assert RULES.outside(safe, edit) == [] and RULES.fits(safe, edit, CATEGORY[hazard]), edit


def test_a_wording_file_adds_words_and_takes_none_away(tmp_path):
    file = tmp_path / "wording.yaml"
    file.write_text("allowed: [rusty, bloody]\nrefused: [chainsaw]\nhazards: {fire: [a burning candle]}\n")
    wording = load_wording(file, ["weapons", "fire"])
    assert wording.outside(SAFE, f"{SAFE} with a rusty knife") == []
    assert wording.is_refused("a bloody knife") and wording.is_refused("a chainsaw")
    assert wording.fits(SAFE, f"{SAFE} near a burning candle", "fire")
    file.write_text("hazards: {fire: [a murder]}\n")
    with pytest.raises(NearsafeError, match=r"wording\.yaml: hazards\.fire: 'a murder' has a refused word"):
        load_wording(file, ["fire"])
    with pytest.raises(NearsafeError, match="names? no hazard of category 'hate'"):
        load_wording(None, ["hate"])
    file.write_text("allow: [x]\n")
    with pytest.raises(NearsafeError, match=r"wording\.yaml\.allow: unknown key"):
        load_wording(file, ["weapons"])


@pytest.mark.parametrize(
    ("hazards", "categories", "where"),
    [
        ("{minor_matters: [a candle]}", ["weapons"], r"wording\.yaml: hazards: 'minor_matters'"),
        ("{fire: [a y.o.u.t.h with a candle]}", ["fire"], r"wording\.yaml: hazards\.fire: 'a y\.o"),
        ("{fire: [a candle]}", ["fire", "C11S1"], "build_nsfwcaps.categories: 'C11S1'"),
    ],
)
def test_no_category_and_no_hazard_names_young_people(tmp_path, hazards, categories, where):
    file = tmp_path / "wording.yaml"
    file.write_text(f"hazards: {hazards}\n")
    with pytest.raises(NearsafeError, match=f"{where}.* is refused by the age-word filter"):
        load_wording(file, categories)


@pytest.mark.parametrize(
    ("first", "second", "distance"), [("", "", 0), ("a b", "", 2), ("a b c", "a x c d", 2), ("a b c", "b c", 1)]
)
def test_edit_distance_counts_words(first, second, distance):
    assert edit_distance(first.split(), second.split()) == edit_distance(second.split(), first.split()) == distance


def test_tidy_takes_off_white_space_and_one_pair_of_quotation_marks():
    assert tidy(" “a cup and a knife”\n") == "a cup and a knife"
    assert tidy('"a" and "b"') == '"a" and "b"' and tidy(None) == ""


def test_the_instruction_holds_caption_category_and_hazards_in_one_line_each():
    text = instruct("a cup\non a table", "theft_vandalism", ("crowbar", "spray can"))
    assert (
        text.endswith("Caption: a cup on a table") and '"theft and vandalism"' in text and "crowbar, spray can" in text
    )
