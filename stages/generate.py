"""Generate images from every prompt set with one defence; an interrupted run is continued.

python -m stages.generate --params params.yaml --defence safer_clip --world data/world \\
    --checkpoints data/checkpoints/safer_clip --diffusion pipeline/world/weights/diffusion \\
    --out data/generations/safer_clip
"""

import argparse
from functools import partial
from pathlib import Path

from pipeline.defences.registry import read_defence
from pipeline.errors import run
from pipeline.generation import generate_defence


def main(params: Path, defence: str, world: Path, checkpoints: Path, diffusion: Path, out: Path) -> None:
    """Write shards of table "generations" and the counts of the prompt filters. Raises NearsafeError."""
    log = partial(print, flush=True)
    generate_defence(params, read_defence(params, defence), world, checkpoints, diffusion, out, log)


def parser() -> argparse.ArgumentParser:
    """Command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--params", type=Path, required=True, help="file with `seed`, `seeds`, `generate`, `defences`"
    )
    arguments.add_argument("--defence", required=True, help="an entry of `defences`")
    arguments.add_argument("--world", type=Path, required=True, help="output of the world stage: prompts")
    arguments.add_argument("--checkpoints", type=Path, required=True, help="output of the train stage of this defence")
    arguments.add_argument("--diffusion", type=Path, required=True, help="folder of the diffusion model")
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    run(main, parser())
