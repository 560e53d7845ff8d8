"""What makes unsafe captions: one small interface over the world's grammar and language models."""

from collections.abc import Sequence
from typing import Protocol


class Rewriter(Protocol):
    """Proposes minimal unsafe edits of captions. What it proposes is checked, not trusted."""

    name: str  # as tables and the data card name it
    facts: dict[str, str]  # all that its answers depend on: part of the output's spec

    def rewrite(self, captions: Sequence[str], categories: Sequence[str]) -> list[str | None]:
        """For each caption an edit that adds one element of the category beside it; `None` where there is none."""
        ...
