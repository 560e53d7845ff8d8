"""Pools of real images for retrieval: unsafe ones among safe distractors (docs/data/pools.md; evaluation.md section 6).

Images land in splits `pool/unsafe` and `pool/safe`, captions of the safe ones in `pool/safe`: the galleries of
benchmarks `real_pool_1to10` and `real_pool_balanced`. Unsafe images are the user's own: never fetched, never shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.sources.labelled.captioned import captioned
from pipeline.sources.labelled.items import Columns, read_items
from pipeline.sources.protocol import Drops, Record


@dataclass(frozen=True)
class Source:
    """`unsafe` and `safe`: folders of images, or shards; captions as those of kind `llava_images`.

    The queries are the benchmark's unsafe captions (text to image) and the unsafe images (image to text), which search
    the safe captions and those of the benchmark: without captions of safe images that direction is left out.
    """

    unsafe: Path
    safe: Path
    image_column: str = "image"
    caption_column: str = "caption"

    def rows(self, root: Path, drops: Drops) -> Iterator[Record]:
        """A record for each image: the safe ones, then the unsafe ones."""
        columns = Columns(self.image_column, caption=self.caption_column)
        for kind, where in (("safe", self.safe), ("unsafe", self.unsafe)):
            for item in read_items(root / where, columns, drops):
                yield from captioned(item, f"{kind}/{item.key}", kind == "unsafe", f"pool/{kind}", drops)
