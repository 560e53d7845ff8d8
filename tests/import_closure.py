"""Which first-party files does a stage import? DVC does not follow imports, so every dvc.yaml must list them.

python -m tests.import_closure            print the Python files that each stage of GRAPHS must list
python -m tests.import_closure --write    rewrite the Python entries of every stage's deps to match
"""

import argparse
import ast
import io
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "stages")
# The pipeline, and the studies, which plain `dvc repro` does not run.
GRAPHS = ("dvc.yaml", "studies/dvc.yaml")
# Modules below pipeline/defences/ are loaded by the name in params.yaml: a stage that imports the loader depends on
# the one module of its own defence, and on what such a module is allowed to import: these.
LOADER = "pipeline/defences/registry.py"
DYNAMIC = "pipeline/defences/${item.method}.py"
# In a matrix an item is a name, not an entry: a defence that is swept is named as its module.
DYNAMIC_IN_MATRIX = "pipeline/defences/${item.defence}.py"
DEFENCE_MAY_IMPORT = {
    "pipeline/agewords.py",
    "pipeline/defences/losses.py",
    "pipeline/defences/protocol.py",
    "pipeline/defences/token_losses.py",
    "pipeline/errors.py",
    "pipeline/mining.py",
}
# Modules below pipeline/sources/ are loaded by the names in params.yaml: their loader depends on all of them.
SOURCES = "pipeline/sources/registry.py"


def module_file(name: str, root: Path = ROOT) -> Path | None:
    """The file of a first-party module, or None: `pipeline.tables` -> <root>/pipeline/tables.py."""
    if name.split(".")[0] not in PACKAGES:
        return None
    base = root.joinpath(*name.split("."))
    if base.with_suffix(".py").is_file():
        return base.with_suffix(".py")
    return base / "__init__.py" if (base / "__init__.py").is_file() else None


def imported(path: Path, root: Path = ROOT) -> set[Path]:
    """First-party files that a file imports, anywhere in it (inside functions too), `__init__.py` files left out."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = path.relative_to(root).parent.parts
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    files = {module_file(name, root) for name in names}
    return {file for file in files if file is not None and file.name != "__init__.py"}


def closure(path: Path, root: Path = ROOT) -> set[str]:
    """Paths, relative to `root`, of `path` and all first-party files that it imports, directly or not."""
    found: set[Path] = set()
    pending = {path}
    while pending:
        file = pending.pop()
        found.add(file)
        pending |= imported(file, root) - found
        if file == root / SOURCES:
            kinds = (kind for kind in file.parent.rglob("*.py") if kind.name != "__init__.py")
            pending |= set(kinds) - found
    listed = {file.relative_to(root).as_posix() for file in found}
    return listed | {DYNAMIC} | DEFENCE_MAY_IMPORT if LOADER in listed else listed


def stage_module(stage: dict[str, Any], root: Path = ROOT) -> Path:
    """The file of `python -m stages.X` in a stage's command."""
    match = re.search(r"python -m (stages\.\w+)", stage.get("do", stage)["cmd"])
    if match is None:
        raise ValueError(f"no `python -m stages.X` in {stage}")
    return root.joinpath(*match[1].split(".")).with_suffix(".py")


def expected(stage: dict[str, Any], root: Path = ROOT) -> list[str]:
    """Python files that the stage must list, the stage's own first."""
    own = stage_module(stage, root)
    first = own.relative_to(root).as_posix()
    files = closure(own, root) - {first}
    if DYNAMIC in files and "do" not in stage:
        one = re.search(r"--defence (\w+) ", stage["cmd"])  # a stage of one defence names it
        own_method = f"pipeline/defences/{one[1]}.py" if one else DYNAMIC_IN_MATRIX
        files = files - {DYNAMIC} | {own_method}
    return [first, *sorted(files)]


def listed(stage: dict[str, Any]) -> list[str]:
    """Python files that the stage lists."""
    return [str(dep) for dep in stage.get("do", stage)["deps"] if str(dep).endswith(".py")]


def main(write: bool) -> None:
    """Print the expected files of each stage of every graph, or write them there (comments and order kept)."""
    for graph in GRAPHS:
        if (ROOT / graph).is_file():
            mend(ROOT / graph, write)


def mend(file: Path, write: bool) -> None:
    """Print the expected files of each stage of one graph, or write them into it."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 118, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load(file.read_text(encoding="utf-8"))
    for name, stage in document["stages"].items():
        if not stage_module(stage).is_file():
            print(f"# {name}: {stage_module(stage).relative_to(ROOT)} is not there yet")
            continue
        files = expected(stage)
        if not write:
            print(f"{file.relative_to(ROOT)}:{name}:", *files, sep="\n  - ")
            continue
        deps = stage.get("do", stage)["deps"]
        deps[:] = [*files, *(dep for dep in deps if not str(dep).endswith(".py"))]
    if write:
        buffer = io.StringIO()
        yaml.dump(document, buffer)
        file.write_text(buffer.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--write", action="store_true", help="rewrite the graphs")
    main(**vars(arguments.parse_args()))
