"""Find the nearest safe captions of every unsafe training caption, in the frozen text space.

python -m stages.mine_pairs --params params.yaml --world data/world --embeddings data/embeddings --out data/targets
"""

import argparse
from pathlib import Path

import numpy as np

from pipeline.errors import run
from pipeline.layout import shard_file, table_file
from pipeline.params import section, to_spec
from pipeline.shards import output_hash
from pipeline.tables import Output, read_output
from pipeline.targets import TRAIN_SPLIT, MineParams, mine_targets
from pipeline.vectors import read_vectors


def main(params: Path, world: Path, embeddings: Path, out: Path) -> None:
    """Write `k` targets per training pair, with their cosine and that of the given pair; none in a world without.

    Raises NearsafeError.
    """
    knobs = section(f"{params}:mine_pairs", MineParams)
    text, _ = read_vectors(embeddings)
    targets = mine_targets(read_output(world, "pairs", allow_empty=True), text, knobs)
    inputs = {"world": output_hash(world), "embeddings": output_hash(embeddings)}
    output = Output(out, {"stage": "mine_pairs", "params": to_spec(knobs), "inputs": inputs})
    name = table_file("targets") if targets["pair_id"] else shard_file("targets", 0)  # a shard may be empty
    output.write(name, "targets", targets, metadata={"model_hash": text.model_hash})
    output.finish()
    if not targets["pair_id"]:
        print(f"mine_pairs: {world} has no pair of split {TRAIN_SPLIT!r}: no targets; nothing can be trained on it")
        return
    first = targets["rank"] == 0
    nearest, given = np.median(targets["cosine"][first]), np.median(targets["cosine_given"][first])
    print(f"mine_pairs: {first.sum()} pairs; median cosine to a safe caption: {nearest:.3f} nearest, {given:.3f} given")


def parser() -> argparse.ArgumentParser:
    """Command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--params", type=Path, required=True, help="parameter file with a section `mine_pairs`")
    arguments.add_argument("--world", type=Path, required=True, help="output of the world stage")
    arguments.add_argument("--embeddings", type=Path, required=True, help="output of the embed stage")
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    run(main, parser())
