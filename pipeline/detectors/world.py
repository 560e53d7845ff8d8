"""The embedded world's hazard detector as a detector of the pipeline: one finding per label, "none" included."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.detectors.base import Finding
from pipeline.models.hashing import model_hash
from pipeline.parallel import parallel
from pipeline.world.detector import HazardDetector

SIZE = 64
NAME = "world"


class WorldDetector:
    """P(hazard) of an image is 1 minus the score of "none", the sum of the other labels' scores (a softmax)."""

    name = NAME

    def __init__(self, folder: Path, device: torch.device | str = "cpu", batch_size: int = 256) -> None:
        """Load the weights. Raises NearsafeError naming a missing or broken folder."""
        self.hash = model_hash(folder)
        self.model = HazardDetector.from_pretrained(folder).to(device)
        self.labels = self.model.labels
        self.batch_size = batch_size

    @torch.inference_mode()
    def detect(self, images: Sequence[Image.Image]) -> list[list[Finding]]:
        """One finding per label for each image."""
        device = next(self.model.parameters()).device
        found = []
        for start in range(0, len(images), self.batch_size):
            batch = to_tensor(images[start : start + self.batch_size]).to(device)
            scores = self.model(batch).softmax(-1).cpu().tolist()
            found += [[Finding(*pair) for pair in zip(self.model.labels, row, strict=True)] for row in scores]
        return found


class WorldFeatures(nn.Module):
    """The detector's penultimate features, the network of the Fréchet distance: (N, 3, 64, 64) -> (N, num_features)."""

    def __init__(self, detector: WorldDetector) -> None:
        super().__init__()
        self.network = detector.model
        self.num_features = detector.model.num_features
        self.name = f"{detector.name}-features@{detector.hash}"

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Features (N, num_features) float32 on the CPU of images in [0, 1]."""
        return self.network.features(images.to(next(self.network.parameters()).device)).float().cpu()

    def of(self, images: Sequence[Image.Image], batch_size: int = 256) -> Tensor:
        """Features (N, num_features) float32 of RGB images."""
        batches = [to_tensor(images[i : i + batch_size]) for i in range(0, len(images), batch_size)]
        return torch.cat([self(batch) for batch in batches]) if batches else torch.zeros(0, self.num_features)


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """(N, 3, 64, 64) float32 in [0, 1]; images of another size are resized (bilinear, antialiased)."""
    resizing = any(image.size != (SIZE, SIZE) for image in images)
    arrays = parallel(_sized, images) if resizing else [_sized(image) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def _sized(image: Image.Image) -> np.ndarray:
    fits = image.size == (SIZE, SIZE)
    return np.asarray((image if fits else image.resize((SIZE, SIZE), Image.BILINEAR)).convert("RGB"))
