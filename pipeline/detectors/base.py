"""A detector turns images into rows: every label and box above a low floor. Rules and thresholds come later, in SQL.

A detector may fail on an image, or answer what no detector can mean. Such an image has an error row and nothing else:
it is counted as not known, never as safe.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from pipeline.errors import NearsafeError

Row = dict[str, Any]
BLOCK = 256  # items of one call: what a detector may be stopped over
_GIVE_UP = 8  # items in a row that took the detector's process with them: the cause is not in them


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
    """`name` as tables record it, `hash` of its weights, `labels` that it can find."""

    name: str
    hash: str
    labels: Collection[str]

    def detect(self, images: Sequence[Image.Image]) -> list[list[Finding]]:
        """The findings of each RGB image, in order; each image on its own, so that batches cannot change a score."""


class Failed(Exception):
    """What went wrong over an item, in words that are complete."""


class Lost(Failed):
    """A detector's process did not answer in time, or ended (`pipeline.detectors.watch`)."""


def detection_rows(detector: Detector, subject: Subject, findings: Sequence[Finding]) -> list[Row]:
    """Rows of table "detections" for one image; nothing found is one row with a null label."""
    given = findings or [None]
    return [_row(detector, subject, index, finding) for index, finding in enumerate(given)]


def examine(detector: Detector, subjects: Sequence[Subject], images: Sequence[Image.Image]) -> list[Row]:
    """Rows of table "detections" for images and what each is about, in order. Raises NearsafeError as `look`."""
    rows = []
    for subject, found in zip(subjects, look(detector, images), strict=True):
        failed = isinstance(found, str)
        rows += [error_row(detector, subject, found)] if failed else detection_rows(detector, subject, found)
    return rows


def look(detector: Detector, items: Sequence[Any]) -> list[list[Finding] | str]:
    """The findings of each image (or text), in order, or the reason why there are none.

    Items of a block that the detector failed on, and those with an answer that makes no sense, are given to it again
    one by one: only those that fail alone are errors. Raises NearsafeError for a detector whose process is lost over
    several items in a row.
    """
    found: list[list[Finding] | str] = []
    lost = 0
    for start in range(0, len(items), BLOCK):
        block = items[start : start + BLOCK]
        answers, _ = _ask(detector, block)
        for number, item in enumerate(block):
            if isinstance(answers[number], str):
                (answers[number],), gone = _ask(detector, [item])
                lost = lost + 1 if gone else 0
                if lost == _GIVE_UP:
                    raise NearsafeError(
                        f"{detector.name}: lost over {lost} items in a row, the last: {answers[number]}; if it is only "
                        "slow, raise detectors.seconds_per_image"
                    )
        found += answers
    return found


def _ask(detector: Detector, items: Sequence[Any]) -> tuple[list[list[Finding] | str], bool]:
    """The answer about each item, or what is wrong with it; and whether the detector's process was lost."""
    try:
        answers = list(detector.detect(items))
    except NearsafeError:
        raise
    except Exception as error:  # whatever a library raises: the item is an error, not the run
        reason = str(error) if isinstance(error, Failed) else in_words(error)
        return [reason] * len(items), isinstance(error, Lost)
    if len(answers) != len(items):
        return [f"{len(answers)} answers about {len(items)} items"] * len(items), False
    pairs = zip(answers, items, strict=True)
    return [_wrong(detector, found, item) or found for found, item in pairs], False


def _wrong(detector: Detector, found: Any, item: Any) -> str | None:
    """What is wrong with the answer about an item, or None."""
    if not isinstance(found, list | tuple) or not all(isinstance(one, Finding) for one in found):
        return f"no list of findings, but {found!r:.100}"
    for one in found:
        if one.label not in detector.labels:
            return f"unknown label {one.label!r:.100}"
        if not isinstance(one.score, float | int) or not 0 <= one.score <= 1:  # a NaN is not
            return f"{one.label}: score {one.score!r:.100}, expected a number in [0, 1]"
        if one.box is not None and (where := _off(one.box, getattr(item, "size", None))):
            return f"{one.label}: box {one.box!r:.100} {where}"
    return None


def _off(box: Any, size: tuple[int, int] | None) -> str | None:
    """Why a box cannot be one of an image of this size, or None. It may stick out, as NudeNet's do."""
    try:
        x, y, width, height = map(float, box)
    except (TypeError, ValueError):
        return "is not four numbers"
    if not all(map(math.isfinite, (x, y, width, height))) or min(width, height) < 0:
        return "is not finite, or has a negative side"
    if size is not None and (x >= size[0] or y >= size[1] or x + width <= 0 or y + height <= 0):
        return f"is outside of the image {size[0]}x{size[1]}"
    return None


def in_words(error: Exception) -> str:
    """An exception in one line of at most some 500 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


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
