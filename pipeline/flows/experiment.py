"""Overrides of parameters: a DVC experiment in a clone of its own, so that the user's params.yaml stays as it is.

The clone has the user's commit and uncommitted changes of tracked files, shares DVC's cache (what is unchanged is
linked, not computed), and ends as a commit below refs/exps of the user's repository, as `dvc exp run` would leave it.
`dvc exp save` would not do: it commits every stage, also those that did not run, as if their outputs were current.
"""

import difflib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.experiments.refs import ExpRefInfo
from dvc.repo.experiments.utils import get_random_exp_name
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides, to_hydra_overrides

from pipeline.errors import NearsafeError
from pipeline.layout import Local
from pipeline.params import load

# An experiment is a commit; where git knows no author, it gets this one.
_AUTHOR = {f"GIT_{role}_NAME": "nearsafe flow" for role in ("AUTHOR", "COMMITTER")}
_AUTHOR |= {f"GIT_{role}_EMAIL": "flow@localhost" for role in ("AUTHOR", "COMMITTER")}


def check_overrides(root: Path, overrides: Sequence[str]) -> None:
    """Refuse, before any work, what `dvc exp run -S` could not set. Raises NearsafeError naming the override."""
    for file, settings in _by_file(overrides).items():
        if not (root / file).is_file():
            raise NearsafeError(f"{file}: no such file of parameters; NAME=VALUE sets one of params.yaml")
        known = dict(_leaves(load(root / file)))
        for setting in settings:
            _check(file, setting, known)


def make_workspace(root: Path, overrides: Sequence[str], keep: int) -> tuple[str, Path]:
    """A clone of `root` with `overrides` applied; returns the experiment's name and the clone.

    At most `keep` clones stay, this one among them; the oldest go.
    """
    if not (root / ".git").exists():
        raise NearsafeError(f"{root}: overrides run as an experiment, which needs the root of a git repository")
    head = _git(root, "rev-parse", "HEAD")
    with Repo(str(root)) as repo:
        name = get_random_exp_name(repo.scm, head)
        cache = repo.cache.local_cache_dir
    place = (root / Local().workspace(name)).resolve()
    _prune(place.parent, keep - 1)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        _clone(root, place, head, name)
        _share(root, place, cache)
        for file, settings in _by_file(overrides).items():
            apply_overrides(place / file, settings)
        _checkout(place)
    except DvcException as error:
        shutil.rmtree(place, ignore_errors=True)
        raise NearsafeError(f"overrides {' '.join(overrides)}: {error}") from error
    return name, place


def _checkout(place: Path) -> None:
    """Bring the outputs that the cache has into the clone; what it lacks is left to be made."""
    command = [sys.executable, "-m", "dvc", "checkout", "--quiet", "--force", "--allow-missing"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    if done.returncode:
        raise NearsafeError(f"dvc checkout in {place}: {' '.join(done.stderr.split())}")


def save(root: Path, place: Path, name: str) -> None:
    """Commit the clone as experiment `name` of the user's repository, where `dvc exp show` lists it."""
    head = _git(place, "rev-parse", "HEAD")
    ref = str(ExpRefInfo(head, name))
    _git(place, "add", "--all")
    commit = _git(place, "commit-tree", _git(place, "write-tree"), "-p", head, "-m", f"dvc: commit experiment {name}")
    _git(place, "update-ref", ref, commit)
    _git(root, "fetch", "--quiet", "--no-tags", "--update-shallow", str(place), f"{ref}:{ref}")


def _clone(root: Path, place: Path, head: str, name: str) -> None:
    """HEAD of `root`, and its uncommitted changes of tracked files."""
    changes = _git(root, "stash", "create")
    ref = f"refs/nearsafe/{name}"
    _git(root, "update-ref", ref, changes or head)
    try:
        _git(root, "init", "--quiet", str(place))
        objects = (root / _git(root, "rev-parse", "--git-path", "objects")).resolve()  # shared, not copied
        (place / ".git" / "objects" / "info" / "alternates").write_text(f"{objects}\n", encoding="utf-8")
        _git(place, "fetch", "--quiet", "--no-tags", "--update-shallow", str(root.resolve()), ref, "HEAD")
    finally:
        _git(root, "update-ref", "-d", ref)
    _git(place, "checkout", "--quiet", "--detach", head)
    if changes:
        _git(place, "restore", f"--source={changes}", "--staged", "--worktree", "--", ":/")


def _share(root: Path, place: Path, cache: str) -> None:
    """The user's own DVC settings (remotes), the same cache, and links to it instead of copies where they work."""
    local = root / ".dvc" / "config.local"
    if local.is_file():
        shutil.copyfile(local, place / ".dvc" / "config.local")
    with Repo(str(place)) as repo, repo.config.edit("local") as config:
        config.setdefault("cache", {}).update(dir=cache, type=["reflink", "hardlink", "copy"])


def _prune(workspaces: Path, keep: int) -> None:
    if workspaces.is_dir():
        found = sorted((path for path in workspaces.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
        for path in found[: max(0, len(found) - max(keep, 0))]:
            shutil.rmtree(path, ignore_errors=True)


def _by_file(overrides: Sequence[str]) -> dict[str, list[str]]:
    for override in overrides:
        if "=" not in override and not override.startswith("~"):
            raise NearsafeError(f"override {override!r}: expected NAME=VALUE, as in train.epochs=2")
    return to_path_overrides(overrides)


def _check(file: str, setting: str, known: Mapping[str, Any]) -> None:
    try:
        (parsed,) = to_hydra_overrides([setting])
    except Exception as error:  # the parser's errors are of many classes, all about this text
        raise NearsafeError(f"override {setting!r}: {str(error).splitlines()[0]}") from error
    if parsed.is_sweep_override():
        raise NearsafeError(f"override {setting!r}: several values at once; start one flow per value")
    if parsed.is_add() or parsed.key_or_group in known:
        return
    near = difflib.get_close_matches(parsed.key_or_group, known, n=5, cutoff=0.5)
    hint = f"near it: {', '.join(near)}" if near else f"its sections: {', '.join(n for n in known if '.' not in n)}"
    raise NearsafeError(f"{file}: no parameter {parsed.key_or_group!r}; {hint}")


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every name in a file of parameters, dotted; sections too."""
    for key, value in values.items():
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")


def _git(place: Path, *arguments: str) -> str:
    """Run git; returns what it prints. Raises NearsafeError with its complaint."""
    known = subprocess.run(["git", "-C", str(place), "config", "user.email"], capture_output=True, text=True).stdout
    env = os.environ if known.strip() else {**_AUTHOR, **os.environ}
    done = subprocess.run(["git", "-C", str(place), *arguments], capture_output=True, text=True, env=env)
    if done.returncode:
        raise NearsafeError(f"git {arguments[0]} in {place}: {done.stderr.strip() or f'status {done.returncode}'}")
    return done.stdout.strip()
