"""NSFWCaps in its published columns: tight safe and unsafe captions of NoCaps images (docs/data/nsfwcaps.md).

The addresses of the images are not fetched: their file names are looked up in the user's folder. Unsafe images are not
published; the user's own, of the same names, may be given.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from pipeline.nsfwcaps_io import COLUMNS
from pipeline.sources.pictures import below, by_stem
from pipeline.sources.protocol import CaptionRow, Drops, ImageRow, PairRow, Place, Record, Row
from pipeline.sources.readers import Cells, cells_as_text, read_rows, text, texts

URL, SAFE, UNSAFE, CATEGORY = COLUMNS


@dataclass(frozen=True)
class Source:
    """Options of an entry.

    `file`: CSV, Parquet or JSON with the published columns. `images`: folder of NoCaps' images, by the file names of
    the addresses. `unsafe_images`: the user's own, of the same names up to the suffix. `split`: of all rows.
    """

    file: Path
    images: Path | None = None
    unsafe_images: Path | None = None
    split: str = "benchmark"

    def rows(self, root: Path, drops: Drops) -> Iterator[Record]:
        """A record for each row."""
        for place, cells in read_rows(root / self.file, drops):
            found = texts(cells, (SAFE, UNSAFE, CATEGORY), place, drops)
            if found is None:
                continue
            if found[0] == found[1]:
                drops.broken(place, f"the same text as in column {SAFE!r}", UNSAFE)
                continue
            name = ""
            if self.images is not None or self.unsafe_images is not None:
                name = _image_name(cells, place, drops)
                if name is None:
                    continue
            yield self._record(root, place, cells, found, name)

    def _record(self, root: Path, place: Place, cells: Cells, found: list[str], name: str) -> Record:
        safe, unsafe, category = found
        url = cells.get(URL)
        family = url if isinstance(url, str) and url else safe
        keys = (f"{family}/safe/{safe}", f"{family}/unsafe/{unsafe}")
        rows: list[Row] = [
            CaptionRow(keys[0], safe, False, self.split, family, origin=family),
            CaptionRow(keys[1], unsafe, True, self.split, family, category, family),
        ]
        images: list[str | None] = [None, None]
        if self.images is not None:
            images[0] = name
            rows.append(ImageRow(name, False, self.split, root / self.images / name, caption=keys[0], origin=family))
        if self.unsafe_images is not None:
            path = by_stem(root / self.unsafe_images, PurePosixPath(name).stem)
            images[1] = f"unsafe/{name}"
            rows.append(ImageRow(images[1], True, self.split, path, caption=keys[1], origin=family))
        rows.append(PairRow(*keys, category, self.split, *images))
        return Record(place, tuple(rows), cells_as_text(cells))


def _image_name(cells: Cells, place: Place, drops: Drops) -> str | None:
    """The file name of the address; None, and counted as broken, where it has none."""
    url = text(cells, URL, place, drops)
    if url is None:
        return None
    try:
        name = PurePosixPath(unquote(urlsplit(url).path)).name
    except ValueError:  # brackets that hold no address of a host
        name = ""
    if not name or below(Path(), name) is None:
        drops.broken(place, "is no address of a file", URL)
        return None
    return name
