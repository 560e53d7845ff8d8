"""Turn the base CLIP into the checkpoint of one defence, per training seed; an interrupted run is continued.

python -m stages.train --params params.yaml --defence safer_clip --world data/world --embeddings data/embeddings \\
    --targets data/targets --buckets data/buckets --clip pipeline/world/weights/clip --out data/checkpoints/safer_clip
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipeline.defences.registry import DEFAULT_SECTION, read_defence
from pipeline.errors import run
from pipeline.run_seeds import read_seeds
from pipeline.train_defence import Inputs, make_checkpoints


def main(
    params: Path,
    defence: str,
    world: Path,
    embeddings: Path,
    targets: Path,
    buckets: Path,
    clip: Path,
    out: Path,
    section: str = DEFAULT_SECTION,
    changes: Sequence[str] = (),
    label: str | None = None,
    seeds: Sequence[int] | None = None,
) -> None:
    """Write seed-<s>/ (plain transformers folders), the training log and the drift. Raises NearsafeError."""
    inputs = Inputs(world, embeddings, targets, buckets, clip)
    found = read_defence(params, defence, section, changes, label)
    make_checkpoints(params, found, inputs, out, partial(print, flush=True), read_seeds(params, seeds))


def parser() -> argparse.ArgumentParser:
    """Command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--params", type=Path, required=True, help="file with `seed`, `seeds`, `train`, `defences`")
    arguments.add_argument("--defence", required=True, help="an entry of the section")
    arguments.add_argument("--section", default=DEFAULT_SECTION, help="section of the entry (%(default)s)")
    arguments.add_argument(
        "--set", dest="changes", nargs="+", default=(), metavar="KEY=VALUE", help="changes, such as train.lr=1e-4"
    )
    arguments.add_argument("--label", help="what the rows call it; default: the entry's name")
    arguments.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="training seeds; default: the file's")
    arguments.add_argument("--world", type=Path, required=True, help="output of the world stage")
    arguments.add_argument("--embeddings", type=Path, required=True, help="output of the embed stage")
    arguments.add_argument("--targets", type=Path, required=True, help="output of the mine_pairs stage")
    arguments.add_argument("--buckets", type=Path, required=True, help="output of the bucket_difficulty stage")
    arguments.add_argument("--clip", type=Path, required=True, help="folder of the undefended CLIP")
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    run(main, parser())
