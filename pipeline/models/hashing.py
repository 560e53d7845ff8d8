"""Hashes that say which model, and which code, made a number."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import NearsafeError

# What changes a model's output: weights, configurations, vocabularies, chat templates. Cards and licences do not.
_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja"})


def model_hash(folder: Path) -> str:
    """16 hexadecimal digits of the SHA-256 over names and bytes of a model folder's weights and configurations.

    Works for transformers and diffusers folders (subfolders are included). Raises NearsafeError for a folder that is
    missing or holds no .safetensors file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NearsafeError(f"{folder}: no such model folder")
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix in _SUFFIXES)
    if not any(file.suffix == ".safetensors" for file in files):
        raise NearsafeError(f"{folder}: not a model folder: it holds no .safetensors file")
    return _digest(files, folder)


def source_hash(files: Iterable[Path]) -> str:
    """16 hexadecimal digits of the SHA-256 over source files, by file name: a resumed run must be of the same code."""
    return _digest(sorted(map(Path, files)), None)


def _digest(files: Iterable[Path], root: Path | None, chunk: int = 1 << 20) -> str:
    digest = hashlib.sha256()
    for path in files:
        name = path.relative_to(root).as_posix() if root else path.name
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(chunk):
                digest.update(block)
    return digest.hexdigest()[:16]
