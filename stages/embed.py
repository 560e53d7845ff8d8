"""Embed every caption and image with the undefended CLIP, once: the frozen references of all that follows.

python -m stages.embed --params params.yaml --world data/world --clip pipeline/world/weights/clip --out data/embeddings
"""

import argparse
from pathlib import Path

from pipeline.compute import read_compute
from pipeline.embedding import EmbedParams, embed_world
from pipeline.errors import run
from pipeline.params import section


def main(params: Path, world: Path, clip: Path, out: Path) -> None:
    """Write one shard of vectors per shard of captions and images; a stopped run is continued. Raises NearsafeError."""
    knobs, compute = section(f"{params}:embed", EmbedParams), read_compute(params)
    embed_world(world, clip, knobs, compute, out, lambda line: print(f"embed: {line}", flush=True))


def parser() -> argparse.ArgumentParser:
    """Command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--params", type=Path, required=True, help="file with sections `embed` and `compute`")
    arguments.add_argument("--world", type=Path, required=True, help="output of the world stage")
    arguments.add_argument("--clip", type=Path, required=True, help="folder of the undefended CLIP")
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    run(main, parser())
