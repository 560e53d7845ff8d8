"""Which files of this repository a stage's program is made of: what DVC must know and does not follow, imports.

Every module of stages/ is a program, its files are the module and all first-party modules that it imports, directly or
not, anywhere in them. Two registries import by name: a method of `pipeline/defences` is left to the stage that names it
(dvc.yaml lists it beside the program), with what such a module may import; all kinds of `pipeline/sources` belong to
their registry. Package `__init__.py` files are empty and left out.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGES = ("pipeline", "stages")
OWN = "code"  # the stage that writes this, and is no program of others
LOADER = "pipeline/defences/registry.py"
DEFENCE_MAY_IMPORT = frozenset({
    "pipeline/agewords.py",
    "pipeline/defences/losses.py",
    "pipeline/defences/protocol.py",
    "pipeline/defences/token_losses.py",
    "pipeline/errors.py",
    "pipeline/mining.py",
})  # fmt: skip
SOURCES = "pipeline/sources/registry.py"


def programs(root: Path) -> dict[str, str]:
    """File name -> text, one for each program of the repository at `root`: lines as sha256sum has them."""
    code = Code(root)
    stages = sorted(file for file in (root / "stages").glob("*.py") if file.stem not in ("__init__", OWN))
    return {f"{file.stem}.txt": code.listing(file) for file in stages}


def renewed(root: Path, folder: Path) -> set[str]:
    """Names of the files in `folder` that are not, or no longer, what `programs` says."""
    texts = programs(root)
    there = {file.name: file.read_text(encoding="utf-8") for file in folder.glob("*.txt")}
    return {name for name in texts.keys() | there.keys() if texts.get(name) != there.get(name)}


class Code:
    """The first-party Python files below `root`; each is read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.imported = cache(self._imported)
        self.digest = cache(lambda name: hashlib.sha256((root / name).read_bytes()).hexdigest())

    def closure(self, path: Path) -> set[str]:
        """Paths, relative to the root, of `path` and all first-party files that it imports, directly or not."""
        found: set[Path] = set()
        pending = {path}
        while pending:
            file = pending.pop()
            found.add(file)
            pending |= self.imported(file) - found
            if file == self.root / SOURCES:
                kinds = (kind for kind in file.parent.rglob("*.py") if kind.name != "__init__.py")
                pending |= set(kinds) - found
        names = {file.relative_to(self.root).as_posix() for file in found}
        return names | DEFENCE_MAY_IMPORT if LOADER in names else names

    def listing(self, path: Path) -> str:
        """A line for each file of the closure: its SHA-256, two spaces, its path."""
        return "".join(f"{self.digest(name)}  {name}\n" for name in sorted(self.closure(path)))

    def _imported(self, path: Path) -> frozenset[Path]:
        """First-party files that a file imports, anywhere in it, inside functions too; none where it is no Python."""
        names: set[str] = set()
        try:
            tree = ast.parse(path.read_bytes(), str(path))
        except (SyntaxError, ValueError):
            return frozenset()  # half edited: its hash is listed, a stage that imports it says the rest
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    package = path.relative_to(self.root).parent.parts
                    base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
                names.add(base)
                names.update(f"{base}.{alias.name}" for alias in node.names)
        files = {self._file(name) for name in names}
        return frozenset(file for file in files if file is not None)

    def _file(self, name: str) -> Path | None:
        """The file of a first-party module, or None: `pipeline.tables` -> <root>/pipeline/tables.py."""
        file = self.root.joinpath(*name.split(".")).with_suffix(".py")
        return file if name.split(".")[0] in PACKAGES and file.is_file() else None
