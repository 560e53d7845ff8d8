"""List the files that every stage's program is made of, with their hashes: a change of code reaches DVC by these lists.

python -m stages.code --out data/code
"""

import argparse
from pathlib import Path

from pipeline.code import programs
from pipeline.errors import run
from pipeline.files import replacing


def main(out: Path) -> None:
    """Write <stage>.txt for every module of stages/, of the repository in this folder. Raises NearsafeError."""
    found = programs(Path.cwd())
    for name, text in found.items():
        with replacing(out / name) as file:
            file.write_text(text, encoding="utf-8")
    for file in out.glob("*.txt"):
        if file.name not in found:
            file.unlink()
    print(f"code: {len(found)} programs, {sum(map(len, map(str.splitlines, found.values())))} files listed")


def parser() -> argparse.ArgumentParser:
    """Command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    run(main, parser())
