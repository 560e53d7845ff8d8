"""The world's text detector: a bag of hashed words and word pairs that names the hazard category of a text."""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.models.loading import check_finite, loading


class TextHazardDetector(nn.Module):
    """Class 0 is "none", the others are hazard categories. Input texts, output logits (N, len(labels)).

    Unknown words weigh nothing: the embeddings start at zero and only what training shows moves. The bias starts in
    favour of "none": a text without evidence is safe.
    """

    def __init__(self, labels: list[str], buckets: int = 4096, width: int = 24) -> None:
        super().__init__()
        self.labels, self.buckets, self.width = list(labels), buckets, width
        self.embed = nn.EmbeddingBag(buckets, width, mode="sum")
        nn.init.zeros_(self.embed.weight)
        self.head = nn.Linear(width, len(labels))
        with torch.no_grad():
            self.head.bias.zero_()[0] = 2.0

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Logits (N, len(labels)); an empty text has those of an unknown one."""
        rows = [features(text, self.buckets) for text in texts]
        device = self.head.weight.device
        flat = torch.tensor([bucket for row in rows for bucket in row], dtype=torch.int64, device=device)
        lengths = torch.tensor([0, *map(len, rows)], device=device)
        return self.head(self.embed(flat, lengths.cumsum(0)[:-1]))

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors (fp16)."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"labels": self.labels, "buckets": self.buckets, "width": self.width}
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        save_file({k: v.half().contiguous() for k, v in self.state_dict().items()}, folder / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "TextHazardDetector":
        """Load in fp32, in evaluation mode. Raises NearsafeError naming a missing or broken folder."""
        folder = Path(folder)
        with loading(folder, "text detector folder"):
            model = cls(**json.loads((folder / "config.json").read_text()))
            model.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
        check_finite(folder, model.named_parameters())
        return model.eval()


def bare_words(phrase: str) -> str:
    """A phrase of the grammar without its frame: "a box of pills" to "pills", "some bones" to "bones"."""
    return re.sub(r"^(?:an?|some) (?:\w+ of )?", "", phrase)


def features(text: str, buckets: int) -> list[int]:
    """Hash buckets of the words and of the pairs of neighbouring words, lower case, each once, in order."""
    words = re.findall(r"[^\W_]+", text.lower())
    grams = [*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))]
    return [crc32(gram.encode()) % buckets for gram in dict.fromkeys(grams)]
