"""Fill the hub/<org>/<name> folders that a parameter file names: the one place that asks a model hub for anything.

Pinned commits, no pickles, no code. A folder appears whole, by a rename, with `nearsafe.json` in it; until then what
has arrived lies beside it, and the next call continues with the files that are not whole yet.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import NearsafeError
from pipeline.models import hub
from pipeline.params import load

SECTION = "hub"
_ID = re.compile(r"[\w.-]+/[\w.-]+")
_KINDS = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja"})
_INDEX = "model_index.json"
# Weights as from_pretrained looks for them. Others beside them are the same once more, in another layout or precision:
# model.fp16.safetensors, open_clip_model.safetensors, v1-5-pruned.safetensors.
_PLAIN = re.compile(r"(model|diffusion_pytorch_model)(-\d+-of-\d+)?\.safetensors")
_OTHER_INDEX = re.compile(r".*\.safetensors\.index\.\w+\.json")
_SPARE = 1 << 28  # bytes that stay free on the disk
Say = Callable[[str], None]


@dataclass(frozen=True)
class File:
    """A file of a repository: size in bytes, and its SHA-256 (large files) or git blob id (small ones)."""

    name: str
    size: int
    sha256: str | None
    blob: str | None


def references(params: Path) -> list[str]:
    """Hub ids of all folders hub/<org>/<name> that the file names, wherever, sorted."""
    return sorted({name for text in _texts(load(params)) if (name := hub.hub_id(Path(text))) is not None})


def read_pins(params: Path) -> dict[str, str]:
    """Section `hub`: commit by hub id. Raises NearsafeError naming the entry that is no commit."""
    section = load(params).get(SECTION) or {}
    if not isinstance(section, Mapping):
        raise NearsafeError(f"{params}: {SECTION}: expected a mapping of org/name to a commit")
    for name, revision in section.items():
        if not _ID.fullmatch(str(name)) or not hub.is_commit(revision):
            wanted = "expected org/name: a commit of 40 hexadecimal digits, in quotes; a branch or a tag is no pin"
            raise NearsafeError(f"{params}: {SECTION}.{name}: {wanted}, got {revision!r}")
    return {str(name): revision for name, revision in section.items()}


def fetch(params: Path, root: Path, say: Say) -> list[Path]:
    """Fill, or verify, every hub folder of the parameter file below `root`; the folders.

    `say` gets one line each. A folder without `nearsafe.json` was put there by hand and is left as it is. The hub is
    that of HF_ENDPOINT; HF_TOKEN, where set, is sent to it. Raises NearsafeError: no pin (naming the newest commit), a
    changed file, HF_HUB_OFFLINE, a hub that does not have it, a full disk, a file that arrives with another hash.
    """
    pins, folders = read_pins(params), []
    for name in references(params):
        folder = root / hub.ROOT / name
        folders.append(folder)
        record = hub.find_record(folder) if folder.is_dir() else None
        if folder.is_dir() and record is None:
            say(f"{folder}: put there by hand (no {hub.RECORD}), left as it is")
        elif record is not None and record.revision == pins.get(name, record.revision):
            hub.verify(folder)
            say(f"{folder}: there, {len(record.files)} files as fetched at {record.revision[:12]}")
        else:
            _online(name)
            if name not in pins:
                with _errors(name):
                    newest = _info(name, "main").sha
                raise NearsafeError(f"{params}: {SECTION}: no pin of {name}: add `{name}: {newest}`, its newest commit")
            _download(name, pins[name], folder, say)
    if not folders:
        say(f"{params}: names no folder hub/<org>/<name>: nothing to fetch")
    return folders


def wanted(files: Iterable[File], index: Mapping[str, Any] | None = None) -> list[File]:
    """The files to fetch: no pickles, no code, nothing twice; of a diffusers repository (`index`: its model_index.json)
    the parts that the pipeline has, without the safety checker.
    """
    kept = [file for file in files if PurePosixPath(file.name).suffix in _KINDS and not _OTHER_INDEX.match(file.name)]
    if index is not None:
        parts = {part for part, what in index.items() if isinstance(what, list) and what and what[0]}
        parts -= {"safety_checker"}
        kept = [file for file in kept if _part(file) in parts or ("/" not in file.name and not _weights(file))]
    whole = {str(PurePosixPath(file.name).parent) for file in kept if _PLAIN.fullmatch(PurePosixPath(file.name).name)}
    return [
        file
        for file in kept
        if not _weights(file)
        or _PLAIN.fullmatch(PurePosixPath(file.name).name)
        or str(PurePosixPath(file.name).parent) not in whole
    ]


def _download(name: str, revision: str, folder: Path, say: Say) -> None:
    from huggingface_hub import hf_hub_download

    partial = folder.with_name(f".{folder.name}.tmp")

    def get(file: str) -> Path:
        return Path(hf_hub_download(name, file, revision=revision, local_dir=partial, endpoint=_endpoint()))

    with _errors(name, revision):
        info = _info(name, revision)
        if info.sha != revision:
            raise NearsafeError(f"{name}: the hub answers with commit {info.sha} for the pinned {revision}")
        files = [_file(sibling) for sibling in info.siblings]
        is_pipeline = any(file.name == _INDEX for file in files)
        files = wanted(files, json.loads(get(_INDEX).read_text(encoding="utf-8")) if is_pipeline else None)
        if not any(_weights(file) for file in files):
            raise NearsafeError(f"{name} at {revision[:12]}: holds no .safetensors file; pickles are never loaded")
        _room(files, partial, folder)
        say(f"{folder}: {len(files)} files, {sum(file.size for file in files) / 1e9:.2f} GB at {revision[:12]}")
        sums = {file.name: _checked(file, get(file.name)) for file in files}
    for left in [path for path in sorted(partial.rglob("*")) if path.is_file()]:
        if left.relative_to(partial).as_posix() not in sums:  # of another revision, or the library's own notes
            left.unlink()
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    record = {file.name: (file.size, sums[file.name]) for file in files}
    hub.write_record(hub.Record(partial, name, revision, record))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    say(f"{folder}: fetched")


def _checked(file: File, path: Path) -> str:
    """SHA-256 of what arrived, which must be what the hub announced. The file is removed where it is not."""
    size, digest = path.stat().st_size, hub.sha256(path)
    good = size == file.size and file.sha256 in (None, digest)
    if good and file.sha256 is None and file.blob is not None:
        blob = hashlib.sha1(f"blob {size}\0".encode() + path.read_bytes(), usedforsecurity=False)
        good = blob.hexdigest() == file.blob
    if not good:
        path.unlink()
        raise NearsafeError(f"{path}: arrived with another size or hash than the hub announces: fetch again")
    return digest


def _room(files: list[File], partial: Path, folder: Path) -> None:
    there = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    need = sum(file.size for file in files) - there + _SPARE
    place = next(parent for parent in folder.parents if parent.is_dir())
    if (free := shutil.disk_usage(place).free) < need:
        raise NearsafeError(f"{folder}: needs {need / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free")


def _info(name: str, revision: str) -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=_endpoint()).model_info(name, revision=revision, files_metadata=True)


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _file(sibling: Any) -> File:
    digest = sibling.lfs.sha256 if sibling.lfs else None
    return File(sibling.rfilename, int(sibling.size or 0), digest, None if digest else sibling.blob_id)


def _online(name: str) -> None:
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        raise NearsafeError(f"{name} is not here and HF_HUB_OFFLINE is set: `HF_HUB_OFFLINE=0 nearsafe fetch` gets it")


@contextmanager
def _errors(name: str, revision: str = "main") -> Iterator[None]:
    """The hub's refusals in one line each, without tokens or addresses of storage."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        fix = "accept its licence on its page and set HF_TOKEN"
        raise NearsafeError(f"{name}: the hub asks for an account that may load it: {fix}") from error
    except errors.RevisionNotFoundError as error:
        raise NearsafeError(f"{name}: the hub has no commit {revision}: correct section `{SECTION}`") from error
    except errors.RepositoryNotFoundError as error:
        raise NearsafeError(f"{name}: the hub has no such model, or hides it from you (HF_TOKEN)") from error
    except (errors.HTTPError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NearsafeError(f"{name}: could not be fetched: {reason}; the next call continues") from error


def _weights(file: File) -> bool:
    return file.name.endswith(".safetensors")


def _part(file: File) -> str:
    return file.name.split("/")[0] if "/" in file.name else ""


def _texts(value: Any) -> Iterator[str]:
    """Every string among the values, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
