"""Detectors that read replies: the world's text classifier, and exact hazard words. Same rows as image detectors."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from pipeline.detectors.base import Finding
from pipeline.ids import content_id
from pipeline.models.hashing import model_hash
from pipeline.world.grammar import PHRASES
from pipeline.world.scenes import CATEGORY
from pipeline.world.text_detector import TextHazardDetector, bare_words

# Not "world...": the rules of the image detectors go by the beginning of a detector's name.
CLASSIFIER, WORDS = "text-world", "text-words"


class TextDetector(Protocol):
    """`name` as tables record it, `hash` of its weights or words."""

    name: str
    hash: str

    def detect(self, texts: Sequence[str]) -> list[list[Finding]]:
        """The findings of each text, in order; each text on its own. No box."""


class TextClassifier:
    """P(hazard) of a text is 1 minus the score of "none", the sum of the hazard categories' scores (a softmax)."""

    name = CLASSIFIER

    def __init__(self, folder: Path, device: torch.device | str = "cpu", batch_size: int = 256) -> None:
        """Load the weights. Raises NearsafeError naming a missing or broken folder."""
        self.hash = model_hash(folder)
        self.model = TextHazardDetector.from_pretrained(folder).to(device)
        self.batch_size = batch_size

    @torch.inference_mode()
    def detect(self, texts: Sequence[str]) -> list[list[Finding]]:
        """One finding per label for each text."""
        found = []
        for start in range(0, len(texts), self.batch_size):
            scores = self.model(texts[start : start + self.batch_size]).softmax(-1).cpu().tolist()
            found += [[Finding(*pair) for pair in zip(self.model.labels, row, strict=True)] for row in scores]
        return found


class HazardWords:
    """One finding per hazard that a text names by one of its words, whole words in any case; score 1."""

    name = WORDS

    def __init__(self) -> None:
        self.words = {
            hazard: tuple(bare_words(phrase) for name, phrase in PHRASES["hazard"] if name == hazard)
            for hazard in CATEGORY
        }
        self.hash = content_id(*(f"{hazard}:{word}" for hazard, words in self.words.items() for word in words))
        self._patterns = {
            hazard: re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
            for hazard, words in self.words.items()
        }

    def detect(self, texts: Sequence[str]) -> list[list[Finding]]:
        """The hazards named in each text, in vocabulary order."""
        return [[Finding(h, 1.0) for h, pattern in self._patterns.items() if pattern.search(text)] for text in texts]
