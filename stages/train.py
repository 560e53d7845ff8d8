"""Turn the base CLIP into the checkpoint of one defence, per training seed; an interrupted run is continued.

python -m stages.train --params params.yaml --defence safer_clip --world data/world --embeddings data/embeddings \\
    --targets data/targets --buckets data/buckets --clip pipeline/world/weights/clip --out data/checkpoints/safer_clip
"""

import argparse
from functools import partial
from pathlib import Path

from pipeline.defences.registry import read_defence
from pipeline.errors import run
from pipeline.train_defence import Inputs, make_checkpoints


def main(
    params: Path, defence: str, world: Path, embeddings: Path, targets: Path, buckets: Path, clip: Path, out: Path
) -> None:
    """Write seed-<s>/ (plain transformers folders) and the training log. Raises NearsafeError."""
    inputs = Inputs(world, embeddings, targets, buckets, clip)
    make_checkpoints(params, read_defence(params, defence), inputs, out, partial(print, flush=True))


def parser() -> argparse.ArgumentParser:
    """Command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--params", type=Path, required=True, help="file with `seed`, `seeds`, `train`, `defences`")
    arguments.add_argument("--defence", required=True, help="an entry of `defences`")
    arguments.add_argument("--world", type=Path, required=True, help="output of the world stage")
    arguments.add_argument("--embeddings", type=Path, required=True, help="output of the embed stage")
    arguments.add_argument("--targets", type=Path, required=True, help="output of the mine_pairs stage")
    arguments.add_argument("--buckets", type=Path, required=True, help="output of the bucket_difficulty stage")
    arguments.add_argument("--clip", type=Path, required=True, help="folder of the undefended CLIP")
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    run(main, parser())
