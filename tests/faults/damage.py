"""What happens to files: a bit that turns, a file of another run in its place."""

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turned(file: Path, bit: int) -> Iterator[None]:
    """One bit of the file is another, in the block."""
    before = file.read_bytes()
    content = bytearray(before)
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(before)


def bits(file: Path, count: int, seed: int = 0) -> list[int]:
    """`count` different bits of the file, drawn with a seed."""
    return random.Random(seed).sample(range(8 * file.stat().st_size), count)


@contextmanager
def replaced(file: Path, other: Path) -> Iterator[None]:
    """Another file (or folder) stands in the place of this one, in the block."""
    aside = file.with_name(f"{file.name}.aside")
    file.rename(aside)
    try:
        shutil.copytree(other, file) if other.is_dir() else shutil.copyfile(other, file)
        yield
    finally:
        shutil.rmtree(file) if file.is_dir() else file.unlink()
        aside.rename(file)


def files(folder: Path) -> dict[str, bytes]:
    """Content by path of every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
