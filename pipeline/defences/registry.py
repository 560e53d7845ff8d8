"""Defences by name: the module of a method, and the typed parameters of a params.yaml entry."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from ruamel.yaml import YAML, YAMLError
from torch import Tensor

import pipeline.defences
from pipeline.defences.protocol import Batch, Frozen, FrozenTokens, Input, Kind, Reference, Terms, TokenBatch, Tower
from pipeline.errors import NearsafeError
from pipeline.ids import LABEL_RULE, is_label
from pipeline.params import build, load

DEFAULT_SECTION = "defences"
_SHARED = frozenset({"protocol", "losses", "token_losses", "registry"})
_HOOKS = ("terms", "callbacks", "reference", "targets", "live_texts", "frozen_texts", "fixed")


@dataclass(frozen=True)
class Defence:
    """One entry of params.yaml, ready to use: `terms(batch)` for trained ones, `callbacks()` for inference ones."""

    name: str
    method: str
    kind: Kind
    input: Input
    params: Any
    towers: tuple[Tower, ...]
    source: Path
    train: Mapping[str, Any]
    """Training knobs that this entry overrides."""
    _terms: Callable[[Batch | TokenBatch, Any], Terms] | None = None
    _callbacks: Callable[[Any], Sequence[Any]] | None = None
    _reference: Callable[[Any], Reference] | None = None
    _targets: Callable[[Frozen | FrozenTokens, Any], dict[str, Tensor]] | None = None
    _live_texts: Callable[[Any], tuple[str, ...]] | None = None
    _frozen_texts: Callable[[Any], tuple[str, ...]] | None = None
    _fixed: Callable[[FrozenTokens, Any], dict[str, Tensor]] | None = None

    @property
    def reference(self) -> Reference:
        """What the batches' `ref_*` are."""
        return self._reference(self.params) if self._reference else "frozen"

    @property
    def live_texts(self) -> tuple[str, ...]:
        """Texts that every token batch encodes with the tower in training."""
        return self._live_texts(self.params) if self._live_texts else ()

    @property
    def frozen_texts(self) -> tuple[str, ...]:
        """Further texts whose undefended token states the method wants."""
        return self._frozen_texts(self.params) if self._frozen_texts else ()

    def targets(self, frozen: Frozen | FrozenTokens) -> dict[str, Tensor]:
        """The method's own tables (P, ...), made once before training; none for most."""
        return self._targets(frozen, self.params) if self._targets else {}

    def fixed(self, frozen: FrozenTokens) -> dict[str, Tensor]:
        """The method's own tensors, made once before training and kept with the checkpoint; none for most."""
        return self._fixed(frozen, self.params) if self._fixed else {}

    def terms(self, batch: Batch | TokenBatch) -> Terms:
        """Name to (weight, scalar) of every loss term."""
        return self._terms(batch, self.params)

    def callbacks(self) -> Sequence[Any]:
        """Callbacks for the sampler loop; none for a defence that lives in the weights."""
        return self._callbacks(self.params) if self._callbacks else ()


def methods() -> list[str]:
    """Names of the methods that exist: the modules of this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(pipeline.defences.__path__) if m.name not in _SHARED)


def read_defence(
    params: Path,
    name: str,
    section: str = DEFAULT_SECTION,
    changes: Sequence[str] = (),
    label: str | None = None,
) -> Defence:
    """The defence `name` of a section of a parameter file, known as `label` in the rows it leaves (default: its name).

    `changes` ("redirection=0.5", "train.lr=1e-3"; values are YAML) are laid over the entry: one point of a sweep.
    Raises NearsafeError listing the known names for an unknown one, and for a change that is no key=value.
    """
    entries = load(params).get(section)
    if not isinstance(entries, Mapping) or name not in entries:
        known = ", ".join(map(str, entries)) if isinstance(entries, Mapping) else "none"
        raise NearsafeError(f"{params}: {section}: unknown defence {name!r}; known: {known}")
    where = f"{params}: {section}.{name}"
    entry = entries[name]
    if not isinstance(entry, Mapping) or not isinstance(entry.get("method"), str):
        raise NearsafeError(f"{where}.method: missing; expected one of {', '.join(methods())}")
    for change in changes:
        entry = _changed(entry, change, where)
    train = entry.get("train") or {}
    if not isinstance(train, Mapping):
        raise NearsafeError(f"{where}.train: expected a mapping, got {train!r}")
    own = {key: value for key, value in entry.items() if key not in ("method", "train")}
    return make_defence(label or name, entry["method"], own, train, where)


def _changed(entry: Mapping[str, Any], change: str, where: str) -> dict[str, Any]:
    """A copy of an entry with one "dotted.key=value" set."""
    key, found, text = change.partition("=")
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise NearsafeError(f"{where}: cannot set {change!r}: not valid YAML") from error
    if not key or not found:
        raise NearsafeError(f"{where}: cannot set {change!r}: expected key=value")
    first, _, rest = key.partition(".")
    if not rest:
        return {**entry, first: value}
    below = entry.get(first) or {}
    if not isinstance(below, Mapping):
        raise NearsafeError(f"{where}.{first}: cannot set {change!r}: not a section")
    return {**entry, first: _changed(below, f"{rest}={text}", f"{where}.{first}")}


def make_defence(
    name: str, method: str, own: Mapping[str, Any], train: Mapping[str, Any] | None = None, where: str = "defences"
) -> Defence:
    """A defence from its method's name and a mapping of the method's own parameters. `where` opens every error."""
    if not is_label(name):
        raise NearsafeError(f"{where}: {name!r}: {LABEL_RULE}")
    if method not in methods():
        raise NearsafeError(f"{where}.method: unknown defence {method!r}; known: {', '.join(methods())}")
    module = importlib.import_module(f"pipeline.defences.{method}")
    required = {"trained": ("terms",), "inference": ("callbacks",)}
    kind = getattr(module, "KIND", None)
    for attribute in ("KIND", "Params", *required.get(kind, ())):
        if not hasattr(module, attribute):
            raise NearsafeError(f"{module.__file__}: a defence of kind {kind!r} needs {attribute} (see protocol.py)")
    reads, towers = _reads(module)
    return Defence(
        name,
        method,
        kind,
        reads,
        build(module.Params, own, where),
        towers,
        Path(module.__file__),
        train or {},
        **{f"_{hook}": getattr(module, hook, None) for hook in _HOOKS},
    )


def _reads(module: ModuleType) -> tuple[Input, tuple[Tower, ...]]:
    """What a method's batches hold and which towers it tunes. Raises NearsafeError naming the module's file."""
    reads = getattr(module, "INPUT", "pooled")
    if reads not in get_args(Input):
        raise NearsafeError(f"{module.__file__}: INPUT: expected one of {', '.join(get_args(Input))}, got {reads!r}")
    known = ("text",) if reads == "tokens" else get_args(Tower)
    towers = getattr(module, "TOWERS", known)
    if not isinstance(towers, tuple) or not towers or set(towers) - set(known):
        wanted = f"a tuple of {', '.join(known)} where INPUT is {reads!r}"
        raise NearsafeError(f"{module.__file__}: TOWERS: expected {wanted}, got {towers!r}")
    return reads, towers
