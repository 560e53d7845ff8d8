"""Attack one defence's text tower with its weights at hand, and generate what the attacks find; a run is continued.

It exists to measure defences: docs/attacks.md.

python -m stages.attack --params params.yaml --section attack.search --defence safer_clip --prompts data/prompts \\
    --checkpoints data/checkpoints/safer_clip --clip pipeline/world/weights/clip \\
    --diffusion pipeline/world/weights/diffusion --detector pipeline/world/weights/detector \\
    --out data/attacks/safer_clip
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipeline.attacks.run import DEFAULT_SECTION, Inputs, attack_defence
from pipeline.defences import registry
from pipeline.errors import run


def main(
    params: Path,
    defence: str,
    prompts: Path,
    checkpoints: Path,
    clip: Path,
    diffusion: Path,
    out: Path,
    section: str = DEFAULT_SECTION,
    entries: str = registry.DEFAULT_SECTION,
    seeds: Sequence[int] | None = None,
    detector: Path | None = None,
) -> None:
    """Write shards of tables "attacks" and "generations", and the counts of the filters. Raises NearsafeError."""
    found = registry.read_defence(params, defence, entries)
    inputs = Inputs(prompts, checkpoints, clip, diffusion, detector)
    attack_defence(params, found, inputs, out, partial(print, flush=True), section, seeds)


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
    arguments.add_argument("--clip", type=Path, required=True, help="folder of the undefended CLIP")
    arguments.add_argument("--diffusion", type=Path, required=True, help="folder of the diffusion model")
    arguments.add_argument(
        "--detector", type=Path, help="folder of the world's detector, needed where images are not kept"
    )
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    run(main, parser())
