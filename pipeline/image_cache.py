"""Decoded images of a training: a tensor in memory, or a file that is mapped where they do not fit."""

import hashlib
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from pipeline.errors import TableError
from pipeline.files import replacing, writing
from pipeline.images import decode_image
from pipeline.models.clip import Clip, to_uint8
from pipeline.parallel import parallel
from pipeline.shards import iterate_output, output_hash

_BLOCK = 64  # images decoded at a time


@dataclass(frozen=True)
class ImageCache:
    """Where decoded images go when they need more than `memory_mib`: a file of bytes in `folder`, mapped into memory.

    The file is named by what is in it, so that one that was begun is continued and another data set's never taken. A
    second file holds a checksum of every image: one that is not there yet, or damaged, is decoded (again).
    """

    folder: Path
    memory_mib: float


def load_images(ids: Sequence[str], world: Path, clip: Clip, cache: ImageCache | None = None) -> tuple[Tensor, bool]:
    """Images (I, 3, S, S) uint8 in order of `ids`, decoded, resized and cropped; and whether they are in a file.

    In memory (I * 3 * S * S bytes), or mapped from the cache's file where that is more than it allows. Raises
    TableError for an image that is missing or unreadable, NearsafeError when the file cannot be written.
    """
    shape = (len(ids), 3, clip.image_size, clip.image_size)
    if cache is None or np.prod(shape, dtype=float) <= cache.memory_mib * 2**20:
        found = torch.empty(shape, dtype=torch.uint8)
        images, done = found.numpy(), np.zeros(len(ids), bool)
        for rows, decoded in _decode(ids, world, clip, done):
            images[rows] = decoded
            done[rows] = True
        _check_complete(ids, done, world)
        return found, False
    file = cache.folder / f"images-{_key(ids, world, clip)}.bin"
    with writing(file):
        _fill(file, ids, world, clip, shape)
    # Copy on write: the tensor may be written to as any other, the file is not.
    return torch.from_numpy(np.memmap(file, np.uint8, "c", shape=shape)), True


def _fill(file: Path, ids: Sequence[str], world: Path, clip: Clip, shape: tuple[int, ...]) -> None:
    """Decode into `file` what is not there and whole. Rows reach the disk before their checksums do."""
    file.parent.mkdir(parents=True, exist_ok=True)
    images, sums = _open(file, np.uint8, shape), _open(file.with_suffix(".sums.bin"), np.int64, shape[:1])
    done = np.array(parallel(lambda row: bool(sums[row]) and _sum(images[row]) == sums[row], range(len(sums))), bool)
    for rows, decoded in _decode(ids, world, clip, done):
        images[rows] = decoded
        images.flush()
        sums[rows] = [_sum(image) for image in decoded]
        sums.flush()
        done[rows] = True
    _check_complete(ids, done, world)


def _open(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """An array in a file, to read and write; of zeros where there is none."""
    if not path.is_file():
        with replacing(path) as temporary, temporary.open("wb") as new:
            # Claimed at once: a disk that is full says so here, and not by a signal when a page is written.
            size = math.prod(shape) * np.dtype(dtype).itemsize
            os.posix_fallocate(new.fileno(), 0, size) if hasattr(os, "posix_fallocate") else new.truncate(size)
    return np.memmap(path, dtype, "r+", shape=shape)


def _sum(image: np.ndarray) -> int:
    """CRC-32 of an image's bytes, and one more: 0 says that there is none."""
    return zlib.crc32(np.ascontiguousarray(image)) + 1


def _decode(ids: Sequence[str], world: Path, clip: Clip, done: np.ndarray) -> Iterator[tuple[list[int], np.ndarray]]:
    """(rows, images (n, 3, S, S) uint8) of what is not done yet, a shard at a time, decoded over the cores."""
    row = {item: number for number, item in enumerate(ids) if not done[number]}
    wanted = pa.array(list(row), pa.string())
    for file, table in iterate_output(world, "images"):
        table = table.filter(pc.is_in(table.column("image_id"), wanted))
        for start in range(0, table.num_rows, _BLOCK):
            part = table.slice(start, _BLOCK)
            found = part.column("image_id").to_pylist()
            wheres = [f"{file}: column 'image', image_id {item!r}" for item in found]
            cells = list(zip(part.column("image").to_pylist(), wheres, strict=True))
            images = parallel(lambda cell: to_uint8([decode_image(*cell)], clip.image_size, clip.resample)[0], cells)
            yield [row[item] for item in found], torch.stack(images).numpy()


def _check_complete(ids: Sequence[str], done: np.ndarray, world: Path) -> None:
    if not done.all():
        raise TableError(f"{world}: pairs: image {ids[int(np.argmin(done))]!r} is not in the images")


def _key(ids: Sequence[str], world: Path, clip: Clip) -> str:
    digest = hashlib.sha256(f"{output_hash(world)}\0{clip.image_size}\0{clip.resample}".encode())
    for item in ids:
        digest.update(f"\0{item}".encode())
    return digest.hexdigest()[:16]
