"""Lays one YAML file over another as text: only lines of keys that change do, comments and order stay.

A key's lines come from the overlay as they are there, with their comments. ruamel.yaml says where each key lies; its
own dump of a whole file would move comments and break lines that nobody touched.
"""

import io
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

Edit = tuple[int, int, list[str]]  # lines [start, stop) become these
_WIDE = 1 << 16


@dataclass(frozen=True)
class _Document:
    """A file as lines, as values and as the tree of its nodes."""

    lines: list[str]
    values: Any
    tree: Node


def lay_over(base: str, overlay: str, replaces: Collection[str] = (), leave_out: Collection[str] = ()) -> str:
    """`base` with the values of `overlay`: mappings key by key, those whose dotted name is in `replaces` as wholes.

    Top-level keys of `overlay` in `leave_out` are not taken. Both are YAML texts whose top level is a block mapping.
    An alias whose anchor is gone gets a copy of what it stood for.
    """
    below, above = _read(base), _read(overlay)
    edits: list[Edit] = []
    _merge(below, above, (below.tree, above.tree), "", set(replaces), set(leave_out), edits)
    lines = list(below.lines)
    for start, stop, new in sorted(edits, key=lambda edit: edit[:2], reverse=True):
        lines[start:stop] = new
    return _mend_aliases("\n".join(lines) + "\n", _anchored(below))


def merged(base: Any, overlay: Any, replaces: Collection[str] = (), name: str = "") -> Any:
    """The same on plain values."""
    if name in replaces or not (isinstance(base, Mapping) and isinstance(overlay, Mapping)):
        return deepcopy(overlay)
    found = dict(base)
    for key, value in overlay.items():
        inner = f"{name}.{key}" if name else str(key)
        found[key] = merged(base[key], value, replaces, inner) if key in base else deepcopy(value)
    return found


def _read(text: str) -> _Document:
    return _Document(text.splitlines(), YAML(typ="safe", pure=True).load(text), YAML(typ="rt", pure=True).compose(text))


def _merge(
    below: _Document, above: _Document, nodes: tuple[Node, Node], name: str, replaces: set[str], skip: set[str],
    edits: list[Edit],
) -> None:  # fmt: skip
    """Edits that lay mapping nodes[1] over nodes[0], both in block style."""
    given = {key.value: (key, value) for key, value in nodes[0].value}
    indent = nodes[0].value[0][0].start_mark.column
    end = max(_span(below, key, value)[1] for key, value in nodes[0].value)
    added: list[str] = []
    for key, value in nodes[1].value:
        inner = f"{name}.{key.value}" if name else key.value
        if key.value in skip:
            continue
        own = _lines(above, key, value, indent)
        if key.value not in given:
            added += own
            continue
        old_key, old = given[key.value]
        start, stop = _span(below, old_key, old)
        both = isinstance(old, MappingNode) and isinstance(value, MappingNode) and inner not in replaces
        if not both:
            edits.append((start, stop, own))
        elif old.flow_style or value.flow_style or _elsewhere(old_key, old):
            mixed = merged(_value(below, inner), _value(above, inner), replaces, inner)
            edits.append((start, stop, [f"{' ' * indent}{key.value}: {_flow(mixed)}{_remark(own)}"]))
        else:
            _merge(below, above, (old, value), inner, replaces, set(), edits)
    if added:
        edits.append((end, end, added))


def _span(document: _Document, key: Node, value: Node) -> tuple[int, int]:
    """Lines [start, stop) of a key with its value, without the blank lines and comments that come after it."""
    start = key.start_mark.line
    if _elsewhere(key, value):
        return start, start + 1
    # A block ends where the next token begins, which may be on a line of its own further in.
    block = not isinstance(value, ScalarNode) and not value.flow_style
    stop = value.end_mark.line + (value.end_mark.column > 0 and not block)
    stop = min(max(stop, start + 1), len(document.lines))
    while stop > start + 1 and _is_rest(document.lines[stop - 1]):
        stop -= 1
    return start, stop


def _is_rest(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _elsewhere(key: Node, value: Node) -> bool:
    """Is the value an alias? Then its node lies where the anchor is."""
    return value.start_mark.index < key.end_mark.index


def _lines(document: _Document, key: Node, value: Node, indent: int) -> list[str]:
    """The lines of a key, indented anew."""
    start, stop = _span(document, key, value)
    shift = indent - key.start_mark.column
    lines = document.lines[start:stop]
    return [(" " * shift + line if shift > 0 else line[-shift:]) if line.strip() else line for line in lines]


def _remark(lines: list[str]) -> str:
    """The comment that ends a key's only line, with the space before it."""
    _, found, comment = lines[0].partition("  #")
    return f"  #{comment}" if found and len(lines) == 1 else ""


def _value(document: _Document, name: str) -> Any:
    value = document.values
    for key in name.split("."):
        value = value[key]
    return value


def _flow(value: Any) -> str:
    """A value on one line."""
    writer, out = YAML(typ="safe", pure=True), io.StringIO()
    writer.default_flow_style, writer.width, writer.sort_base_mapping_type_on_output = True, _WIDE, False
    writer.representer.ignore_aliases = lambda _: True
    whole = isinstance(value, Mapping | list)  # a scalar would bring the mark of a document's end
    writer.dump(deepcopy(value) if whole else [value], out)
    return out.getvalue().strip() if whole else out.getvalue().strip()[1:-1]


def _anchored(document: _Document) -> dict[str, Any]:
    """What each anchor of a file stands for."""
    found: dict[str, Any] = {}

    def walk(node: Node, value: Any) -> None:
        if node.anchor:
            found[node.anchor] = value
        if isinstance(node, MappingNode):
            for key, inner in node.value:
                walk(inner, value[key.value])

    walk(document.tree, document.values)
    return found


def _mend_aliases(text: str, known: Mapping[str, Any]) -> str:
    """The first alias of an anchor that is not there becomes the anchor again, with its value on one line."""
    defined: set[str] = set()
    edits: list[tuple[int, int, str]] = []
    for event in YAML(typ="rt", pure=True).parse(text):
        anchor = getattr(event, "anchor", None)
        if anchor is None:
            continue
        if type(event).__name__ == "AliasEvent" and anchor not in defined:
            edits.append((event.start_mark.index, event.end_mark.index, f"&{anchor} {_flow(known[anchor])}"))
        defined.add(anchor)
    for start, stop, new in reversed(edits):
        text = text[:start] + new + text[stop:]
    return text
