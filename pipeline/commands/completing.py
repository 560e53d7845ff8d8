"""What the shell offers for an argument: read from the files of the clone, quickly, and nothing where they lack."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.errors import NearsafeError


def defences(incomplete: str) -> list[str]:
    """Entries of `defences` in params.yaml."""
    return _fitting(_section("params.yaml", "defences"), incomplete)


def stage_targets(incomplete: str) -> list[str]:
    """Stages of dvc.yaml, groups and their members: train, train@des."""
    names: list[str] = []
    for name, stage in _section("dvc.yaml", "stages").items():
        names.append(name)
        over = stage.get("foreach") if isinstance(stage, dict) else None
        if isinstance(over, str):  # "${defences}": a section of params.yaml
            over = _section("params.yaml", over.strip("${}"))
        names += [f"{name}@{key}" for key in over or ()]
    return _fitting(names, incomplete)


def named_queries(incomplete: str) -> list[str]:
    """The questions of `nearsafe queries`."""
    folder = Path(__file__).parents[1] / "results/sql/queries"
    return _fitting(sorted(file.stem for file in folder.glob("*.sql")), incomplete)


def _section(file: str, name: str) -> dict[str, Any]:
    from pipeline.params import load

    try:
        found = load(Path(file)).get(name)
    except NearsafeError:
        return {}
    return found if isinstance(found, dict) else {}


def _fitting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
