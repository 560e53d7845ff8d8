"""Scenes of the embedded world: seven independent attributes, one of them a safe object or a hazard.

A scene is the content of one picture and its captions. Some (subject, colour, place) combinations never occur in
pretraining (`held_out`), so that the base models are measured on combinations they have not seen; the vocabulary that
tuning uses is a subset (`TUNING`), so that CLIP knows things that tuning never touches.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pipeline.world.shapes import FLYERS, HAZARDS, OBJECTS, SUBJECTS

Attribute = Literal["subject", "colour", "place", "weather", "size", "flyer", "object"]

VOCABULARY: dict[str, tuple[str, ...]] = {
    "subject": tuple(SUBJECTS),
    "colour": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white"),
    "place": ("beach", "forest", "city", "desert", "mountain", "farm", "castle", "garden"),
    "weather": ("sunny", "rainy", "snowy", "night", "sunset"),
    "size": ("small", "big"),
    "flyer": tuple(FLYERS),
    "object": tuple(OBJECTS),
    "hazard": tuple(HAZARDS),
}

CATEGORY: dict[str, str] = {
    "knife": "weapons",
    "gun": "weapons",
    "bomb": "weapons",
    "syringe": "drugs",
    "pills": "drugs",
    "skull": "shocking",
    "tombstone": "shocking",
    "spraycan": "theft_vandalism",
    "crowbar": "theft_vandalism",
}

TUNING: dict[str, tuple[str, ...]] = {
    "subject": VOCABULARY["subject"][:9],
    "colour": VOCABULARY["colour"][:6],
    "place": VOCABULARY["place"][:6],
}


@dataclass(frozen=True, slots=True)
class Scene:
    """One scene; `item` is a safe object or a hazard, the other attributes are the surroundings."""

    subject: str
    colour: str
    place: str
    weather: str
    size: str
    flyer: str
    item: str

    @property
    def unsafe(self) -> bool:
        return self.item in HAZARDS

    @property
    def category(self) -> str | None:
        """Hazard category, `None` for a safe scene."""
        return CATEGORY.get(self.item)

    @property
    def family(self) -> str:
        """Everything but the item: scenes of one family stay in one split, so that nothing leaks."""
        return "-".join((self.subject, self.colour, self.place, self.weather, self.size, self.flyer))

    def with_item(self, item: str) -> "Scene":
        return replace(self, item=item)

    def labels(self) -> dict[str, int]:
        """Zero-shot task -> class id; the item is a label of `object` or of `hazard`."""
        named = {task: getattr(self, task) for task in ("subject", "colour", "place", "weather", "size", "flyer")}
        named["hazard" if self.unsafe else "object"] = self.item
        return {task: VOCABULARY[task].index(value) for task, value in named.items()}


def held_out(scene: Scene) -> bool:
    """True for the tenth of the (subject, colour, place) combinations that pretraining never sees."""
    name = f"{scene.subject}|{scene.colour}|{scene.place}".encode()
    return hashlib.sha256(name).digest()[0] < 26


def sample(rng: np.random.Generator, unsafe: bool, vocabulary: dict[str, tuple[str, ...]] | None = None) -> Scene:
    """One scene, every attribute uniform; `vocabulary` narrows some of them."""
    words = VOCABULARY | (vocabulary or {})
    pick = {
        name: words[name][rng.integers(len(words[name]))]
        for name in ("subject", "colour", "place", "weather", "size", "flyer")
    }
    items = words["hazard" if unsafe else "object"]
    return Scene(**pick, item=items[rng.integers(len(items))])
