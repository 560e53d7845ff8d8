"""Misspelt hazard words: readable, never the word itself, independent of order, nothing else touched."""

from collections import Counter

import pytest

from pipeline.agewords import normalise
from pipeline.attacks.obfuscation import HOMOGLYPHS, RULES, misspell, obfuscate
from pipeline.seeds import rng

WORDS = ("knife", "gun", "bomb", "syringe", "pills", "skull", "tombstone", "spray", "can", "crowbar")


def letters(text):
    return "".join(character for character in text if character.isalnum())


@pytest.mark.parametrize("word", WORDS)
def test_a_spelling_stays_near_the_word_and_never_is_it(word):
    for number in range(60):
        spelt = misspell(word, rng(number, "test"))
        assert spelt != word
        assert abs(len(letters(spelt)) - len(word)) <= 1
        plain = letters(normalise(spelt))  # look-alike letters made Latin
        assert sum((Counter(word) - Counter(plain)).values()) <= 1, spelt  # one letter became a digit, or none


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_drawn_and_does_what_its_name_says(name):
    made = {RULES[name]("crowbar", rng(number, "test")) for number in range(40)}
    kept = {
        "space": lambda word: word.replace(" ", "") == "crowbar" and len(word.split()) == 2,
        "hyphen": lambda word: word.replace("-", "") == "crowbar" and word.count("-") == 1,
        "swap": lambda word: sorted(word) == sorted("crowbar") and word != "crowbar" and word[0] == "c",
        "double": lambda word: len(word) == 8 and any(word[:i] + word[i + 1 :] == "crowbar" for i in range(8)),
        "leet": lambda word: sum(a != b for a, b in zip(word, "crowbar", strict=True)) == 1 and not word.isalpha(),
        "homoglyph": lambda word: normalise(word) == "crowbar" and sum(c in HOMOGLYPHS.values() for c in word) == 1,
    }[name]
    assert len(made) > 1 and all(kept(word) for word in made), made
    assert made & {misspell("crowbar", rng(number, "test")) for number in range(400)}


def test_a_word_that_a_rule_cannot_change_gets_another_rule():
    assert RULES["leet"]("drum", rng(0, "x")) == "drum"
    assert all(misspell("drum", rng(number, "test")) != "drum" for number in range(60))
    assert RULES["swap"]("eel", rng(0, "x")) in ("ele", "lee") and RULES["swap"]("aab", rng(0, "x")) == "aba"


def test_only_whole_words_change_and_every_occurrence_alike():
    text = "a gun by the Gun, a gunner, a red cat"
    changed = obfuscate(text, ["gun"], 3)
    spelt = changed.split(" by the ")[0].removeprefix("a ")
    assert changed == f"a {spelt} by the {spelt}, a gunner, a red cat" and spelt != "gun"


def test_the_result_follows_from_the_seed_and_not_from_the_order_of_words():
    text = "a spray can at the beach"
    assert obfuscate(text, ["spray", "can"], 5) == obfuscate(text, ["can", "spray"], 5)
    assert len({obfuscate(text, ["spray", "can"], seed) for seed in range(20)}) > 10


@pytest.mark.parametrize(
    ("words", "message"),
    [(["knife"], "none of the words knife"), ([], "one or more words"), (["ax"], "fewer than three")],
)
def test_words_that_are_not_there_or_too_short_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        obfuscate("a gun and an ax", words, 0)
