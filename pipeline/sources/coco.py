"""COCO captions: images with their captions, in COCO's own JSON (docs/data/coco.md).

The two lists of the file, images and captions, are joined in a temporary index on disk, so that a record is an image
with all its captions whatever their order in the file, in bounded memory. One age word in any caption drops the image.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pipeline.sources.pictures import below
from pipeline.sources.protocol import CaptionRow, Drops, ImageRow, Place, PromptRow, Record, Row
from pipeline.sources.readers import number, read_rows, text

_TABLES = """
CREATE TABLE images (id INTEGER PRIMARY KEY, name TEXT, row INTEGER);
CREATE TABLE captions (image INTEGER, id INTEGER, text TEXT);
"""
_JOINED = """
SELECT images.id, name, row, text FROM images LEFT JOIN captions ON image = images.id ORDER BY images.id, captions.id
"""


@dataclass(frozen=True)
class Captioned:
    """An image of the file with its captions, in order of their ids."""

    place: Place
    image: int
    file_name: str
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Options of an entry.

    `captions`: a captions_*.json. `images`: folder of the images, by their `file_name`; without one there are captions
    alone. `split`: of all rows. `per_image`: so many captions of each image, the first by id (null: all). `prompt_set`:
    the first caption of each image also becomes a prompt of this set, whose real image has the same origin.
    """

    captions: Path
    images: Path | None = None
    split: str = "coco"
    per_image: int | None = 1
    prompt_set: str | None = None

    def __post_init__(self) -> None:
        check_options(self.per_image, self.prompt_set)

    def rows(self, root: Path, drops: Drops) -> Iterator[Record]:
        """A record for each image, in order of its id."""
        for item in read_captions(root / self.captions, drops):
            record = make_record(item, root / self.images if self.images else None, self.split, self.per_image, drops)
            if record is None:
                continue
            if self.prompt_set is not None:
                prompt = PromptRow(self.prompt_set, item.captions[0], False, origin=str(item.image))
                record = Record(record.place, (*record.rows, prompt), record.others)
            yield record


def check_options(per_image: int | None, prompt_set: str | None = None) -> None:
    """Raises ValueError naming an option that cannot be."""
    if per_image is not None and per_image < 1:
        raise ValueError(f"per_image: expected at least 1, or null for all, got {per_image}")
    if prompt_set is not None and (not prompt_set or prompt_set.startswith("world_")):
        raise ValueError(f"prompt_set: expected a name that does not begin with world_, got {prompt_set!r}")


def read_captions(file: Path, drops: Drops) -> Iterator[Captioned]:
    """The images of a file in COCO's format with their captions, in order of the images' ids.

    An image without a caption is counted as broken, as is a caption of an unknown image. Raises NearsafeError for a
    file that is not there, TableError for one that is no JSON.
    """
    base = sqlite3.connect("")  # a temporary file, removed when it is closed
    try:
        base.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {_TABLES}")
        for place, cells in read_rows(file, drops, "images"):
            image = number(cells, "id", place, drops)
            name = text(cells, "file_name", place, drops) if image is not None else None
            if name is None:
                continue
            if base.execute("INSERT OR IGNORE INTO images VALUES (?, ?, ?)", (image, name, place.row)).rowcount == 0:
                drops.filtered("duplicate", place)
        for place, cells in read_rows(file, drops, "annotations"):
            image = number(cells, "image_id", place, drops)
            known = number(cells, "id", place, drops) if image is not None else None
            caption = text(cells, "caption", place, drops) if known is not None else None
            if caption is None:
                continue
            if base.execute("SELECT 1 FROM images WHERE id = ?", (image,)).fetchone() is None:
                drops.broken(place, "is of no image of the file", "image_id")
                continue
            base.execute("INSERT INTO captions VALUES (?, ?, ?)", (image, known, caption))
        base.execute("CREATE INDEX by_image ON captions (image, id)")
        for (image, name, row), group in groupby(base.execute(_JOINED), key=lambda found: found[:3]):
            captions = tuple(found[3] for found in group if found[3] is not None)
            if captions:
                yield Captioned(Place(file, row, "images"), image, name, captions)
            else:
                drops.broken(Place(file, row, "images"), "an image without a caption")
    finally:
        base.close()


def make_record(item: Captioned, folder: Path | None, split: str, per_image: int | None, drops: Drops) -> Record | None:
    """Captions and, where there is a folder, the image of an item; None, and counted, for a name outside it."""
    origin = str(item.image)
    kept = item.captions[:per_image]
    keys = [f"{item.image}/{caption}" for caption in kept]
    rows: list[Row] = [
        CaptionRow(key, caption, False, split, origin, origin=origin) for key, caption in zip(keys, kept, strict=True)
    ]
    if folder is not None:
        path = below(folder, item.file_name)
        if path is None:
            drops.broken(item.place, "expected a path inside the folder of images", "file_name")
            return None
        rows.append(ImageRow(origin, False, split, path, caption=keys[0], origin=origin))
    return Record(item.place, tuple(rows), item.captions)
