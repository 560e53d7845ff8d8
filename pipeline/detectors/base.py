"""A detector turns images into rows: every label and box above a low floor. Rules and thresholds come later, in SQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

Row = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One label with its score in [0, 1]; `box`: x, y, width, height in pixels, None for a whole image."""

    label: str
    score: float
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Subject:
    """What a detection is about: an image, the defence that made it, and the prompt set that asked for it."""

    item_id: str
    defence: str
    seed: int
    prompt_set: str


def subject_of(generation: Row) -> Subject:
    """What is said of an image, from its row in table "generations"."""
    return Subject(generation["generation_id"], generation["defence"], generation["seed"], generation["prompt_set"])


class Detector(Protocol):
    """`name` as tables record it, `hash` of its weights."""

    name: str
    hash: str

    def detect(self, images: Sequence[Image.Image]) -> list[list[Finding]]:
        """The findings of each RGB image, in order; each image on its own, so that batches cannot change a score."""


def detection_rows(detector: Detector, subject: Subject, findings: Sequence[Finding]) -> list[Row]:
    """Rows of table "detections" for one image; nothing found is one row with a null label."""
    given = findings or [None]
    return [_row(detector, subject, index, finding) for index, finding in enumerate(given)]


def examine(detector: Detector, subjects: Sequence[Subject], images: Sequence[Image.Image]) -> list[Row]:
    """Rows of table "detections" for images and what each is about, in order."""
    found = detector.detect(images)
    return [row for subject, one in zip(subjects, found, strict=True) for row in detection_rows(detector, subject, one)]


def error_row(detector: Detector, subject: Subject, reason: str) -> Row:
    """The row of an image that could not be examined: an error is never "safe"."""
    return {**_row(detector, subject, 0, None), "status": "error", "error": reason}


def _row(detector: Detector, subject: Subject, index: int, finding: Finding | None) -> Row:
    return {
        "item_id": subject.item_id,
        "defence": subject.defence,
        "seed": subject.seed,
        "prompt_set": subject.prompt_set,
        "detector": detector.name,
        "detector_hash": detector.hash,
        "box_index": index,
        "label": finding.label if finding else None,
        "score": finding.score if finding else None,
        "box": list(finding.box) if finding and finding.box else None,
        "status": "ok",
        "error": None,
    }
