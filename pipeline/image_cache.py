"""Decoded images of a training: a tensor in memory, or a file that is mapped where they do not fit."""

import hashlib
import os
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
    """Where decoded images go when they need more than `memory_mib`: a .npy file in `folder`, mapped into memory.

    The file is named by what is in it, so that one that was begun is continued and another data set's never taken.
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
    file = cache.folder / f"images-{_key(ids, world, clip)}.npy"
    with writing(file):
        _fill(file, ids, world, clip, shape)
    # Copy on write: the tensor may be written to as any other, the file is not.
    return torch.from_numpy(np.load(file, mmap_mode="c")), True


def _fill(file: Path, ids: Sequence[str], world: Path, clip: Clip, shape: tuple[int, ...]) -> None:
    """Decode into `file`. A second file says which rows are there: rows reach the disk before they are marked."""
    marks = file.with_suffix(".done.npy")
    if file.is_file() and not marks.is_file():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    if not (file.is_file() and marks.is_file()):  # the marks first: without them a file counts as finished
        for path, dtype, size in ((marks, bool, shape[:1]), (file, np.uint8, shape)):
            with replacing(path) as temporary:
                np.lib.format.open_memmap(temporary, "w+", dtype, size).flush()
                _take_room(temporary)
    images = np.lib.format.open_memmap(file, "r+")
    done = np.lib.format.open_memmap(marks, "r+")
    for rows, decoded in _decode(ids, world, clip, done):
        images[rows] = decoded
        images.flush()
        done[rows] = True
        done.flush()
    _check_complete(ids, done, world)
    marks.unlink()


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


def _take_room(file: Path) -> None:
    """Give every page of a mapped file its room on the disk now: later, a full disk ends the process by a signal."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
