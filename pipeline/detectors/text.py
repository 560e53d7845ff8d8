"""Detectors that read replies: the world's text classifier, and exact hazard words. Same rows as image detectors."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from pipeline.detectors.base import Finding
from pipeline.ids import content_id
from pipeline.models.hashing import model_hash
from pipeline.world.grammar import PHRASES
from pipeline.world.scenes import VOCABULARY
from pipeline.world.text_detector import TextHazardDetector, bare_words

# Not "world...": the rules of the image detectors go by the beginning of a detector's name.
CLASSIFIER, WORDS = "text-world", "text-words"


class TextClassifier:
    """P(hazard) of a text is 1 minus the score of "none", the sum of the hazard categories' scores (a softmax)."""

    name = CLASSIFIER

    def __init__(self, folder: Path, device: torch.device | str = "cpu", batch_size: int = 256) -> None:
        """Load the weights. Raises NearsafeError naming a missing or broken folder."""
        self.hash = model_hash(folder)
        self.model = TextHazardDetector.from_pretrained(folder).to(device)
        self.labels = self.model.labels
        self.batch_size = batch_size

    @torch.inference_mode()
    def detect(self, texts: Sequence[str]) -> list[list[Finding]]:
        """One finding per label for each text."""
        found = []
        for start in range(0, len(texts), self.batch_size):
            scores = self.model(texts[start : start + self.batch_size]).softmax(-1).cpu().tolist()
            found += [[Finding(*pair) for pair in zip(self.model.labels, row, strict=True)] for row in scores]
        return found


@cache
def class_words(task: str) -> dict[str, tuple[str, ...]]:
    """Class -> the words that name it, of a task of the world. An item goes without its frame: "guitar", "pills"."""
    bare = bare_words if task in ("object", "hazard") else str
    return {name: tuple(bare(words) for n, words in PHRASES[task] if n == name) for name, _ in PHRASES[task]}


def named(text: str, task: str) -> set[str]:
    """The classes of a task of the world that `text` names by their words: whole words, unchanged but for case.

    Articles do not matter ("the guitar" is named, "guitars" and "guitarist" are not). Place and weather are the
    grammar's whole phrases ("at the beach").
    """
    return {name for name, pattern in _patterns(task).items() if pattern.search(text)}


class HazardWords:
    """One finding per hazard that a text names (see `named`), in vocabulary order; score 1."""

    name = WORDS
    labels = VOCABULARY["hazard"]

    def __init__(self) -> None:
        words = class_words("hazard")
        self.hash = content_id(*(f"{hazard}:{word}" for hazard in words for word in words[hazard]))

    def detect(self, texts: Sequence[str]) -> list[list[Finding]]:
        """The hazards named in each text, in vocabulary order."""
        found = [named(text, "hazard") for text in texts]
        return [[Finding(hazard, 1.0) for hazard in VOCABULARY["hazard"] if hazard in names] for names in found]


@cache
def _patterns(task: str) -> dict[str, re.Pattern[str]]:
    return {
        name: re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
        for name, words in class_words(task).items()
    }
