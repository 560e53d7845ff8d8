"""From records to rows of the standard tables: filters, checked images, ids of content, each item once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.agewords import LEXICON_VERSION, mentions_age
from pipeline.errors import NearsafeError
from pipeline.ids import content_id, is_unicode
from pipeline.images import UnusableImage
from pipeline.parallel import parallel
from pipeline.sources.pictures import image_cell
from pipeline.sources.protocol import CaptionRow, ClassRow, Drops, ImageRow, LabelRow, PairRow, PromptRow, Record, Row
from pipeline.sources.registry import Entry
from pipeline.sources.seen import Seen

AGE_WORDS, SPLIT_OVERLAP, DUPLICATE = "age_words", "split_overlap", "duplicate"
TableRow = dict[str, Any]
FILES = "files"
"""What `Converter.convert` calls the rows that no table keeps: SHA-256 of the images that are paths."""
Checked = tuple[TableRow, str]
"""A cell and the SHA-256 of its image."""
Looked = tuple[str, Path | None, bytes | None]
Cells = Mapping[Looked, Checked | UnusableImage]
_mentions_age = lru_cache(4096)(mentions_age)  # tags and categories come again and again


@dataclass(frozen=True)
class Converter:
    """Makes the rows of one entry. `drops` counts the records of which nothing is kept."""

    entry: Entry
    seen: Seen
    drops: Drops

    def convert(self, records: Sequence[Record]) -> list[list[tuple[str, TableRow]]]:
        """For each record (table, row) of its items that are new; none where it is dropped, and then it is counted.

        Images are checked over the cores, all else is in order. Raises NearsafeError where a row names an item that the
        source did not yield.
        """
        passed = [self._passes(record) for record in records]
        images = [
            row
            for record, good in zip(records, passed, strict=True)
            for row in record.rows
            if good and isinstance(row, ImageRow) and not self._has(row)
        ]
        # By what is looked at, too: of two rows with one key the first is kept that can be, whatever the batch.
        distinct = {_looked_at(row): row for row in images}
        cells = dict(zip(distinct, parallel(self._cell, list(distinct.values())), strict=True))
        return [self._convert(record, cells) if good else [] for record, good in zip(records, passed, strict=True)]

    def _passes(self, record: Record) -> bool:
        """Are its texts and names Unicode, and does it pass the filters of its texts?"""
        if not all(map(is_unicode, _strings(record))):
            self.drops.broken(record.place, "a text or a file's name is no valid Unicode")
            return False
        if any(_mentions_age(text) for text in dict.fromkeys(texts(record))):
            self.drops.filtered(AGE_WORDS, record.place, f"lexicon {LEXICON_VERSION}")
            return False
        captions = [row for row in record.rows if isinstance(row, CaptionRow)]
        if any(self.seen.split_of(f"{self.entry.name}/{row.family}", row.split) != row.split for row in captions):
            self.drops.filtered(SPLIT_OVERLAP, record.place)
            return False
        return True

    def _cell(self, row: ImageRow) -> Checked | UnusableImage:
        try:
            return image_cell(row, self.entry.copy)
        except UnusableImage as error:
            return error

    def _has(self, row: ImageRow) -> bool:
        return self.seen.has(self._id("image", row.key))

    def _convert(self, record: Record, cells: Cells) -> list[tuple[str, TableRow]]:
        for row in record.rows:
            if isinstance(row, ImageRow) and isinstance(error := cells.get(_looked_at(row)), UnusableImage):
                if self._has(row):  # an earlier record of the batch brought this image
                    continue
                self.drops.broken(record.place, f"image: {error}", file=row.path)
                return []
        made = [found for row in record.rows for found in self._rows(row, cells, record)]
        if not made:
            self.drops.filtered(DUPLICATE, record.place)
        return made

    def _id(self, kind: str, key: str) -> str:
        return content_id(self.entry.name, kind, key, prefix=kind[0])

    def _known(self, kind: str, key: str | None, record: Record) -> str | None:
        if key is None:
            return None
        item = self._id(kind, key)
        if not self.seen.has(item):
            raise NearsafeError(
                f"{record.place}: source {self.entry.name!r} (kind {self.entry.kind}) names an unknown {kind}"
            )
        return item

    def _rows(self, row: Row, cells: Cells, record: Record) -> Iterator[tuple[str, TableRow]]:
        """The table row of one row, those of its origin and its file, unless it is known."""
        table, made = self._row(row, cells, record)
        name = next(iter(made.values())) if table in ("captions", "images", "pairs", "prompts") else _name(table, made)
        if not self.seen.add(name):
            return
        yield table, made
        if (origin := getattr(row, "origin", None)) is not None:
            yield "origins", {"item_id": name, "source": self.entry.name, "origin": origin}
        if isinstance(row, ImageRow) and made["image"]["bytes"] is None:
            yield FILES, {"image_id": name, "sha256": _checked(row, cells)[1]}

    def _row(self, row: Row, cells: Cells, record: Record) -> tuple[str, TableRow]:
        source = {"source": self.entry.name}
        match row:
            case CaptionRow():
                made = {"caption_id": self._id("caption", row.key), "text": row.text, "unsafe": row.unsafe}
                family = content_id(self.entry.name, row.family)
                return "captions", made | source | {"category": row.category, "split": row.split, "family": family}
            case ImageRow():
                cell = _checked(row, cells)[0]
                made = {"image_id": self._id("image", row.key), "image": cell, "unsafe": row.unsafe}
                caption = self._known("caption", row.caption, record)
                return "images", made | source | {"split": row.split, "caption_id": caption}
            case PairRow():
                safe, unsafe = (self._known("caption", k, record) for k in (row.safe_caption, row.unsafe_caption))
                return "pairs", {
                    "pair_id": content_id(str(safe), str(unsafe), prefix="p"),
                    "safe_caption_id": safe,
                    "safe_image_id": self._known("image", row.safe_image, record),
                    "unsafe_caption_id": unsafe,
                    "unsafe_image_id": self._known("image", row.unsafe_image, record),
                    "category": row.category,
                    "split": row.split,
                    "tightness": None,
                    "similarity": None,
                }
            case ClassRow():
                return "classes", {
                    "task": row.task, "class_id": row.class_id, "name": row.name, "prompt": row.prompt
                }  # fmt: skip
            case LabelRow():
                item = self._known("image", row.image, record)
                return "labels", {"item_id": item, "task": row.task, "class_id": row.class_id, "shift": row.shift}
            case PromptRow():
                made = {"prompt_id": content_id(row.prompt_set, row.text, prefix="q"), "prompt_set": row.prompt_set}
                made |= {"text": row.text, "category": row.category, "unsafe": row.unsafe}
                return "prompts", made | {"seed": row.seed, "guidance": row.guidance}


def texts(record: Record) -> Iterator[str]:
    """Every text of a record that the age-word filter reads: a row of classes or labels has none."""
    yield from record.others
    for row in record.rows:
        if isinstance(row, CaptionRow | PromptRow):
            yield row.text
        if isinstance(row, PromptRow):
            yield row.prompt_set
        if isinstance(row, CaptionRow | PromptRow | PairRow) and row.category is not None:
            yield row.category


def _strings(record: Record) -> Iterator[str]:
    """What tables and identifiers are made of."""
    for row in record.rows:
        yield from (str(value) for value in vars(row).values() if isinstance(value, str | Path))


def _looked_at(row: ImageRow) -> Looked:
    return row.key, row.path, row.data


def _checked(row: ImageRow, cells: Cells) -> tuple[TableRow | None, str]:
    """The cell and the SHA-256 of an image that can be used; nothing of one that is known, whose row is not kept."""
    found = cells.get(_looked_at(row))
    return found if isinstance(found, tuple) else (None, "")


def _name(table: str, made: TableRow) -> str:
    """What a class prompt or a label is known by: the key of its table."""
    keys = {"classes": ("task", "class_id", "prompt"), "labels": ("item_id", "task")}
    return content_id(table, *(str(made[key]) for key in keys[table]))
