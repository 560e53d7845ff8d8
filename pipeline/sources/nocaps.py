"""NoCaps, validation part: the safe captions and images from which benchmarks are made (docs/data/nocaps.md).

The JSON is COCO's, with ten captions an image. NSFWCaps was made of one caption each; which one is not known, so it is
the first by id here.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.sources.coco import check_options, make_record, read_captions
from pipeline.sources.protocol import Drops, Record


@dataclass(frozen=True)
class Source:
    """Options of an entry.

    `captions`: nocaps_val_4500_captions.json. `images`: folder of the images, by their `file_name`. `splits`: shares of
    the images in each split; an image is assigned by its id, whatever else the file holds. `per_image`: so many
    captions of each, the first by id (null: all).
    """

    captions: Path
    images: Path | None = None
    splits: dict[str, float] = field(default_factory=lambda: {"benchmark": 1.0})
    per_image: int | None = 1

    def __post_init__(self) -> None:
        check_options(self.per_image)
        if not self.splits or min(self.splits.values()) < 0 or sum(self.splits.values()) <= 0:
            raise ValueError("splits: expected shares that are not negative, and not all 0")

    def rows(self, root: Path, drops: Drops) -> Iterator[Record]:
        """A record for each image, in order of its id."""
        folder = root / self.images if self.images else None
        for item in read_captions(root / self.captions, drops):
            record = make_record(item, folder, self.split_of(item.image), self.per_image, drops)
            if record is not None:
                yield record

    def split_of(self, image: int) -> str:
        """The split of an image: a hash of its id falls into one of the shares."""
        total = sum(self.splits.values())
        at = int.from_bytes(hashlib.sha256(f"nocaps/{image}".encode()).digest()[:6]) / 2**48 * total
        for name, share in self.splits.items():
            if at < share:
                return name
            at -= share
        return name
