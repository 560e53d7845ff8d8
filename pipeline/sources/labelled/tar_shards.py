"""Tar shards in the manner of WebDataset: the members of one sample follow each other and share a name up to a dot.

Read with the standard library, as a stream: nothing is unpacked, so a member's name reaches no file system, and only
images, class ids and texts are looked at. Members of other kinds (pickles and tensors among them), links and devices
are never read.
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pipeline.errors import TableError, reason
from pipeline.ids import whole_number
from pipeline.sources.labelled.folders import SUFFIXES
from pipeline.sources.labelled.items import Item, Label
from pipeline.sources.pictures import MAX_BYTES
from pipeline.sources.protocol import Drops, Place

_IMAGES = tuple(suffix.lstrip(".") for suffix in SUFFIXES)
_TEXTS = ("cls", "txt", "json")
_MAX_TEXT = 1 << 20
_NAMES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_SOUND = (tarfile.ReadError, tarfile.EOFHeaderError)  # a true end, and what is an error already


class _Member(tarfile.TarInfo):
    """A header that is sound, or an error: the library takes a broken one for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """The next header. Raises EOFHeaderError at the end, ReadError for anything else that is none."""
        try:
            return super().fromtarfile(archive)
        except _SOUND:
            raise
        except Exception as error:  # the parser raises whatever the header leads it to
            raise tarfile.ReadError(f"a broken header ({type(error).__name__})") from None

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """The library's own place for checks: it reads long names whole, and a few packed bytes can be many."""
        if self.type in _NAMES and self.size > _MAX_TEXT:
            raise tarfile.ReadError(f"a name of {self.size >> 20} MiB")
        return super()._proc_member(archive)  # type: ignore[misc]


def read_tar(file: Path, name: str, drops: Drops) -> Iterator[Item]:
    """Every sample with an image; `name` begins the keys. Memory holds one sample.

    The class is member `.cls` (a number, or a name) or, in `.json`, "cls" or "label"; without either it is the folder
    in the archive. The caption is `.txt`, or "caption" or "text" of `.json`. Raises TableError naming the file and how
    many samples of it were read.
    """
    number = 0
    try:
        _check_end(file)
        with tarfile.open(file, "r|*", tarinfo=_Member) as archive:
            sample: dict[str, bytes] = {}
            key = ""
            for member in archive:
                archive.members = []  # else it remembers all of them
                stem, kind = _split(member.name)
                if stem != key:
                    if sample:
                        yield from _item(file, name, number, key, sample, drops)
                        number += 1
                    sample, key = {}, stem
                if not (_is_image(kind) or kind in _TEXTS):
                    continue
                if not member.isreg():
                    drops.broken(Place(file, number, stem), f"member .{kind} is no file")
                    continue
                if member.size > (MAX_BYTES if _is_image(kind) else _MAX_TEXT):
                    drops.broken(Place(file, number, stem), f"member .{kind} has {member.size >> 20} MiB")
                    continue
                if sum(map(len, sample.values())) + member.size > 2 * MAX_BYTES:
                    raise tarfile.ReadError(f"sample {stem[:40]!r} has more than {2 * MAX_BYTES >> 20} MiB")
                sample[kind] = _read(archive, member)
            if sample:
                yield from _item(file, name, number, key, sample, drops)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise TableError(f"{file}: after {number} samples: not readable as a tar archive: {reason(error)}") from None


def _split(member: str) -> tuple[str, str]:
    """("folder/0001", "jpg") of "folder/0001.jpg": the name ends at the first dot of its last part."""
    folder, slash, last = member.replace("\\", "/").rpartition("/")
    stem, _, kind = last.partition(".")
    return folder + slash + stem, kind.lower()


def _is_image(kind: str) -> bool:
    """Also "left.png": a sample may have several, of which the plain one, else the first, is taken."""
    return kind.rpartition(".")[2] in _IMAGES


def _check_end(file: Path) -> None:
    """Raises tarfile.ReadError for a plain archive that was cut: the library would take what is left for the whole."""
    if file.suffix.lower() != ".tar":
        return
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(size - 1024, 0))
        if size % 512 or stream.read() != bytes(1024):
            raise tarfile.ReadError("its end is missing")


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream: IO[bytes] | None = archive.extractfile(member)
    data = stream.read() if stream else b""
    if len(data) < member.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _item(file: Path, name: str, number: int, key: str, sample: dict[str, bytes], drops: Drops) -> Iterator[Item]:
    place = Place(file, number)
    plain = (sample[kind] for kind in _IMAGES if kind in sample)
    image = next(plain, None) or next((data for kind, data in sample.items() if _is_image(kind)), None)
    if not image:
        drops.broken(place, "a sample without an image" if image is None else "the image is empty")
        return
    try:
        facts = json.loads(sample.get("json", b"{}"))
    except (ValueError, RecursionError):
        drops.broken(place, "member .json is not readable")
        return
    facts = facts if isinstance(facts, dict) else {}
    label: Label = facts.get("cls", facts.get("label"))
    caption = facts.get("caption", facts.get("text"))
    if "cls" in sample:
        written = _text(sample["cls"])
        number = whole_number(written)
        label = written if number is None else number
    elif isinstance(label, bool) or not isinstance(label, int | str):
        label = key.rpartition("/")[0] or None
    if "txt" in sample:
        caption = _text(sample["txt"])
    yield Item(f"{name}:{key}", place, None, image, label, caption if isinstance(caption, str) else None)


def _text(data: bytes) -> str:
    return data.decode("utf-8-sig", errors="surrogateescape").strip()
