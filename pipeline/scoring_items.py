"""Benchmark items on their way to a model: images one shard at a time, captions by id, embeddings by id."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from pipeline.errors import NearsafeError, TableError
from pipeline.images import decode_image
from pipeline.models.clip import Clip, encode_images, encode_texts
from pipeline.shards import iterate_output
from pipeline.vectors import Vectors, normalise


def images_of(path: Path, wanted: Collection[str], block: int = 256) -> Iterator[tuple[list[str], list[Image.Image]]]:
    """(ids, RGB images) of the wanted items of an output's table "images", in order of the shards, `block` at a time:
    a shard of photographs in full size would not fit in memory.

    Raises TableError naming file and row for an unreadable image, and the first wanted id that no shard holds.
    """
    known, seen = pa.array(sorted(wanted), pa.string()), set()
    for file, table in iterate_output(path, "images"):
        mask = pc.is_in(table["image_id"], value_set=known)
        rows = pc.indices_nonzero(mask).to_pylist()
        found = table.filter(mask)
        ids = found["image_id"].to_pylist()
        seen.update(ids)
        for at in range(0, len(ids), block):
            cells = zip(rows[at:], ids[at:], found["image"].slice(at, block).to_pylist(), strict=False)
            images = [decode_image(cell, f"{file}: row {row} (image_id={item!r})") for row, item, cell in cells]
            yield ids[at : at + block], images
    if missing := sorted(set(wanted) - seen):
        raise TableError(f"{path}: table 'images': no image {missing[0]!r} ({len(missing)} missing)")


@dataclass(frozen=True)
class Encoder:
    """A model that embeds items; those that `known_texts` and `known_images` have are not embedded again."""

    clip: Clip
    batch_size: int
    known_texts: Vectors | None = None
    known_images: Vectors | None = None

    def __post_init__(self) -> None:
        for known in (self.known_texts, self.known_images):
            if known and known.model_hash != self.clip.hash:
                raise NearsafeError(f"{known.path}: made by model {known.model_hash}, the model is {self.clip.hash}")

    def images(self, path: Path, wanted: Collection[str]) -> Vectors:
        """Normalised image embeddings of the wanted items. Raises TableError as `images_of`, NearsafeError for NaN."""
        new = [item for item in wanted if not self.known_images or item not in self.known_images.row]
        ids, parts = [], []
        for found, images in images_of(path, new, self.batch_size) if new else ():
            ids += found
            parts.append(encode_images(self.clip, images, self.batch_size))
        width = self.clip.model.config.projection_dim
        values = torch.cat(parts) if parts else torch.zeros(0, width)
        return _joined(_vectors(ids, values, self.clip, path), self.known_images, wanted)

    def texts(self, texts: dict[str, str], path: Path) -> Vectors:
        """Normalised embeddings of texts by id; `path` names the source. Raises NearsafeError for NaN."""
        new = {item: t for item, t in texts.items() if not self.known_texts or item not in self.known_texts.row}
        values = encode_texts(self.clip, list(new.values()), self.batch_size)
        return _joined(_vectors(list(new), values, self.clip, path), self.known_texts, texts)


def _joined(new: Vectors, known: Vectors | None, wanted: Collection[str]) -> Vectors:
    old = [item for item in wanted if item not in new.row]
    if not known or not old:
        return new
    ids = [*new.row, *old]
    values = torch.cat([new.values, known.of(old)])
    return Vectors({item: row for row, item in enumerate(ids)}, values, new.model_hash, new.path)


def _vectors(ids: list[str], values: torch.Tensor, clip: Clip, path: Path) -> Vectors:
    unit = normalise(values, ids, f"{path}, model {clip.hash}")
    return Vectors({item: row for row, item in enumerate(ids)}, unit, clip.hash, Path(path))
