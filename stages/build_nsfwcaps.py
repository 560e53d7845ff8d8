"""Build the benchmark of tight safe and unsafe quadruples, every split of it.

python -m stages.build_nsfwcaps --params params.yaml --world data/world --clip pipeline/world/weights/clip \\
    --out data/nsfwcaps
"""

import argparse
from pathlib import Path

from pipeline.errors import run
from pipeline.nsfwcaps_build import build_nsfwcaps


def main(params: Path, world: Path, clip: Path, out: Path) -> None:
    """Write captions, images, pairs, filters and the data card. Raises NearsafeError where too few are left."""
    build_nsfwcaps(params, world, clip, out, lambda line: print(f"build_nsfwcaps: {line}", flush=True))


def parser() -> argparse.ArgumentParser:
    """Command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--params", type=Path, required=True, help="parameter file with a section `build_nsfwcaps` and `seed`"
    )
    arguments.add_argument("--world", type=Path, required=True, help="output of the world stage")
    arguments.add_argument("--clip", type=Path, required=True, help="folder of the undefended CLIP, for the alignment")
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    run(main, parser())
