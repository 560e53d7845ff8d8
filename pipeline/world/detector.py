"""The world's hazard detector: a small convolutional net that names the hazard pictogram in a 64x64 picture."""

import itertools
import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.models.loading import check_finite, loading


class HazardDetector(nn.Module):
    """Class 0 is "none", the others are hazards. Input (N, 3, 64, 64) in [0, 1], output logits (N, len(labels))."""

    def __init__(self, labels: list[str], width: int = 32) -> None:
        super().__init__()
        self.labels, self.width, self.num_features = list(labels), width, 4 * width
        channels = [3, width, 2 * width, 3 * width, 4 * width]
        blocks = []
        for i, (a, b) in enumerate(itertools.pairwise(channels)):
            blocks += [
                nn.Conv2d(a, b, 5 if i == 0 else 3, stride=2, padding=2 if i == 0 else 1, bias=False),
                nn.BatchNorm2d(b),
                nn.ReLU(),
            ]
            blocks += [nn.Conv2d(b, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()] if i else []
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(self.num_features, len(labels))

    def features(self, images: Tensor) -> Tensor:
        """Mean of the last feature map, (N, num_features)."""
        return self.body(images * 2 - 1).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        # the strongest place decides: a hazard is small and may stand anywhere
        return self.head(self.body(images * 2 - 1).amax((2, 3)))

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors (fp16)."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"labels": self.labels, "width": self.width}, indent=1) + "\n")
        tensors = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in self.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "HazardDetector":
        """Load in fp32, in evaluation mode. Raises NearsafeError naming a missing or broken folder."""
        folder = Path(folder)
        with loading(folder, "hazard detector folder"):
            model = cls(**json.loads((folder / "config.json").read_text()))
            tensors = load_file(folder / "model.safetensors")
            model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
        check_finite(folder, model.named_parameters())
        return model.eval()


def hazard_probability(logits: Tensor) -> Tensor:
    """P(any hazard), (N,), from logits whose class 0 is "none"."""
    return 1 - logits.softmax(-1)[:, 0]
