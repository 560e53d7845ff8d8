"""Typed reading of params.yaml: a section becomes a frozen dataclass, or one error names what is wrong with it."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from ruamel.yaml import YAML, YAMLError

from pipeline.errors import NearsafeError

T = TypeVar("T")
DEFAULT_FILE = Path("params.yaml")


def load(path: Path) -> dict[str, Any]:
    """The whole file as plain Python values (YAML 1.2, as DVC reads it: 1e-3 is a number, `no` is a string)."""
    try:
        values = deepcopy(_parsed(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise NearsafeError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (YAMLError, ValueError, RecursionError) as error:  # a date that is none, lists in lists in lists
        raise NearsafeError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise NearsafeError(f"{path}: expected a mapping of sections, got {_name(values)}")
    return values


@lru_cache(maxsize=8)
def _parsed(text: str) -> Any:
    """The values of a YAML text. Kept: one command reads the same file once for each section and defence."""
    return YAML(typ="safe", pure=True).load(text)


def lookup(path: Path, name: str) -> Any:
    """The value at a dotted `name` ("defences.safer_clip") of a file. Raises NearsafeError listing what exists."""
    value: Any = load(path)
    for depth, key in enumerate(name.split(".")):
        if not isinstance(value, Mapping) or key not in value:
            known = ", ".join(map(str, value)) if isinstance(value, Mapping) else "no keys"
            parent = ".".join(name.split(".")[:depth]) or "top level"
            raise NearsafeError(f"{path}: no section {name!r}: {parent} has {known}")
        value = value[key]
    return value


def section(spec: str, cls: type[T]) -> T:
    """Read a section into dataclass `cls`. `spec` is "file.yaml:section" or "section" (of params.yaml); dots descend.

    Raises NearsafeError naming file, section and key for an unknown key, a missing key or a wrong type.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file) if file else DEFAULT_FILE
    return build(cls, lookup(path, name), f"{path}: {name}")


def build(cls: type[T], values: Any, where: str) -> T:
    """Build frozen dataclass `cls` from a mapping. `where` opens every error ("params.yaml: train")."""
    if not isinstance(values, Mapping):
        raise NearsafeError(f"{where}: expected a mapping, got {_name(values)}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    if unknown := [str(key) for key in values if key not in fields]:
        raise NearsafeError(f"{where}.{unknown[0]}: unknown key; known: {', '.join(fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise NearsafeError(f"{where}.{name}: missing; expected {_type_name(hints[name])}")
    converted = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in values.items()}
    try:
        return cls(**converted)
    except ValueError as error:  # a __post_init__ that refuses a combination
        raise NearsafeError(f"{where}: {error}") from error


def to_spec(obj: Any) -> Any:
    """Plain JSON values of a dataclass (paths as POSIX strings, tuples as lists), for spec.json."""
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {field.name: to_spec(getattr(obj, field.name)) for field in dataclasses.fields(obj)}
    if isinstance(obj, Mapping):
        return {str(key): to_spec(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [to_spec(value) for value in obj]
    return obj.as_posix() if isinstance(obj, Path) else obj


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as type `hint`, or NearsafeError naming `where`, the expected and the given type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where, hint)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise NearsafeError(f"{where}: expected one of {', '.join(map(str, arguments))}, got {value!r}")
        return value
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    if origin in (tuple, list):
        return _convert_sequence(origin, arguments, value, where, hint)
    if (origin or hint) is dict:
        if not isinstance(value, Mapping):
            raise _wrong(where, hint, value)
        inner = arguments[1] if arguments else Any
        return {str(key): _convert(inner, item, f"{where}.{key}") for key, item in value.items()}
    return _convert_scalar(hint, value, where)


def _convert_union(choices: tuple[Any, ...], value: Any, where: str, hint: Any) -> Any:
    if value is None and type(None) in choices:
        return None
    choices = tuple(choice for choice in choices if choice is not type(None))
    if len(choices) == 1:
        return _convert(choices[0], value, where)
    if isinstance(value, Mapping) and "kind" in value and all(map(dataclasses.is_dataclass, choices)):
        kinds = {typing.get_args(typing.get_type_hints(choice)["kind"])[0]: choice for choice in choices}
        if value["kind"] not in kinds:
            raise NearsafeError(f"{where}.kind: expected one of {', '.join(kinds)}, got {value['kind']!r}")
        return build(kinds[value["kind"]], value, where)
    for choice in choices:
        try:
            return _convert(choice, value, where)
        except NearsafeError:
            continue
    raise _wrong(where, hint, value)


def _convert_sequence(origin: type, arguments: tuple[Any, ...], value: Any, where: str, hint: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise _wrong(where, hint, value)
    fixed = origin is tuple and arguments and arguments[-1] is not Ellipsis
    if fixed and len(value) != len(arguments):
        raise NearsafeError(f"{where}: expected {len(arguments)} values, got {len(value)}")
    inner = arguments if fixed else (arguments[0] if arguments else Any,) * len(value)
    return origin(
        _convert(hint_, item, f"{where}[{i}]") for i, (hint_, item) in enumerate(zip(inner, value, strict=True))
    )


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _wrong(where, hint, value)
    return value


def _wrong(where: str, hint: Any, value: Any) -> NearsafeError:
    return NearsafeError(f"{where}: expected {_type_name(hint)}, got {_name(value)} {value!r}")


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def _name(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
