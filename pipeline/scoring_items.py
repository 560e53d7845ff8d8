"""Benchmark items on their way to a model: images one shard at a time, captions by id, embeddings by id."""

from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from pipeline.errors import TableError
from pipeline.images import decode_image
from pipeline.models.clip import Clip, encode_images, encode_texts
from pipeline.shards import iterate_output
from pipeline.vectors import Vectors, normalise


def images_of(path: Path, wanted: Collection[str]) -> Iterator[tuple[list[str], list[Image.Image]]]:
    """(ids, RGB images) of the wanted items of an output's table "images", shard by shard.

    Raises TableError naming file and row for an unreadable image, and the first wanted id that no shard holds.
    """
    known, seen = pa.array(sorted(wanted), pa.string()), set()
    for file, table in iterate_output(path, "images"):
        mask = pc.is_in(table["image_id"], value_set=known)
        rows = pc.indices_nonzero(mask).to_pylist()
        found = table.filter(mask)
        ids = found["image_id"].to_pylist()
        seen.update(ids)
        cells = zip(rows, ids, found["image"].to_pylist(), strict=True)
        yield ids, [decode_image(cell, f"{file}: row {row} (image_id={item!r})") for row, item, cell in cells]
    if missing := sorted(set(wanted) - seen):
        raise TableError(f"{path}: table 'images': no image {missing[0]!r} ({len(missing)} missing)")


def embed_images(clip: Clip, path: Path, wanted: Collection[str], batch_size: int) -> Vectors:
    """Normalised image embeddings of the wanted items. Raises TableError as `images_of`, NearsafeError for NaN."""
    ids, parts = [], []
    for found, images in images_of(path, wanted):
        ids += found
        parts.append(encode_images(clip, images, batch_size))
    width = clip.model.config.projection_dim
    return _vectors(ids, torch.cat(parts) if parts else torch.zeros(0, width), clip, path)


def embed_texts(clip: Clip, texts: dict[str, str], path: Path, batch_size: int) -> Vectors:
    """Normalised embeddings of texts by id; `path` names the source. Raises NearsafeError for NaN."""
    return _vectors(list(texts), encode_texts(clip, list(texts.values()), batch_size), clip, path)


def _vectors(ids: list[str], values: torch.Tensor, clip: Clip, path: Path) -> Vectors:
    unit = normalise(values, ids, f"{path}, model {clip.hash}")
    return Vectors({item: row for row, item in enumerate(ids)}, unit, clip.hash, Path(path))
