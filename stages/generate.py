"""Generate images from every prompt set with one defence; an interrupted run is continued.

python -m stages.generate --params params.yaml --defence safer_clip --prompts data/prompts \\
    --checkpoints data/checkpoints/safer_clip --diffusion pipeline/world/weights/diffusion \\
    --out data/generations/safer_clip
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipeline.defences import registry
from pipeline.errors import run
from pipeline.generation import DEFAULT_SECTION, generate_defence


def main(
    params: Path,
    defence: str,
    prompts: Path,
    checkpoints: Path,
    diffusion: Path,
    out: Path,
    section: str = DEFAULT_SECTION,
    entries: str = registry.DEFAULT_SECTION,
    seeds: Sequence[int] | None = None,
) -> None:
    """Write shards of table "generations" and the counts of the prompt filters. Raises NearsafeError."""
    found = registry.read_defence(params, defence, entries)
    log = partial(print, flush=True)
    generate_defence(params, found, prompts, checkpoints, diffusion, out, log, section, seeds)


def parser() -> argparse.ArgumentParser:
    """Command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--params", type=Path, required=True, help="file with `seed`, `seeds` and both sections")
    arguments.add_argument("--defence", required=True, help="an entry of `--entries`")
    arguments.add_argument("--entries", default=registry.DEFAULT_SECTION, help="section of the entry (%(default)s)")
    arguments.add_argument("--section", default=DEFAULT_SECTION, help="section of the knobs (%(default)s)")
    arguments.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="training seeds; default: the file's")
    arguments.add_argument("--prompts", type=Path, required=True, help="output of the prompts stage")
    arguments.add_argument("--checkpoints", type=Path, required=True, help="output of the train stage of this defence")
    arguments.add_argument("--diffusion", type=Path, required=True, help="folder of the diffusion model")
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    run(main, parser())
