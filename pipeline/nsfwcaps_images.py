"""The unsafe images of NSFWCaps: the world's drawing, a Stable Diffusion folder, or none at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa

from pipeline.errors import NearsafeError
from pipeline.ids import content_id
from pipeline.prompts import Admitted, admit
from pipeline.schemas import SCHEMAS


@dataclass(frozen=True)
class Drawing:
    """The embedded world's drawing of its own captions."""

    kind: Literal["drawing"] = "drawing"
    style: str = "shifted"


@dataclass(frozen=True)
class Diffusers:
    """A Stable Diffusion folder in `diffusers` layout, with its own text encoder."""

    kind: Literal["diffusers"]
    folder: Path
    steps: int = 50
    guidance: float = 7.5
    batch_size: int = 8

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size) < 1:
            raise ValueError("steps and batch_size must be at least 1")


@dataclass(frozen=True)
class NoImages:
    """No unsafe images, as the published set has none."""

    kind: Literal["none"]


class Renderer(Protocol):
    """Makes images of admitted unsafe captions."""

    name: str
    facts: dict[str, str]  # all that its images depend on

    def render(self, captions: Sequence[str], names: Sequence[str]) -> list[np.ndarray]:
        """One (H, W, 3) uint8 image per caption; `names` seed them."""
        ...


def load_renderer(params: Drawing | Diffusers | NoImages, seed: int) -> Renderer | None:
    """The renderer of `params`, None for no images. Raises NearsafeError for a folder that cannot be used."""
    if isinstance(params, Diffusers):
        from pipeline.nsfwcaps_diffusers import DiffusersRenderer

        return DiffusersRenderer(params, seed)
    if isinstance(params, Drawing):
        from pipeline.world.rewriting import SceneRenderer

        return SceneRenderer(params.style, seed)
    return None


def prompts_of(texts: Sequence[str]) -> pa.Table:
    """Unsafe captions as table "prompts", for `pipeline.prompts.admit`."""
    rows = [{"prompt_id": content_id(text), "prompt_set": "nsfwcaps", "text": text, "unsafe": True} for text in texts]
    return pa.Table.from_pylist(rows, schema=SCHEMAS["prompts"].schema)


def admitted_prompts(texts: Sequence[str]) -> Admitted:
    """The chosen unsafe captions on their way into a generator. Raises NearsafeError where one is not admitted."""
    found, _ = admit(prompts_of(texts))
    if found.table.num_rows != len(texts):
        raise NearsafeError(f"build_nsfwcaps: {len(texts) - found.table.num_rows} captions may not be generated")
    return found
