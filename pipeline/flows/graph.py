"""What there is to do: the stages of the targets and which of them are stale, asked of DVC once."""

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import networkx as nx
from dvc.dependency import param
from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo
from dvc.repo.index import Index
from dvc.utils.serialize import load_path

from pipeline.code import OWN, renewed
from pipeline.errors import NearsafeError

MAIN = "dvc.yaml"


@dataclass(frozen=True)
class Step:
    """One stage to run. `upstream`: the stages it needs that are to run as well."""

    name: str
    gpu: bool
    upstream: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """`stages`: all of the targets and what they need, dependencies first; `steps`: those to run, in the same order."""

    stages: tuple[str, ...]
    steps: dict[str, Step]


def make_plan(root: Path, targets: Sequence[str] = (), force: bool = False) -> Plan:
    """Ask DVC's graph and status. `targets`: stages, groups ("train": every train@*) or files ("studies/dvc.yaml").

    No target is every stage of the root's dvc.yaml. With `force` everything of the plan runs. A stage is stale if DVC
    says so or if something it needs is; of the stage that lists the code, the lists it needs have to change. Raises
    NearsafeError for an unknown target, and where DVC cannot answer.
    """
    if not (root / MAIN).is_file():
        raise NearsafeError(f"{root}: no {MAIN} here; run this in the root of the repository")
    try:
        with Repo(str(root), _wait_for_lock=True) as repo:  # what --wait-for-lock sets
            graph = _graph(repo, targets)  # edges point from a stage to what it depends on
            names = _names(graph)
            wanted = _select(names, targets)
            needed = wanted.union(*(nx.descendants(graph, stage) for stage in wanted)) & names.keys()
            order = [stage for stage in nx.topological_sort(graph.reverse(copy=False)) if stage in needed]
            changed = set() if force else _changed(repo, order)
            fresh = _fresh(root, names, changed)
    except DvcException as error:
        raise NearsafeError(f"DVC cannot say what is out of date: {_reasons(error)}") from error
    steps: dict[str, Step] = {}
    for stage in order:
        needs = (names[found] for found in graph.successors(stage) if found in names)
        upstream = tuple(sorted(name for name in needs if name in steps))
        same = upstream == (OWN,) and not fresh & {dep.fs_path for dep in stage.deps}  # its list stays as it is
        if force or (upstream and not same) or names[stage] in changed:
            gpu = bool((stage.meta or {}).get("gpu"))
            steps[names[stage]] = Step(names[stage], gpu, upstream)
    return Plan(tuple(names[stage] for stage in order), steps)


def _graph(repo: Repo, targets: Sequence[str]) -> nx.DiGraph:
    """DVC's graph. Of the root's dvc.yaml alone where that has all targets: reading the studies takes seconds."""
    main = Index.from_file(repo, os.path.join(repo.root_dir, MAIN)).graph
    names = {target for name in _names(main).values() for target in (name, *_groups(name))}
    return main if names.issuperset(target.removeprefix(f"{MAIN}:") for target in targets) else repo.index.graph


def _names(graph: nx.DiGraph) -> dict[Any, str]:
    """Every stage that has a command (a .dvc file has none), and what it is called."""
    return {stage: _name(stage) for stage in graph if getattr(stage, "cmd", None)}


def _changed(repo: Repo, stages: Iterable[Any]) -> set[str]:
    """Names of the stages that are not as `dvc.lock` says. `Repo.status` would load the graph once per target."""
    with lock_repo(repo), _each_file_of_parameters_once():
        return {_name(stage) for stage in stages if stage.status(check_updates=True)}


def _fresh(root: Path, names: Mapping[Any, str], changed: Set[str]) -> set[str]:
    """Paths that the stage of the lists of code will write anew, known without running it: most changes touch few."""
    outs = [out.fs_path for stage, name in names.items() if name == OWN and OWN in changed for out in stage.outs]
    return {os.path.join(out, name) for out in outs for name in renewed(root, Path(out))}


@contextmanager
def _each_file_of_parameters_once() -> Iterator[None]:
    """DVC parses params.yaml anew for every stage: a third of the time that a look at an unchanged pipeline takes."""
    parsed: dict[str, Any] = {}

    def load(path: str, fs: Any, **options: Any) -> Any:
        if path not in parsed:
            parsed[path] = load_path(path, fs, **options)
        return parsed[path]

    with patch.object(param, "load_path", load):
        yield


def _name(stage: Any) -> str:
    """What `dvc repro` calls the stage in the repository's root, wherever this process is."""
    file = Path(stage.path_in_repo.rpartition(":")[0] or stage.path_in_repo).as_posix()
    return stage.name if file == MAIN else f"{file}:{stage.name}"


def _select(names: dict[Any, str], targets: Sequence[str]) -> set[Any]:
    """The stages that `targets` name."""
    if not targets:
        return {stage for stage, name in names.items() if ":" not in name}
    chosen: set[Any] = set()
    for target in targets:
        target = os.path.normpath(target) if target.endswith((".yaml", "/")) else target.removeprefix(f"{MAIN}:")
        found = {stage for stage, name in names.items() if target in (name, *_groups(name))}
        if not found:
            raise NearsafeError(_unknown(target, names.values()))
        chosen |= found
    return chosen


def _groups(name: str) -> tuple[str, ...]:
    """The other targets that a stage belongs to: its group, and its file."""
    file, _, stage = name.rpartition(":")
    group = name.partition("@")[0] if "@" in stage else name
    return (group, file or MAIN)


def _unknown(target: str, names: Iterable[str]) -> str:
    known = sorted({target for name in names for target in (name, *_groups(name))})
    bare = {name.rpartition(":")[2]: name for name in reversed(known)}
    near = difflib.get_close_matches(target, known, n=5, cutoff=0.5)
    near += [bare[name] for name in difflib.get_close_matches(target, bare, n=5, cutoff=0.5) if bare[name] not in near]
    hint = f"near it: {', '.join(near)}" if near else "`dvc stage list --all` shows all"
    return f"no stage or group {target!r} in the repository; {hint}"


def _reasons(error: BaseException | None) -> str:
    """The messages of an error and of its causes: DVC keeps the reason in the cause."""
    reasons = []
    while error is not None:
        reasons.append(" ".join(str(error).split()).rstrip("."))
        error = error.__cause__
    return ": ".join(dict.fromkeys(filter(None, reasons)))
