"""Defences by name: the module of a method, and the typed parameters of a params.yaml entry."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pipeline.defences
from pipeline.defences.protocol import Batch, Kind, Terms
from pipeline.errors import NearsafeError
from pipeline.params import build, load

_SHARED = frozenset({"protocol", "losses", "registry"})


@dataclass(frozen=True)
class Defence:
    """One entry of params.yaml, ready to use: `terms(batch)` for trained ones, `callbacks()` for inference ones."""

    name: str
    method: str
    kind: Kind
    params: Any
    towers: tuple[str, ...]
    source: Path
    train: Mapping[str, Any]
    """Training knobs that this entry overrides."""
    _terms: Callable[[Batch, Any], Terms] | None = None
    _callbacks: Callable[[Any], Sequence[Any]] | None = None

    def terms(self, batch: Batch) -> Terms:
        """Name to (weight, scalar) of every loss term."""
        return self._terms(batch, self.params)

    def callbacks(self) -> Sequence[Any]:
        """Callbacks for the sampler loop; none for a defence that lives in the weights."""
        return self._callbacks(self.params) if self._callbacks else ()


def methods() -> list[str]:
    """Names of the methods that exist: the modules of this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(pipeline.defences.__path__) if m.name not in _SHARED)


def read_defence(params: Path, name: str) -> Defence:
    """The defence `name` of a parameter file. Raises NearsafeError listing the known names for an unknown one."""
    entries = load(params).get("defences")
    if not isinstance(entries, Mapping) or name not in entries:
        known = ", ".join(map(str, entries)) if isinstance(entries, Mapping) else "none"
        raise NearsafeError(f"{params}: unknown defence {name!r}; known: {known}")
    where = f"{params}: defences.{name}"
    entry = entries[name]
    if not isinstance(entry, Mapping) or not isinstance(entry.get("method"), str):
        raise NearsafeError(f"{where}.method: missing; expected one of {', '.join(methods())}")
    train = entry.get("train") or {}
    if not isinstance(train, Mapping):
        raise NearsafeError(f"{where}.train: expected a mapping, got {train!r}")
    own = {key: value for key, value in entry.items() if key not in ("method", "train")}
    return make_defence(name, entry["method"], own, train, where)


def make_defence(
    name: str, method: str, own: Mapping[str, Any], train: Mapping[str, Any] | None = None, where: str = "defences"
) -> Defence:
    """A defence from its method's name and a mapping of the method's own parameters. `where` opens every error."""
    if method not in methods():
        raise NearsafeError(f"{where}.method: unknown defence {method!r}; known: {', '.join(methods())}")
    module = importlib.import_module(f"pipeline.defences.{method}")
    required = {"trained": ("terms",), "inference": ("callbacks",)}
    kind = getattr(module, "KIND", None)
    for attribute in ("KIND", "Params", *required.get(kind, ())):
        if not hasattr(module, attribute):
            raise NearsafeError(f"{module.__file__}: a defence of kind {kind!r} needs {attribute} (see protocol.py)")
    return Defence(
        name,
        method,
        kind,
        build(module.Params, own, where),
        tuple(getattr(module, "TOWERS", ("text", "vision"))),
        Path(module.__file__),
        train or {},
        getattr(module, "terms", None),
        getattr(module, "callbacks", None),
    )
