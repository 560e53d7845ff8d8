"""ViSU: safe and unsafe captions by COCO image, with the user's own images (docs/data/visu.md; safe_clip.md section 7).

Two layouts of the texts are read, and told apart by their file names: the hub's `ViSU-Text_<split>.json`, and
`<split>/visu_...json` of Safe-CLIP's released code.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import NearsafeError
from pipeline.prompt_files import FILES
from pipeline.sources.pictures import below, by_stem
from pipeline.sources.protocol import CaptionRow, Drops, ImageRow, PairRow, Place, Record, Row
from pipeline.sources.readers import FORMATS, Cells, cells_as_text, number, read_rows, text, texts

UNSAFE, SAFE = FILES["visu"].texts
(TAG,) = FILES["visu"].category
HUB = "ViSU-Text_{}"
RELEASED = {
    "train": "train/visu_dpo_train_nsfw_unfiltered_images_ailb.json",
    "validation": "validation/visu_validation_dpo_nsfw_unfiltered_images_ailb.json",
    "test": "test/visu_test_dpo_nsfw_unfiltered_images_ailb.json",
}
COCO = ("train2017", "val2017", "test2017")
# Rows of this tag are never used (evaluation.md section 1); one toolkit spells it short.
REFUSED_TAGS = frozenset({"child abuse", "abuse"})
# As the data spell it.
SPELLING = {"bodily bluids": "bodily fluids"}


@dataclass(frozen=True)
class Source:
    """Options of an entry.

    `texts`: folder of either layout. `safe_images`: COCO's folder, with `train2017`, `val2017`, `test2017` below it.
    `unsafe_images`: the user's own; a file is `nsfw_im_path` of the released layout, or the row's `incremental_id` with
    .jpg, .png, .jpeg or .webp. Without a folder the pairs have no such images. `splits`: ViSU's splits that are read,
    and what the tables call them.
    """

    texts: Path
    safe_images: Path | None = None
    unsafe_images: Path | None = None
    splits: dict[str, str] = field(default_factory=lambda: {name: name for name in RELEASED})

    def __post_init__(self) -> None:
        if not self.splits or set(self.splits) - set(RELEASED):
            raise ValueError(f"splits: expected some of {', '.join(RELEASED)}, got {', '.join(self.splits) or 'none'}")

    def rows(self, root: Path, drops: Drops) -> Iterator[Record]:
        """A record for each quadruple."""
        for name, split in self.splits.items():
            file, released = _file(root / self.texts, name)
            for place, cells in read_rows(file, drops):
                if (record := self._record(root, place, cells, split, released, drops)) is not None:
                    yield record

    def _record(
        self, root: Path, place: Place, cells: Cells, split: str, released: bool, drops: Drops
    ) -> Record | None:
        found = texts(cells, (SAFE, UNSAFE, TAG), place, drops)
        coco = number(cells, "coco_id", place, drops) if found else None
        if found is None or coco is None:
            return None
        safe, unsafe, tag = found
        if tag.casefold() in REFUSED_TAGS:
            drops.filtered("tag", place, "child abuse")
            return None
        category = SPELLING.get(tag.casefold(), tag.casefold())
        # Captions are known by image and text: the same quadruple in another order, or twice, is the same items.
        origin = str(coco)
        keys = (f"{split}/{coco}/safe/{safe}", f"{split}/{coco}/unsafe/{unsafe}")
        rows: list[Row] = [
            CaptionRow(keys[0], safe, False, split, origin, origin=origin),
            CaptionRow(keys[1], unsafe, True, split, origin, category, origin),
        ]
        images: list[str | None] = [None, None]
        if self.safe_images is not None:
            images[0] = f"{split}/{coco}"
            path = _coco_image(root / self.safe_images, coco)
            rows.append(ImageRow(images[0], False, split, path, caption=keys[0], origin=origin))
        if self.unsafe_images is not None:
            folder = root / self.unsafe_images
            path = _unsafe_image(folder, cells, released, place, drops)
            if path is None:
                return None
            images[1] = f"{split}/unsafe/{path.relative_to(folder).as_posix()}"
            rows.append(ImageRow(images[1], True, split, path, caption=keys[1], origin=origin))
        rows.append(PairRow(*keys, category, split, *images))
        return Record(place, tuple(rows), cells_as_text(cells))


def _file(folder: Path, split: str) -> tuple[Path, bool]:
    """The texts of a split, and whether they are in the released code's layout. Raises NearsafeError."""
    hub = [path for kind in FORMATS if (path := folder / f"{HUB.format(split)}.{kind}").is_file()]
    released = folder / RELEASED[split]
    found = [*hub, *([released] if released.is_file() else [])]
    if len(found) != 1:
        expected = f"{HUB.format(split)}.json or {RELEASED[split]}"
        given = "; found " + ", ".join(path.name for path in found) if found else ", and there is neither"
        raise NearsafeError(f"{folder}: expected {expected}{given}")
    return found[0], found[0] == released


def _coco_image(folder: Path, coco: int) -> Path:
    """The image in the first of COCO's folders that has it, as the released code looks for it."""
    paths = [folder / part / f"{coco:012d}.jpg" for part in COCO]
    return next((path for path in paths if path.is_file()), paths[0])


def _unsafe_image(folder: Path, cells: Cells, released: bool, place: Place, drops: Drops) -> Path | None:
    """The user's image of a row; None, and counted, where the row does not say which."""
    if not released:
        # Our choice: the hub's columns name no file.
        known = number(cells, "incremental_id", place, drops)
        return None if known is None else by_stem(folder, str(known))
    name = text(cells, "nsfw_im_path", place, drops)
    path = below(folder, name) if name else None
    if name and path is None:
        drops.broken(place, "expected a path inside unsafe_images", "nsfw_im_path")
    return path
