"""Images for an image-to-text model to describe (docs/data/llava.md; evaluation.md section 8).

They land in split `reply/<image_set>`, which the reply stage shows where `reply.image_sets` names it. Unsafe images are
the user's own: never fetched, never shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.ids import NAME_RULE, is_name
from pipeline.sources.labelled.captioned import captioned
from pipeline.sources.labelled.items import Columns, read_items
from pipeline.sources.protocol import Drops, Record


@dataclass(frozen=True)
class Source:
    """`images`: a folder, or shards (a folder of them, a pattern). `unsafe` is true of all of them, or of none.

    Captions, where there are any (a text file beside an image, member .txt of an archive, `caption_column` of Parquet),
    go along for the age-word filter to read; a caption that cannot be read drops its image.
    """

    image_set: str
    images: Path
    unsafe: bool
    image_column: str = "image"
    caption_column: str = "caption"

    def __post_init__(self) -> None:
        if not is_name(self.image_set):
            raise ValueError(f"image_set: {self.image_set!r}: {NAME_RULE}")

    def rows(self, root: Path, drops: Drops) -> Iterator[Record]:
        """A record for each image."""
        columns = Columns(self.image_column, caption=self.caption_column)
        for item in read_items(root / self.images, columns, drops):
            yield from captioned(item, item.key, self.unsafe, f"reply/{self.image_set}", drops)
