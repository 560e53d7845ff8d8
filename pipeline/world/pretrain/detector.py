"""Training of the hazard detector on drawn scenes of both styles, some blurred as a decoder blurs."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy

from pipeline.seeds import rng
from pipeline.world.detector import HazardDetector
from pipeline.world.pretrain.clip import augment
from pipeline.world.pretrain.corpus import TASKS, Corpus
from pipeline.world.pretrain.loop import Run, optimizers
from pipeline.world.scenes import VOCABULARY


def soften(images: Tensor, random: np.random.Generator) -> Tensor:
    """Half of the time a light blur, as a decoder makes."""
    if random.random() < 0.5:
        return images
    share = random.uniform(0.2, 0.9)
    return (1 - share) * images + share * avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)


def detector_run(corpus: Corpus, steps: int, seed: int, batch: int = 64, device: str = "cpu") -> Run:
    """Cross entropy over "none" and the hazards."""
    torch.manual_seed(seed)
    model = HazardDetector(["none", *VOCABULARY["hazard"]]).to(device)
    classes = torch.from_numpy(corpus.labels[:, TASKS.index("hazard")]).long() + 1

    def step(i: int) -> dict[str, Tensor]:
        random = rng(seed, "detector", str(i))
        rows = random.choice(len(corpus), batch, replace=False)
        images = torch.from_numpy(corpus.images[rows]).permute(0, 3, 1, 2).float() / 255
        images = soften(augment(images.roll(int(random.integers(-4, 5)), 3), random), random).to(device)
        loss = cross_entropy(model(images), classes[rows].to(device), label_smoothing=0.02)
        return {"total": loss}

    return Run("detector", model, step, steps, optimizers(model, 4e-3, 2e-3), ema=0.98)
