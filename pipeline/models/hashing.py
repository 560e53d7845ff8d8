"""Hashes that say which model, and which code, made a number."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import NearsafeError
from pipeline.models import hub
from pipeline.models.folders import check_folder

# What changes a model's output: weights, configurations, vocabularies, chat templates. Cards and licences do not.
_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja"})


def model_hash(folder: Path) -> str:
    """16 hexadecimal digits of the SHA-256 over names and bytes of a model folder's weights and configurations.

    Works for transformers and diffusers folders (subfolders are included; what `nearsafe fetch` notes is not). Every
    loader asks for it first. Raises NearsafeError for a folder that is missing, that `check_folder` refuses or that
    holds no .safetensors file, and for a fetched file that was changed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NearsafeError(hub.missing(folder))
    check_folder(folder)
    found = (file for file in folder.rglob("*") if file.is_file() and file.suffix in _SUFFIXES)
    files = sorted(file for file in found if file.name != hub.RECORD)
    if not any(file.suffix == ".safetensors" for file in files):
        raise NearsafeError(hub.no_weights(folder))
    record = hub.find_record(folder)
    if record is None:
        return _digest(files, folder)
    sums: dict[Path, str] = {}
    digest = _digest(files, folder, sums)
    part = "" if folder == record.folder else f"{folder.relative_to(record.folder).as_posix()}/"
    hub.check(record, {file.relative_to(record.folder).as_posix(): found for file, found in sums.items()}, part)
    return digest


def source_hash(files: Iterable[Path]) -> str:
    """16 hexadecimal digits of the SHA-256 over source files, by file name: a resumed run must be of the same code."""
    return _digest(sorted(map(Path, files)), None)


def _digest(files: Iterable[Path], root: Path | None, sums: dict[Path, str] | None = None, chunk: int = 1 << 20) -> str:
    """The digest; `sums` gets the SHA-256 of each file by itself, from the same reading."""
    digest = hashlib.sha256()
    for path in files:
        name = path.relative_to(root).as_posix() if root else path.name
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        own = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(chunk):
                digest.update(block)
                if sums is not None:
                    own.update(block)
        if sums is not None:
            sums[path] = own.hexdigest()
    return digest.hexdigest()[:16]
