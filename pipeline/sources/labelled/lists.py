"""Lists that say which images of a folder are used, and of which class they are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import NearsafeError, TableError
from pipeline.ids import whole_number
from pipeline.sources.labelled.folders import is_image
from pipeline.sources.labelled.items import Item, Label
from pipeline.sources.pictures import below
from pipeline.sources.protocol import Drops, Place


def read_list(folder: Path, file: Path, split: str, drops: Drops) -> Iterator[Item]:
    """The images of `folder` that `file` names, in its order.

    A `.json` file is one of CoOp's split files: lists of [path, label, class name] under train, val and test, of which
    `split` is read. Any other file is text, one image a line, as data sets come with: "path" (its folder is the class)
    or "path class", where a number is a class id and the path's folder goes before it (some sets count from 1). A path
    without a suffix is a .jpg. Raises NearsafeError and TableError.
    """
    if not folder.is_dir():
        raise NearsafeError(f"{folder}: no such folder; paths of a source count from sources.root")
    try:
        rows = _coop(file, split) if file.suffix.lower() == ".json" else _lines(file)
        for number, row in rows:
            place = Place(file, number, split if file.suffix.lower() == ".json" else "")
            if row is None:
                drops.broken(place, "expected [path, label, class name]")
                continue
            name, label = row
            path = below(folder, name)
            if path is None:
                drops.broken(place, "its path leads out of the folder of the images")
                continue
            key = path.relative_to(folder).as_posix()
            yield Item(key, place, path=path, label=label)
    except UnicodeDecodeError:
        raise TableError(f"{file}: not a readable UTF-8 file") from None
    except OSError as error:
        raise NearsafeError(f"{file}: cannot be read: {error.strerror}") from None


_Found = Iterator[tuple[int, tuple[str, Label] | None]]


def _coop(file: Path, split: str) -> _Found:
    """A split file is small (SUN397's, the largest, has 40,000 rows): it is read as a whole."""
    try:
        lists = json.loads(file.read_text(encoding="utf-8-sig"))
        rows = lists[split]
        if not isinstance(rows, list):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        known = ", ".join(map(str, lists)) if isinstance(error, KeyError) else "not a split file"
        raise TableError(f"{file}: no list {split!r}: {known:.200}") from None
    for number, row in enumerate(rows):
        sound = isinstance(row, list) and len(row) == 3 and isinstance(row[0], str) and isinstance(row[2], str)
        yield number, (row[0], row[2]) if sound else None


def _lines(file: Path) -> _Found:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines):
            name, _, label = line.strip().partition(" ")
            name, label = name.lstrip("/"), label.strip()  # SUN397's lists begin paths with a slash
            if not name:
                continue
            if not is_image(name.rpartition("/")[2]):
                name = re.sub(r"\.avi$", "", name) + ".jpg"  # UCF101's lists name the videos that frames are of
            class_id = whole_number(label)
            folder = name.rpartition("/")[0]
            if folder and (class_id is not None or not label):
                yield number, (name, folder)
            else:
                yield number, (name, label or None if class_id is None else class_id)
