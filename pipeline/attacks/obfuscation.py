"""Hazard words spelt so that a reader still knows them and a tokeniser does not.

Attack code is here to measure defences, nothing else: it changes spelling by fixed rules and optimises nothing.

A text encoder cuts an unknown spelling into other tokens ("k-nife"), so a defence that learned what a word means has
to know what its pieces mean. Only the words that it is given change. The age-word filter reads the plain prompts
before and the misspelt ones after.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.seeds import rng

LEET = {"a": "4", "e": "3", "i": "1", "o": "0", "s": "5", "t": "7"}
# Cyrillic and Greek letters that look like the Latin ones.
HOMOGLYPHS = {"a": "\u0430", "c": "\u0441", "e": "\u0435", "i": "\u0456", "o": "\u043e", "p": "\u0440", "u": "\u03c5"}
Rule = Callable[[str, np.random.Generator], str]


def obfuscate(text: str, words: Sequence[str], seed: int) -> str:
    """`text` with every whole word of `words` (any case) misspelt by one rule of `RULES`; the rest is kept.

    Each word's rule and place are drawn from `seed` and the word alone, so that every occurrence is spelt alike and
    the order of `words` does not matter. A rule that cannot change a word (no letter with a look-alike) gives way to
    the next one. Raises ValueError for no words, for one of fewer than three letters, and where the text
    has none of them.
    """
    if short := [word for word in words if len(word) < 3]:
        raise ValueError(f"cannot misspell {short[0]!r}: fewer than three letters")
    if not words:
        raise ValueError("expected one or more words to misspell")
    spelt = {word.lower(): misspell(word.lower(), rng(seed, "obfuscate", word.lower())) for word in words}
    pattern = "|".join(re.escape(word) for word in sorted(spelt, key=len, reverse=True))
    changed, count = re.subn(rf"\b(?:{pattern})\b", lambda match: spelt[match[0].lower()], text, flags=re.IGNORECASE)
    if not count:
        raise ValueError(f"the text has none of the words {', '.join(words)}")
    return changed


def misspell(word: str, random: np.random.Generator) -> str:
    """A lower-case word of three letters or more by a rule drawn from `random`; never the word itself."""
    rules = list(RULES.values())
    first = int(random.integers(len(rules)))
    spellings = (rule(word, random) for rule in rules[first:] + rules[:first])
    return next(spelling for spelling in spellings if spelling != word)


def _gap(filler: str) -> Rule:
    """`filler` once, with two letters on either side where the word is that long: a single letter is a lost one."""

    def rule(word: str, random: np.random.Generator) -> str:
        edge = 2 if len(word) > 3 else 1
        at = int(random.integers(edge, len(word) - edge + 1))
        return word[:at] + filler + word[at:]

    return rule


def _swap(word: str, random: np.random.Generator) -> str:
    """Two different neighbouring letters change places, the first one of the word stays where it can."""
    places = [at for at in range(1, len(word) - 1) if word[at] != word[at + 1]] or [0]
    at = places[int(random.integers(len(places)))]
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _double(word: str, random: np.random.Generator) -> str:
    """One letter stands twice."""
    at = int(random.integers(len(word)))
    return word[:at] + word[at] + word[at:]


def _replace(signs: dict[str, str]) -> Rule:
    """One letter becomes its sign; the word itself where no letter has one."""

    def rule(word: str, random: np.random.Generator) -> str:
        places = [at for at, letter in enumerate(word) if letter in signs]
        if not places:
            return word
        at = places[int(random.integers(len(places)))]
        return word[:at] + signs[word[at]] + word[at + 1 :]

    return rule


RULES: dict[str, Rule] = {
    "space": _gap(" "),
    "hyphen": _gap("-"),
    "swap": _swap,
    "double": _double,
    "leet": _replace(LEET),
    "homoglyph": _replace(HOMOGLYPHS),
}
