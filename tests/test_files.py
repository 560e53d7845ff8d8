"""Files that appear whole, and what a disk that does not take them says."""

import resource
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.errors import NearsafeError, disk_error
from pipeline.files import give_usual_modes, replacing, writing

MANY = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8)
WRITERS = {
    "text": lambda path: path.write_text("x" * 300_000),
    "parquet": lambda path: pq.write_table(pa.table({"a": MANY}), path, compression="none"),
    "safetensors": lambda path: save_file({"a": torch.from_numpy(MANY)}, path),
    "picture": lambda path: Image.fromarray(MANY.reshape(500, 600)).save(path, format="PNG"),
}


@contextmanager
def small_files(size: int = 64_000) -> Iterator[None]:
    """No file may become larger: what a disk without room does, for those who may not mount one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_without_room_is_one_line_and_the_old_one_stays(tmp_path, kind):
    path = tmp_path / "folder" / "file"
    with replacing(path) as temporary:
        temporary.write_text("old")
    with small_files(), pytest.raises(NearsafeError) as told, replacing(path) as temporary:
        WRITERS[kind](temporary)
    assert str(told.value).startswith(f"{path}: cannot be written: a file may not become that large")
    assert path.read_text() == "old" and [file.name for file in path.parent.iterdir()] == ["file"]
    with replacing(path) as temporary:
        WRITERS[kind](temporary)
    assert path.stat().st_size > 250_000


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "the disk is full"),
        (OSError(30, "Read-only file system"), "the file system is read-only"),
        (PermissionError(13, "Permission denied"), "permission denied"),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "the file system is read-only"),
        (duckdb.IOException("Could not write file: No space left on device"), "the disk is full"),
    ],
)
def test_what_a_disk_says_is_known_from_every_library(error, reason):
    with pytest.raises(NearsafeError, match=f"out: cannot be written: {reason}"), writing("out"):
        raise error


def test_other_errors_pass_and_reading_is_not_mistaken_for_writing():
    with pytest.raises(FileNotFoundError), writing("out"):
        raise FileNotFoundError(2, "No such file or directory")
    assert disk_error(PermissionError(13, "Permission denied", "secret"), "out", wrote=False) is None
    told = disk_error(OSError(28, "No space left on device", "out/a"), "out", wrote=False)
    assert str(told).startswith("out/a: ")


def test_weights_can_be_read_by_whom_other_new_files_can_be(tmp_path):
    (tmp_path / "plain.json").write_text("{}")
    (tmp_path / "part").mkdir()
    save_file({"a": torch.zeros(2)}, tmp_path / "part/model.safetensors")
    give_usual_modes(tmp_path)
    modes = {file.stat().st_mode for file in (tmp_path / "plain.json", tmp_path / "part/model.safetensors")}
    assert len(modes) == 1 and not list(tmp_path.glob(".mode"))
