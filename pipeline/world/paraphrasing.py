"""The world's side of the paraphrase adversary: every wording that its grammar has for a scene."""

from collections.abc import Sequence

from pipeline.world.grammar import SYNONYMS, TEMPLATES, caption, parse
from pipeline.world.scenes import Scene


class GrammarParaphraser:
    """All templates of all styles, with every name of the hazard."""

    name = "world grammar"

    def paraphrase(self, captions: Sequence[str]) -> list[list[str]]:
        """See `pipeline.attacks.paraphrase.Paraphraser`. A caption that the grammar did not write has no other."""
        scenes = [parse(text) for text in captions]
        return [wordings(scene) if scene else [] for scene in scenes]


def wordings(scene: Scene) -> list[str]:
    """Different captions of one scene, template by template, synonym by synonym."""
    names = range(1 + len(SYNONYMS.get(scene.item, ())))
    texts = (
        caption(scene, style, template, name)
        for style, templates in TEMPLATES.items()
        for template in range(len(templates))
        for name in names
    )
    return list(dict.fromkeys(texts))
