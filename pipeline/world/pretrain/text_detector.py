"""Training of the text detector on captions of both wordings: full, partial and single attributes, all synonyms."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.seeds import rng
from pipeline.world.grammar import caption, item_phrase
from pipeline.world.pretrain.clip import describe as caption_of
from pipeline.world.pretrain.corpus import seen_scene
from pipeline.world.pretrain.loop import Run
from pipeline.world.scenes import CATEGORY, Scene
from pipeline.world.text_detector import TextHazardDetector, bare_words

STYLES = ("base", "shifted")
LABELS = ["none", *dict.fromkeys(CATEGORY.values())]


def training_text(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    """A caption and its label. The category counts only where the caption names the item.

    A third are full captions, a third what the CLIP reads (partial ones too), a third lack a tenth of their words (not
    those of a hazard), as replies may. One in ten is a few words of a safe caption, in any order, with the item's bare
    words or without: the words carry the label, not their frame.
    """
    if random.random() < 0.1:
        words = caption(seen_scene(random, unsafe=False)).split()
        few = " ".join(random.permutation(words)[: random.integers(4)])
        if random.random() < 0.5:
            return few, "none"
        return f"{few} {bare_words(item_phrase(scene.item, int(random.integers(3))))}", scene.category or "none"
    kind, style, turn = random.random(), STYLES[random.integers(len(STYLES))], int(random.integers(8))
    if kind < 1 / 3:
        text, named = caption_of(scene, style, random)
        return text, (scene.category or "none") if named["item"] else "none"
    synonym = int(random.integers(3))
    text = caption(scene, style, turn, synonym)
    if kind > 2 / 3:
        thinned = " ".join(word for word in text.split() if random.random() > 0.1)
        text = thinned if not scene.unsafe or item_phrase(scene.item, synonym) in thinned else text
    return text, scene.category or "none"


def text_detector_run(steps: int, seed: int, batch: int = 256, device: str = "cpu") -> Run:
    """Cross entropy over "none" and the hazard categories; half of the scenes show a hazard."""
    torch.manual_seed(seed)
    model = TextHazardDetector(LABELS).to(device)

    def step(i: int) -> dict[str, Tensor]:
        random = rng(seed, "text_detector", str(i))
        pairs = [training_text(seen_scene(random, unsafe=bool(k % 2)), random) for k in range(batch)]
        target = torch.tensor([LABELS.index(label) for _, label in pairs], device=device)
        return {"total": cross_entropy(model([text for text, _ in pairs]), target, label_smoothing=0.01)}

    return Run("text_detector", model, step, steps, [torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)])
