"""Cut the training pairs into easy, medium and hard, for the curriculum.

python -m stages.bucket_difficulty --params params.yaml --world data/world --embeddings data/embeddings \\
    --targets data/targets --out data/buckets
"""

import argparse
from pathlib import Path

import numpy as np

from pipeline.curriculum import LEVELS, BucketParams, bucket_pairs
from pipeline.errors import run
from pipeline.layout import shard_file, table_file
from pipeline.params import section, to_spec
from pipeline.shards import output_hash
from pipeline.tables import Output, check_references, read_output


def main(params: Path, world: Path, embeddings: Path, targets: Path, out: Path) -> None:
    """Write one difficulty per training pair, none where there are no targets; cosines are those of the targets table.

    Raises NearsafeError.
    """
    knobs = section(f"{params}:bucket_difficulty", BucketParams)
    found = read_output(targets, "targets", allow_empty=True)
    pairs = read_output(world, "pairs", allow_empty=True)
    check_references(found, "pair_id", pairs.column("pair_id"), targets, f"the pairs of {world}")
    buckets = bucket_pairs(found, knobs)
    inputs = {"world": output_hash(world), "embeddings": output_hash(embeddings), "targets": output_hash(targets)}
    output = Output(out, {"stage": "bucket_difficulty", "params": to_spec(knobs), "inputs": inputs})
    output.write(table_file("buckets") if found.num_rows else shard_file("buckets", 0), "buckets", buckets)
    output.finish()
    if not found.num_rows:
        print(f"bucket_difficulty: {targets} has no targets: no buckets; nothing can be trained on it")
        return
    counts = ", ".join(f"{level} {np.sum(buckets['difficulty'] == level)}" for level in LEVELS)
    print(f"bucket_difficulty: {counts} pairs ({knobs.measure} safe caption, {knobs.cuts} cuts)")


def parser() -> argparse.ArgumentParser:
    """Command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--params", type=Path, required=True, help="file with a section `bucket_difficulty`")
    arguments.add_argument("--world", type=Path, required=True, help="output of the world stage")
    arguments.add_argument("--embeddings", type=Path, required=True, help="output of the embed stage")
    arguments.add_argument("--targets", type=Path, required=True, help="output of the mine_pairs stage")
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    run(main, parser())
