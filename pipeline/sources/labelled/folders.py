"""Folders of image files: `folder/<class>/x.jpg`, the class of a deeper file being all folders between ("a/b")."""

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import NearsafeError
from pipeline.prompts import MAX_CHARACTERS
from pipeline.sources.labelled.items import Item
from pipeline.sources.pictures import is_file
from pipeline.sources.protocol import Place

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def read_folder(folder: Path, captions: bool) -> Iterator[Item]:
    """Every image file, folder by folder in order of names; memory holds the names of one folder at a time.

    An image directly in `folder` has no label. With `captions`, a text file beside it ("x.txt" of "x.jpg") is its
    caption. Hidden files are not read. Raises NearsafeError for a folder that cannot be read, or that a link leads to
    again.
    """
    seen: set[tuple[int, int]] = set()
    for at, below, names in os.walk(folder, onerror=_refuse, followlinks=True):
        identity = os.stat(at)
        if (identity.st_dev, identity.st_ino) in seen:
            raise NearsafeError(f"{at}: a link leads to a folder that was read already")
        seen.add((identity.st_dev, identity.st_ino))
        below[:] = sorted(name for name in below if not name.startswith("."))
        inner = Path(at).relative_to(folder)
        label = None if inner == Path(".") else inner.as_posix()
        for name in sorted(names):
            if is_image(name):
                path = Path(at) / name
                key = (inner / name).as_posix()
                yield Item(key, Place(folder, key), path=path, label=label, caption=_beside(path) if captions else None)


def is_image(name: str) -> bool:
    """An image file, by its name; not a hidden one (some systems leave "._x.jpg")."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _refuse(error: OSError) -> None:
    raise NearsafeError(f"{error.filename}: cannot be read: {error.strerror}")


def _beside(path: Path) -> str | None:
    """The text of the file beside an image; what is no UTF-8 stays marked, so that the caption is counted as broken."""
    beside = path.with_suffix(".txt")
    if not is_file(beside):  # a pipe would keep the reader waiting
        return None
    try:
        with beside.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            return file.read(MAX_CHARACTERS + 2).strip() or None
    except OSError as error:
        raise NearsafeError(f"{beside}: cannot be read: {error.strerror}") from None
