"""Embeddings of every caption and image by one CLIP, shard by shard, continued where a stopped run was."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from pipeline import images, parallel, vectors
from pipeline.compute import Compute, Log, Shard, Task, open_pool, run_shards
from pipeline.images import decode_images
from pipeline.layout import shard_file
from pipeline.models import clip as clip_module
from pipeline.models.clip import Clip, encode_images, encode_texts, load_clip, to_uint8
from pipeline.models.hashing import model_hash, source_hash
from pipeline.parallel import ahead
from pipeline.params import to_spec
from pipeline.precision import pick_device
from pipeline.shards import Part, output_hash, parts
from pipeline.tables import Output
from pipeline.vectors import normalise

_LIBRARIES = ("torch", "transformers", "pillow")
_MODALITIES = {"text": "captions", "image": "images"}


@dataclass(frozen=True)
class EmbedParams:
    """`batch_size`: captions or images in one forward pass."""

    batch_size: int

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {self.batch_size}")


Columns = dict[str, list[str] | np.ndarray]


def embed_world(world: Path, clip: Path, params: EmbedParams, compute: Compute, out: Path, log: Log) -> None:
    """One shard of normalised float32 vectors per shard of captions and images of `world`. Raises NearsafeError."""
    digest = model_hash(clip)
    log(f"{pick_device()[1]}; float32")
    task = Task(partial(_load, clip), partial(embed_part, params), _read)
    with open_pool(task, compute, log) as pool:
        output = Output(out, _spec(params, {"world": output_hash(world), "clip": digest}), resume=True)

        def write(shard: Shard, columns: Columns) -> None:
            output.write(shard.files[0], "embeddings", columns, metadata={"model_hash": digest})
            log(f"{shard.files[0]}: {shard.rows} vectors")

        shards = [
            Shard((shard_file(f"embeddings-{modality}", number),), part, modality, part.rows)
            for modality, table in _MODALITIES.items()
            for number, part in enumerate(parts(world, table))
        ]
        run_shards(pool, shards, output, write, log)
        output.finish()


def embed_part(params: EmbedParams, clip: Clip, found: tuple[Part, pa.Table]) -> Columns:
    """Columns of the embeddings table of one shard; vectors (n, D) float32 of unit length.

    Raises NearsafeError naming file and item for an embedding that is not finite, TableError for an image that cannot
    be decoded.
    """
    part, table = found
    modality = "text" if part.table == "captions" else "image"
    ids = table.column(0).to_pylist()
    make = _texts if modality == "text" else _images
    batches = [values.numpy() for values in make(clip, part.file, table, params.batch_size)]
    empty = np.zeros((0, clip.model.config.projection_dim), np.float32)
    return {"item_id": ids, "modality": [modality] * len(ids), "vector": np.concatenate([empty, *batches])}


def _texts(clip: Clip, file: Path, table: pa.Table, size: int) -> Iterator[Tensor]:
    found = encode_texts(clip, table["text"].to_pylist(), size)
    yield normalise(found, table["caption_id"].to_pylist(), str(file))


def _images(clip: Clip, file: Path, table: pa.Table, size: int) -> Iterator[Tensor]:
    """The next batch is decoded and resized while the model works on this one: two batches of pixels at most."""
    for ids, pixels in ahead(_pixels(clip, file, table, size)):
        yield normalise(encode_images(clip, pixels, size), ids, str(file))


def _pixels(clip: Clip, file: Path, table: pa.Table, size: int) -> Iterator[tuple[list[str], Tensor]]:
    for start in range(0, table.num_rows, size):
        batch = table.slice(start, size)
        ids = batch["image_id"].to_pylist()
        wheres = [f"{file}: column 'image', image_id {item!r}" for item in ids]
        yield ids, to_uint8(decode_images(batch["image"].to_pylist(), wheres), clip.image_size, clip.resample)


def _load(folder: Path) -> Clip:
    return load_clip(folder, pick_device()[0])


def _read(part: Part) -> tuple[Part, pa.Table]:
    return part, part.read()


def _spec(params: EmbedParams, inputs: dict[str, str]) -> dict[str, Any]:
    """All that vectors depend on. The code is part of it: finished shards of older code are not continued."""
    modules = (clip_module, images, parallel, vectors)
    return {
        "stage": "embed",
        "params": to_spec(params),
        "inputs": inputs,
        "versions": {library: version(library) for library in _LIBRARIES},
        "code": source_hash([Path(__file__), *(Path(module.__file__) for module in modules)]),
    }
