"""Classes of the zero-shot sets: what they are called in a prompt, and in the files of the data set."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import NearsafeError
from pipeline.params import build, load

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class _Table:
    """A file of this folder, or a user's. `classes`: name in the files to name in a prompt, in the order of the ids.

    `aliases`: other names to names in the files; `left_out`: folders of the data set that are no class of the task.
    """

    title: str
    templates: tuple[str, ...]
    classes: dict[str, str]
    aliases: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_templates(self.templates)
        if len(self.classes) < 2:
            raise ValueError("classes: expected two or more")
        if unknown := [name for name in self.aliases.values() if name not in self.classes]:
            raise ValueError(f"aliases: {unknown[0]!r} is no key of classes")


@dataclass(frozen=True)
class ClassSet:
    """A task: class ids are places in `names`, from 0."""

    file: Path
    task: str
    title: str
    templates: tuple[str, ...]
    names: tuple[str, ...]
    _ids: Mapping[str, frozenset[int]] = field(repr=False)
    _left_out: frozenset[str] = field(repr=False)

    def find(self, label: str) -> int | None:
        """The id of the class that files call `label`, case and punctuation aside; None for no class, or two."""
        found = self._ids.get(plain(label), frozenset())
        return next(iter(found)) if len(found) == 1 else None

    def leaves_out(self, label: str) -> bool:
        """Is `label` a part of the data set that the task does not use?"""
        return plain(label) in self._left_out


def check_templates(templates: Sequence[str]) -> None:
    """Raises ValueError where there is none, or one without exactly one "{}"."""
    if not templates or any(template.count("{}") != 1 for template in templates):
        raise ValueError('templates: expected one or more, each with one "{}" for the name of the class')


def shipped() -> list[str]:
    """Names of the sets whose classes are here."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_classes(name: str, root: Path) -> ClassSet:
    """The classes of a shipped set, or of the user's file `name` (*.yaml) below `root`. Raises NearsafeError."""
    own = name.endswith((".yaml", ".yml"))
    if not own and name not in shipped():
        raise NearsafeError(f"set: expected one of {', '.join(shipped())}, or a .yaml file of classes; got {name!r}")
    path = root / name if own else FOLDER / f"{name}.yaml"
    values: Any = load(path)
    for names in ("classes", "aliases"):  # YAML reads a folder called 1 as a number
        if isinstance(values.get(names), Mapping):
            values = {**values, names: {str(key): str(value) for key, value in values[names].items()}}
    table = build(_Table, values, str(path))
    ids: dict[str, set[int]] = {}
    for place, (key, title) in enumerate(table.classes.items()):
        for known in (key, title, _without_letter(key)):
            ids.setdefault(plain(known), set()).add(place)
    keys = list(table.classes)
    for alias, key in table.aliases.items():
        ids.setdefault(plain(alias), set()).add(keys.index(key))
    frozen = {key: frozenset(places) for key, places in ids.items()}
    left_out = frozenset(plain(known) for known in table.left_out)
    return ClassSet(
        path, Path(name).stem, table.title, table.templates, tuple(table.classes.values()), frozen, left_out
    )


def plain(label: str) -> str:
    """Letters and digits of a name alone, in lower case: "Windsor_chair" and "windsor chair" are one."""
    return re.sub(r"[\W_]+", "", label.casefold())


def _without_letter(key: str) -> str:
    """As "apse/indoor" what SUN397 has as "a/apse/indoor": its folders stand in one for their first letter."""
    return key[2:] if key[1:2] == "/" else key
