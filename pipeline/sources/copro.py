"""CoPro: pairs of an unsafe and a safe prompt, by category, without images (docs/data/copro.md; evaluation.md 11.4).

The training pairs of DES are those of one category. The file's lists hold `unsafe_prompt`, `safe_prompt`, `concept` and
`category`; the lists of concepts are not read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.prompt_files import FILES
from pipeline.sources.protocol import CaptionRow, Drops, PairRow, Record
from pipeline.sources.readers import cells_as_text, read_rows, texts

UNSAFE, SAFE = FILES["copro_json"].texts
(CATEGORY,) = FILES["copro_json"].category
LISTS = {"ID_train_data": "train", "ID_test_data": "test", "OOD_test_data": "test"}


@dataclass(frozen=True)
class Source:
    """Options of an entry.

    `file`: the published JSON. `categories`: only pairs of these, in any case (null: all). `splits`: the lists that are
    read, and what the tables call them.
    """

    file: Path
    categories: tuple[str, ...] | None = None
    splits: dict[str, str] = field(default_factory=lambda: dict(LISTS))

    def __post_init__(self) -> None:
        if not self.splits or (self.categories is not None and not self.categories):
            raise ValueError("splits and categories: expected one or more names")

    def rows(self, root: Path, drops: Drops) -> Iterator[Record]:
        """A record for each pair. The file is read once for each list."""
        wanted = None if self.categories is None else {name.casefold() for name in self.categories}
        for part, split in self.splits.items():
            for place, cells in read_rows(root / self.file, drops, part):
                found = texts(cells, (SAFE, UNSAFE, CATEGORY), place, drops)
                if found is None:
                    continue
                safe, unsafe, category = found
                if wanted is not None and category.casefold() not in wanted:
                    drops.filtered("category", place, ", ".join(sorted(wanted)))
                    continue
                # A prompt may stand in many pairs: it is one caption, and of the split that it comes in first.
                keys = (f"safe/{safe}", f"unsafe/{unsafe}")
                rows = (
                    CaptionRow(keys[0], safe, False, split, keys[0]),
                    CaptionRow(keys[1], unsafe, True, split, keys[1], category.casefold()),
                    PairRow(*keys, category.casefold(), split),
                )
                yield Record(place, rows, cells_as_text(cells))
