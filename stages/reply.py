"""Describe images through one defence's vision tower; an interrupted run is continued.

python -m stages.reply --params params.yaml --defence safer_clip --world data/world \\
    --checkpoints data/checkpoints/safer_clip --llava pipeline/world/weights/llava --out data/replies/safer_clip
"""

import argparse
from functools import partial
from pathlib import Path

from pipeline.errors import run
from pipeline.replies import reply_defence


def main(
    params: Path, defence: str, world: Path, checkpoints: Path, llava: Path, out: Path, seeds: list[int] | None
) -> None:
    """Write shards of table "replies" and the counts of the image filter. Raises NearsafeError."""
    reply_defence(params, defence, world, checkpoints, llava, out, seeds, partial(print, flush=True))


def parser() -> argparse.ArgumentParser:
    """Command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--params", type=Path, required=True, help="file with `seed`, `seeds`, `reply`")
    arguments.add_argument("--defence", required=True, help="what rows carry as `defence`")
    arguments.add_argument("--world", type=Path, required=True, help="output of the world stage: images, captions")
    arguments.add_argument("--checkpoints", type=Path, required=True, help="output of the train stage of this defence")
    arguments.add_argument("--llava", type=Path, required=True, help="folder of the LLaVA")
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--seeds", type=int, nargs="+", default=None, help="training seeds; default: params file")
    return arguments


if __name__ == "__main__":
    run(main, parser())
