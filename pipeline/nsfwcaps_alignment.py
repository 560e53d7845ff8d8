"""The text space in which safe and unsafe captions are compared: a CLIP's text tower, or any text encoder folder.

The published set measured with JINA-CLIP; cosines of different embedders do not compare.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.errors import NearsafeError
from pipeline.models.clip import Clip, encode_texts, load_clip
from pipeline.models.hashing import model_hash
from pipeline.models.loading import check_whole, loading
from pipeline.precision import pick_device


@dataclass(frozen=True)
class ClipEmbedder:
    """The text tower of a CLIP; without `folder` that of the base CLIP of `models.clip`."""

    kind: Literal["clip"] = "clip"
    folder: Path | None = None


@dataclass(frozen=True)
class EncoderEmbedder:
    """A `transformers` text encoder folder: mean of the last hidden states over the tokens, normalised."""

    kind: Literal["encoder"]
    folder: Path
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError("batch_size must be at least 1")


class Embedder(Protocol):
    """Texts to vectors."""

    name: str  # with the model's hash
    facts: dict[str, str]

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Vectors (N, D) float32 on the CPU."""
        ...


def load_embedder(params: ClipEmbedder | EncoderEmbedder, clip: Path) -> Embedder:
    """The embedder of `params`; `clip` is the base CLIP's folder. Raises NearsafeError naming a folder."""
    if isinstance(params, EncoderEmbedder):
        return EncoderTexts(params)
    return ClipTexts(load_clip(params.folder or clip))


class ClipTexts:
    """Projected embeddings of a CLIP's text tower."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.name, self.facts = f"CLIP text tower@{clip.hash}", {"model": clip.hash}

    def embed(self, texts: Sequence[str]) -> Tensor:
        """See `Embedder`."""
        return encode_texts(self.clip, texts)


class EncoderTexts:
    """Mean-pooled, normalised states of a text encoder (of a T5-like model its encoder)."""

    def __init__(self, params: EncoderEmbedder) -> None:
        digest = model_hash(params.folder)
        self.params, self.facts = params, {"model": digest}
        self.name = f"{params.folder.name}@{digest}, mean of last hidden states"
        self.tokenizer, self.model = _load(params.folder, pick_device()[0])

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """See `Embedder`. Texts are cut to the model's longest."""
        parts = []
        for start in range(0, len(texts), self.params.batch_size):
            batch = list(texts[start : start + self.params.batch_size])
            tokens = self.tokenizer(batch, padding=True, truncation=True, return_tensors="pt").to(self.model.device)
            states = self.model(**tokens).last_hidden_state
            parts.append(mean_pool(states, tokens["attention_mask"]).float().cpu())
        return torch.cat(parts) if parts else torch.zeros(0, self.model.config.hidden_size)


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of `states` (B, L, D) over the tokens with `mask` (B, L) 1, scaled to length 1: (B, D)."""
    weights = mask.to(states)[..., None]
    return normalize((states * weights).sum(1) / weights.sum(1).clamp(min=1), dim=-1)


def _load(folder: Path, device: torch.device) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    local = {"local_files_only": True, "trust_remote_code": False}
    with loading(folder, "text encoder folder"):
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
        model, report = AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **local
        )
    check_whole(folder, type(model).__name__, model, report)
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    if hasattr(model, "get_text_features"):
        raise NearsafeError(f"{folder}: two towers, not a text encoder; a CLIP is {{kind: clip, folder: ...}}")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, model.to(device).eval()
