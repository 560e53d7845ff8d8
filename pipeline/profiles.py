"""Profiles: named overlays on params.yaml that set what a paper says, checked against the code that reads them."""

import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import NearsafeError
from pipeline.files import replacing
from pipeline.overlay import lay_over
from pipeline.params import build, load

FOLDER = Path("profiles")
HEAD = "profile"
"""Section of a profile that is about the profile itself."""


@dataclass(frozen=True)
class Head:
    """Section `profile`. `replaces`: dotted names of mappings that are taken as wholes, not key by key."""

    title: str = ""
    replaces: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """A profile's file, its head, and its text."""

    path: Path
    head: Head
    text: str
    values: dict[str, Any]


def names(folder: Path = FOLDER) -> list[str]:
    """The profiles that are there."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def read_profile(name: str, folder: Path = FOLDER) -> Profile:
    """The profile called `name`, or the file of that path. Raises NearsafeError listing what exists."""
    path = Path(name) if name.endswith((".yaml", ".yml")) or "/" in name else folder / f"{name}.yaml"
    if not path.is_file():
        known = names(folder)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known) or 'none'}"
        raise NearsafeError(f"{path}: no such profile; {hint}")
    values = load(path)
    head = build(Head, values.pop(HEAD, None) or {}, f"{path}: {HEAD}")
    return Profile(path, head, path.read_text(encoding="utf-8"), values)


def overlay(params: Path, profile: Profile) -> str:
    """The text of the parameter file with the profile's values, comments kept: each key's lines are the profile's own.

    Raises NearsafeError for a key that neither the parameter file nor the code that reads it knows, with near matches.
    """
    base = load(params)
    for name in profile.head.replaces:
        if not isinstance(_find(profile.values, name), Mapping):
            raise NearsafeError(f"{profile.path}: {HEAD}.replaces: {name!r} is no mapping of this profile")
    _check_keys(profile, profile.values, base, {**sections(), "models": {}}, "")  # of models, those of the file alone
    return lay_over(params.read_text(encoding="utf-8"), profile.text, profile.head.replaces, [HEAD])


def write_profile(params: Path, profile: Profile) -> bool:
    """Write the profile's values into the parameter file, atomically; False where they are there already.

    Raises NearsafeError, and leaves the file as it is, where the result could not be read by the stages.
    """
    old, new = params.read_text(encoding="utf-8"), overlay(params, profile)
    with replacing(params) as temporary:
        temporary.write_text(new, encoding="utf-8")
        try:
            check(temporary)
        except NearsafeError as error:
            raise NearsafeError(str(error).replace(str(temporary), f"{profile.path} over {params}")) from error
    return new != old


def check(params: Path) -> None:
    """Every section and every defence of a parameter file is what its reader expects. Raises NearsafeError."""
    from pipeline.defences.registry import read_defence
    from pipeline.sources.registry import read_sources
    from pipeline.train_defence import read_train_params

    values = load(params)
    for name, cls in sections().items():
        if name in values:
            build(cls, values[name], f"{params}: {name}")
    read_sources(params)
    for name in values.get("defences") or {}:
        defence = read_defence(params, name)
        if defence.kind == "trained":
            read_train_params(params, defence)


def sections() -> dict[str, type]:
    """Sections of params.yaml and the dataclass that each becomes."""
    from pipeline.attacks.paraphrase import ParaphraseParams
    from pipeline.compute import Compute
    from pipeline.curriculum import BucketParams
    from pipeline.embedding import EmbedParams
    from pipeline.generation import GenerateParams
    from pipeline.nsfwcaps import NsfwcapsParams
    from pipeline.prompt_sets import PromptsParams
    from pipeline.replies import ReplyParams
    from pipeline.scoring_inputs import ScoreParams
    from pipeline.sources.registry import SourcesParams
    from pipeline.targets import MineParams
    from pipeline.training import TrainParams
    from pipeline.world.build import WorldParams

    return {
        "world": WorldParams, "sources": SourcesParams, "prompts": PromptsParams, "embed": EmbedParams,
        "mine_pairs": MineParams, "build_nsfwcaps": NsfwcapsParams, "paraphrase": ParaphraseParams,
        "train": TrainParams, "generate": GenerateParams, "reply": ReplyParams, "score": ScoreParams,
        "bucket_difficulty": BucketParams, "compute": Compute,
    }  # fmt: skip


def _check_keys(profile: Profile, given: Mapping[str, Any], base: Any, known: Any, name: str) -> None:
    """Walk down the profile beside the parameter file and the types of what reads it."""
    for key, value in given.items():
        inner = f"{name}.{key}" if name else str(key)
        below = base.get(key) if isinstance(base, Mapping) else None
        options = _options(known)
        if not (isinstance(base, Mapping) and key in base) and options is not None and key not in options:
            either = sorted({*options, *(map(str, base) if isinstance(base, Mapping) else ())})
            near = difflib.get_close_matches(str(key), either, n=3, cutoff=0.5)
            hint = f"near it: {', '.join(near)}" if near else f"known: {', '.join(either)}"
            raise NearsafeError(f"{profile.path}: unknown key {inner!r}; {hint}")
        if isinstance(value, Mapping) and inner not in profile.head.replaces:
            _check_keys(profile, value, below, options.get(key) if options else None, inner)


def _options(known: Any) -> dict[str, Any] | None:
    """Keys that a type takes, with the type of each; None where any key will do."""
    if isinstance(known, Mapping):
        return dict(known)
    if isinstance(known, type) and is_dataclass(known):
        hints = typing.get_type_hints(known)
        return {field.name: hints[field.name] for field in fields(known)}
    if typing.get_origin(known) in (typing.Union, types.UnionType):
        found = [options for choice in typing.get_args(known) if (options := _options(choice)) is not None]
        return {key: hint for options in found for key, hint in options.items()} if found else None
    return None


def _find(values: Mapping[str, Any], name: str) -> Any:
    found: Any = values
    for key in name.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all values that are no mappings, and of empty mappings."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
