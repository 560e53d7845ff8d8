"""Is an answer what the instruction asked for? Checks in code, in order; each has a name to count its drops by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.rewriting.wording import WORDING_VERSION, Wording, words

_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`"}


@dataclass(frozen=True)
class Check:
    """`passes(caption, answer, category)`; `version` says with which bound or list."""

    name: str
    version: str
    passes: Callable[[str, str, str], bool]


def tidy(answer: str | None) -> str:
    """The answer without surrounding white space and one pair of quotation marks around the whole; "" for none."""
    text = (answer or "").strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Levenshtein distance of two sequences of words: insertions, deletions and exchanges."""
    above = list(range(len(second) + 1))
    for row, word in enumerate(first, 1):
        here = [row]
        for column, other in enumerate(second, 1):
            here.append(min(above[column] + 1, here[-1] + 1, above[column - 1] + (word != other)))
        above = here
    return above[-1]


def checks(wording: Wording, max_edits: int, max_length_ratio: float) -> list[Check]:
    """All checks of one tidied answer, but for the age-word filter, which is never part of a list."""

    def length(caption: str, answer: str, category: str) -> bool:
        short, long = sorted((len(words(caption)), len(words(answer))))
        return long <= max_length_ratio * short

    return [
        Check("no_answer", "1", lambda caption, answer, category: bool(answer)),
        Check("one_line", "1", lambda caption, answer, category: answer.isprintable()),
        Check("unchanged", "1", lambda caption, answer, category: words(caption) != words(answer)),
        Check("length", f"ratio <= {max_length_ratio:g}", length),
        Check(
            "edit_distance",
            f"words <= {max_edits}",
            lambda caption, answer, category: edit_distance(words(caption), words(answer)) <= max_edits,
        ),
        Check("refused_words", WORDING_VERSION, lambda caption, answer, category: not wording.is_refused(answer)),
        Check("added_words", WORDING_VERSION, lambda caption, answer, category: not wording.outside(caption, answer)),
        Check("one_category", WORDING_VERSION, wording.fits),
    ]
