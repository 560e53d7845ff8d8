"""The world's side of NSFWCaps: its grammar as the rewriter, its drawing as the renderer."""

from collections.abc import Sequence

import numpy as np

from pipeline.errors import NearsafeError
from pipeline.seeds import rng
from pipeline.world.drawing import STYLES, draw
from pipeline.world.grammar import hazards_of, parse, unsafe_edit


class GrammarRewriter:
    """Replaces the one safe object of a caption by a hazard of the category, and nothing else."""

    name = "world grammar"

    def __init__(self, seed: int) -> None:
        self.seed, self.facts = seed, {"seed": str(seed)}

    def rewrite(self, captions: Sequence[str], categories: Sequence[str]) -> list[str | None]:
        """See `pipeline.rewriting.protocol.Rewriter`. Raises NearsafeError for a category the world does not have."""
        edits = []
        for caption, category in zip(captions, categories, strict=True):
            if not (choices := hazards_of(category)):
                raise NearsafeError(f"build_nsfwcaps.categories: the world has no hazard of category {category!r}")
            edits.append(unsafe_edit(caption, choices[rng(self.seed, "rewrite", caption).integers(len(choices))]))
        return edits


class SceneRenderer:
    """Draws what a full caption of the grammar describes."""

    def __init__(self, style: str, seed: int) -> None:
        if style not in STYLES:
            raise NearsafeError(f"build_nsfwcaps.images.style: no style {style!r}; known: {', '.join(STYLES)}")
        self.style, self.seed = STYLES[style], seed
        self.name, self.facts = f"world drawing, style {style}", {"seed": str(seed)}

    def render(self, captions: Sequence[str], names: Sequence[str]) -> list[np.ndarray]:
        """See `pipeline.nsfwcaps_images.Renderer`. Raises NearsafeError for a caption that is not the grammar's."""
        images = []
        for caption, name in zip(captions, names, strict=True):
            if (scene := parse(caption)) is None:
                raise NearsafeError(
                    f"build_nsfwcaps: cannot draw a caption that the world's grammar did not write: {caption[:80]!r}"
                )
            images.append(draw(scene, self.style, rng(self.seed, "render", name)))
        return images
