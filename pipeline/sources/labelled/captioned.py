"""Records of an image and its caption."""

from collections.abc import Iterator

from pipeline.sources.labelled.items import Item
from pipeline.sources.protocol import CaptionRow, Drops, ImageRow, Record
from pipeline.sources.readers import text


def captioned(item: Item, key: str, unsafe: bool, split: str, drops: Drops) -> Iterator[Record]:
    """The record of an image, with its caption where it has one; none, and counted, for a caption that is no text."""
    label = (item.label,) if isinstance(item.label, str) else ()  # a folder's name is read by the age-word filter too
    if item.caption is None:
        yield Record(item.place, (ImageRow(key, unsafe, split, item.path, item.data),), label)
        return
    caption = text({"caption": item.caption}, "caption", item.place, drops)
    if caption is not None:
        row = CaptionRow(key, caption, unsafe, split, key)
        yield Record(item.place, (row, ImageRow(key, unsafe, split, item.path, item.data, caption=key)), label)
