"""Embeddings of every caption and image by one CLIP, shard by shard."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.images import decode_image
from pipeline.models.clip import Clip, encode_images, encode_texts, to_uint8
from pipeline.shards import iterate_output
from pipeline.vectors import normalise


@dataclass(frozen=True)
class EmbedParams:
    """`batch_size`: captions or images in one forward pass."""

    batch_size: int

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {self.batch_size}")


Shard = dict[str, list[str] | np.ndarray]


def embed_captions(world: Path, clip: Clip, params: EmbedParams) -> Iterator[Shard]:
    """Columns of the embeddings table for each shard of captions; vectors (n, D) float32 of unit length.

    Raises NearsafeError naming file and caption when an embedding is not finite.
    """
    for file, table in iterate_output(world, "captions"):
        ids = table.column("caption_id").to_pylist()
        vectors = encode_texts(clip, table.column("text").to_pylist(), params.batch_size)
        yield {"item_id": ids, "modality": ["text"] * len(ids), "vector": normalise(vectors, ids, str(file)).numpy()}


def embed_images(world: Path, clip: Clip, params: EmbedParams) -> Iterator[Shard]:
    """As `embed_captions`, for images. Raises TableError naming file and image for one that cannot be decoded."""
    for file, table in iterate_output(world, "images"):
        ids, cells = table.column("image_id").to_pylist(), table.column("image")
        vectors = []
        for start in range(0, len(ids), params.batch_size):
            batch = zip(ids[start:], cells.slice(start, params.batch_size).to_pylist(), strict=False)
            images = [decode_image(cell, f"{file}: column 'image', image_id {item!r}") for item, cell in batch]
            encoded = encode_images(clip, to_uint8(images, clip.image_size, clip.resample), params.batch_size)
            vectors.append(normalise(encoded, ids[start : start + params.batch_size], str(file)).numpy())
        stacked = np.concatenate(vectors) if vectors else np.zeros((0, clip.model.config.projection_dim), np.float32)
        yield {"item_id": ids, "modality": ["image"] * len(ids), "vector": stacked}
