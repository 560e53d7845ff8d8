"""Score one defence: retrieval, zero-shot, drift, detections in its images, image quality; each with its interval.

python -m stages.score --params params.yaml --defence safer_clip --world data/world --nsfwcaps data/nsfwcaps \\
    --checkpoints data/checkpoints/safer_clip --generations data/generations/safer_clip \\
    --clip pipeline/world/weights/clip --detector pipeline/world/weights/detector --out data/scores/safer_clip
"""

import argparse
from functools import partial
from pathlib import Path

from pipeline.errors import run
from pipeline.scoring import Inputs, score_defence


def main(
    params: Path,
    defence: str,
    world: Path,
    nsfwcaps: Path,
    checkpoints: Path,
    generations: Path,
    clip: Path,
    detector: Path,
    out: Path,
) -> None:
    """Write tables "scores" and "detections". Raises NearsafeError."""
    inputs = Inputs(world, nsfwcaps, checkpoints, generations, clip, detector)
    score_defence(params, defence, inputs, out, partial(print, flush=True))


def parser() -> argparse.ArgumentParser:
    """Command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--params", type=Path, required=True, help="file with `seed`, `seeds` and `score`")
    arguments.add_argument("--defence", required=True, help="name that the rows carry")
    arguments.add_argument("--world", type=Path, required=True, help="output of the world stage")
    arguments.add_argument("--nsfwcaps", type=Path, required=True, help="output of the build_nsfwcaps stage")
    arguments.add_argument("--checkpoints", type=Path, required=True, help="output of the train stage of this defence")
    arguments.add_argument("--generations", type=Path, required=True, help="output of its generate stage")
    arguments.add_argument("--clip", type=Path, required=True, help="folder of the undefended CLIP")
    arguments.add_argument("--detector", type=Path, required=True, help="folder of the world's hazard detector")
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    run(main, parser())
