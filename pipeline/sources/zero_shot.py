"""Zero-shot sets: labelled images in folders or shards, with the classes and templates of CoOp's eleven data sets.

Card: docs/data/zero_shot.md; evaluation.md section 5. The task is the set's name; its images are of split
`zeroshot/<shift>`, of which `zeroshot/base` is what is reported.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import NearsafeError
from pipeline.ids import whole_number
from pipeline.sources.labelled.items import Columns, Item, read_items
from pipeline.sources.labelled.lists import read_list
from pipeline.sources.protocol import ClassRow, Drops, ImageRow, LabelRow, Place, Record
from pipeline.sources.zeroshot.classes import ClassSet, check_templates, plain, read_classes

Shift = Literal["base", "shifted", "held_out", "hazard", "validation"]


@dataclass(frozen=True)
class Source:
    """`set`: a shipped set, or a .yaml file of classes. `images`: a folder, or shards (a folder of them, a pattern).

    `list`: a file that says which images of a folder are used; of CoOp's split files, list `split`. `templates`: other
    ones than the set's. `label_is`: what a number as label means, a name in the data set's files or an id that counts
    as the set's classes; `names`: a file with the names of the numbers, one a line. `per_class`: the first so many.
    """

    set: str
    images: Path
    list: Path | None = None
    split: str = "test"
    shift: Shift = "base"
    templates: tuple[str, ...] | None = None
    label_is: Literal["name", "id"] = "name"
    names: Path | None = None
    image_column: str = "image"
    label_column: str = "label"
    per_class: int | None = None

    def __post_init__(self) -> None:
        if self.templates is not None:
            check_templates(self.templates)
        if self.per_class is not None and self.per_class < 1:
            raise ValueError(f"per_class: expected at least 1, or null for all, got {self.per_class}")
        if self.names is not None and self.label_is == "id":
            raise ValueError("names: label_is: id needs no names of numbers")

    def rows(self, root: Path, drops: Drops) -> Iterator[Record]:
        """A record of all classes, then one for each labelled image."""
        classes = read_classes(self.set, root)
        templates = self.templates or classes.templates
        yield Record(Place(classes.file, "classes"), tuple(class_rows(classes, templates)))
        names = _read_names(root / self.names, classes) if self.names else None
        taken: Counter[int] = Counter()
        for item in self._items(root, drops):
            found = self._class_of(item, classes, names, drops)
            if found is None:
                continue
            if self.per_class is not None and taken[found] >= self.per_class:
                drops.filtered("per_class", item.place, str(self.per_class))
                continue
            taken[found] += 1
            image = ImageRow(item.key, False, f"zeroshot/{self.shift}", item.path, item.data)
            yield Record(item.place, (image, LabelRow(item.key, classes.task, found, self.shift)))

    def _items(self, root: Path, drops: Drops) -> Iterator[Item]:
        if self.list is not None:
            return read_list(root / self.images, root / self.list, self.split, drops)
        return read_items(root / self.images, Columns(self.image_column, self.label_column), drops)

    def _class_of(self, item: Item, classes: ClassSet, names: Sequence[str] | None, drops: Drops) -> int | None:
        """The class id of an item; None, and counted, where it has none. Raises NearsafeError for unnamed numbers."""
        label = item.label
        if label is None:
            drops.broken(item.place, "has no label")
            return None
        if self.label_is == "id":
            number = whole_number(str(label))
            if number is None or number >= len(classes.names):
                drops.broken(item.place, f"label: expected a class id from 0 to {len(classes.names) - 1}")
                return None
            return number
        if isinstance(label, int):
            if names is None:
                raise NearsafeError(
                    f"{item.place}: the label is a number: say `label_is: id` where it counts as the classes in "
                    "docs/data/zero_shot.md do, or `names: FILE` (the names of the numbers, one a line)"
                )
            if not 0 <= label < len(names):
                drops.broken(item.place, f"label: the file of names has the numbers 0 to {len(names) - 1}")
                return None
            label = names[label]
        if (found := classes.find(label)) is not None:
            return found
        if classes.leaves_out(label):
            drops.filtered("left_out", item.place)
        else:
            drops.broken(item.place, f"label: not the name of one class of {classes.title}")
        return None


def class_rows(classes: ClassSet, templates: tuple[str, ...]) -> Iterator[ClassRow]:
    """Rows of table "classes": every class by every template."""
    for number, name in enumerate(classes.names):
        for template in templates:
            yield ClassRow(classes.task, number, name, template.replace("{}", name))


def _read_names(file: Path, classes: ClassSet) -> list[str]:
    """The names of numbers 0, 1, ...; each is a class, or a part that the task leaves out. Raises NearsafeError."""
    try:
        names = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NearsafeError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    names = [name.strip() for name in names]
    for number, name in enumerate(names):
        if classes.find(name) is None and not classes.leaves_out(name):
            raise NearsafeError(f"{file}: line {number}: {plain(name)[:40]!r} is not one class of {classes.title}")
    return names
