"""What a source is: a frozen dataclass of its options that streams records. One file of this folder per kind.

A module of this folder is a kind of source, found by its name: `kind: visu` is `visu.py`. It defines

    @dataclass(frozen=True)
    class Source:
        captions: Path                      # its options: the keys of its entry in params.yaml, with types

        def rows(self, root: Path, drops: Drops) -> Iterator[Record]: ...

Every path of its options counts from `root` (`sources.root`). `rows` holds no more than one record in memory, yields in
an order that depends on the files alone (an interrupted run goes on by counting records), downloads nothing and decodes
no image: `ingest.py` checks each image, filters, drops duplicates, makes ids and writes the shards.

A record is what stands or falls together: a quadruple, an image and its captions, one labelled image. Rows name each
other by `key`, a text that is unique among the source's rows of that kind; the same key again, in the same record or a
later one, means the same item: its first row is kept, so two records may share an image.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import printable

EXAMPLES = 20
"""Places that are kept of each reason for which records were dropped."""


@dataclass(frozen=True)
class Place:
    """Where a record stands: a file, a row of it counted from 0, and the list or archive inside the file, if any."""

    file: Path
    row: int | str
    part: str = ""

    def __str__(self) -> str:
        return printable(f"{self.file}: {f'{self.part!r}, ' if self.part else ''}row {self.row!s:.200}")


@dataclass(frozen=True)
class CaptionRow:
    """A caption. Captions of one `family` (an image's, a quadruple's) are never in two splits."""

    key: str
    text: str
    unsafe: bool
    split: str
    family: str
    category: str | None = None
    origin: str | None = None
    """What the source calls it, or what it belongs to: rows of one source with the same origin belong together."""


@dataclass(frozen=True)
class ImageRow:
    """An image: a file of the user's, or encoded bytes (of a Parquet file or an archive). One of the two is given.

    `caption`: the key of the caption that describes it, which is a row of the same record or of an earlier one.
    """

    key: str
    unsafe: bool
    split: str
    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    caption: str | None = None
    origin: str | None = None


@dataclass(frozen=True)
class PairRow:
    """A safe and an unsafe caption, and their images where there are any: keys of rows of the same record."""

    safe_caption: str
    unsafe_caption: str
    category: str
    split: str
    safe_image: str | None = None
    unsafe_image: str | None = None


@dataclass(frozen=True)
class ClassRow:
    """A zero-shot class and one of its prompts; a class has a row for each prompt of its ensemble."""

    task: str
    class_id: int
    name: str
    prompt: str


@dataclass(frozen=True)
class LabelRow:
    """The class of an image of this source: `image` is its key, `shift` one of table "labels" (base, validation...)."""

    image: str
    task: str
    class_id: int
    shift: str = "base"


@dataclass(frozen=True)
class PromptRow:
    """A text to generate an image from. Where it is a caption of an image, both have the same `origin`."""

    prompt_set: str
    text: str
    unsafe: bool
    category: str | None = None
    seed: int | None = None
    guidance: float | None = None
    origin: str | None = None


Row = CaptionRow | ImageRow | PairRow | ClassRow | LabelRow | PromptRow


@dataclass(frozen=True)
class Record:
    """Rows that are kept together or dropped together, and the place that they come from.

    The age-word filter reads every text, category and prompt among the rows, and `others`: the cells of the source that
    no row keeps (a tag, the other captions of an image). Classes and labels alone are not read: a class name is no
    caption.
    """

    place: Place
    rows: tuple[Row, ...]
    others: tuple[str, ...] = ()


class Drops:
    """Records that did not become rows: how many for which reason, and where the first of them stand.

    A source calls `broken` or `filtered` for a row of its files instead of yielding it. Reasons and places name files,
    columns and numbers; they never quote a text.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], list[str]] = {}

    def broken(self, place: Place, reason: str, column: str | None = None, file: Path | None = None) -> None:
        """A row that cannot be used: `reason` ("is empty") of `column`, or of a `file` that the row names."""
        where = f"{place} ({printable(file.as_posix())})" if file else str(place)
        self._add("broken", f"column {column!r}: {reason}" if column else reason, where)

    def filtered(self, name: str, place: Place, version: str = "1") -> None:
        """A sound row that is not wanted: filter `name` of table "filters" and its version."""
        self._add(name, version, str(place))

    def total(self, name: str | None = None) -> int:
        """How many records were dropped by a filter ("broken" is one), or by all."""
        return sum(count for (given, _), count in self.counts.items() if name in (None, given))

    def state(self) -> list[Any]:
        """Plain JSON values from which `restore` makes the same counts."""
        return [[*key, count, self.examples[key]] for key, count in self.counts.items()]

    def restore(self, state: list[Any]) -> None:
        """Forget what was counted and take up a saved state."""
        self.counts = Counter({(name, reason): count for name, reason, count, _ in state})
        self.examples = {(name, reason): list(places) for name, reason, _, places in state}

    def _add(self, name: str, reason: str, where: str) -> None:
        self.counts[name, reason] += 1
        places = self.examples.setdefault((name, reason), [])
        if len(places) < EXAMPLES:
            places.append(where)


class Source(Protocol):
    """A frozen dataclass, built from an entry of params.yaml by `pipeline.params.build`."""

    def rows(self, root: Path, drops: Drops) -> Iterator[Record]:
        """Stream the records of the user's files below `root`; count in `drops` what cannot be or is not used.

        Raises NearsafeError or TableError naming the file for one that is missing, unreadable or has not the columns
        of the kind.
        """
        ...
