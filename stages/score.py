"""Score one defence: retrieval, zero-shot, drift, detections in its images, image quality; each with its interval.

python -m stages.score --params params.yaml --defence safer_clip --world data/world --nsfwcaps data/nsfwcaps \\
    --checkpoints data/checkpoints/safer_clip --clip pipeline/world/weights/clip \\
    --detector pipeline/world/weights/detector --prompts data/prompts --generations data/generations/safer_clip \\
    --paraphrases data/paraphrases --out data/scores/safer_clip

Without --generations, --paraphrases or --replies, what they hold is not scored. With --images-only nothing but images
is, and the token states of --prompts.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipeline.errors import run
from pipeline.layout import Local
from pipeline.scoring import DEFAULT_SECTION, score_defence
from pipeline.scoring_inputs import Inputs


def main(
    params: Path,
    defence: str,
    world: Path,
    checkpoints: Path,
    clip: Path,
    detector: Path,
    out: Path,
    section: str = DEFAULT_SECTION,
    seeds: list[int] | None = None,
    nsfwcaps: Path | None = None,
    generations: Sequence[Path] = (),
    prompts: Path | None = None,
    paraphrases: Path | None = None,
    replies: Path | None = None,
    text_detector: Path | None = None,
    embeddings: Path | None = None,
    validation_only: bool = False,
    images_only: bool = False,
    cache: Path | None = None,
) -> None:
    """Write "scores", and where there is something of the kind "outcomes", "detections" and "projections".

    Raises NearsafeError.
    """
    inputs = Inputs(
        world, checkpoints, clip, detector, nsfwcaps, tuple(generations), prompts, paraphrases, replies, text_detector,
        embeddings, validation_only, images_only,
    )  # fmt: skip
    score_defence(params, defence, inputs, out, partial(print, flush=True), seeds, section, cache)


def parser() -> argparse.ArgumentParser:
    """Command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--params", type=Path, required=True, help="file with `seed`, `seeds` and the section")
    arguments.add_argument("--section", default=DEFAULT_SECTION, help="section of the knobs (%(default)s)")
    arguments.add_argument("--defence", required=True, help="name that the rows carry")
    arguments.add_argument("--world", type=Path, required=True, help="output of the world stage")
    arguments.add_argument("--nsfwcaps", type=Path, help="output of the build_nsfwcaps stage")
    arguments.add_argument("--checkpoints", type=Path, required=True, help="output of the train stage of this defence")
    arguments.add_argument("--clip", type=Path, required=True, help="folder of the undefended CLIP")
    arguments.add_argument("--detector", type=Path, required=True, help="folder of the world's hazard detector")
    arguments.add_argument("--seeds", type=int, nargs="+", help="training seeds, instead of the parameter file's")
    arguments.add_argument("--prompts", type=Path, help="output of the prompts stage: what images were asked for")
    arguments.add_argument(
        "--generations", type=Path, nargs="+", default=(), help="outputs of its generate and attack stages"
    )
    arguments.add_argument("--paraphrases", type=Path, help="output of the paraphrase stage")
    arguments.add_argument("--replies", type=Path, help="output of its reply stage")
    arguments.add_argument("--text-detector", type=Path, help="folder of the world's text detector, for --replies")
    arguments.add_argument("--embeddings", type=Path, help="output of the embed stage: saves embedding its items again")
    arguments.add_argument(
        "--validation-only", action="store_true", help="score the validation split and nothing that reports"
    )
    arguments.add_argument(
        "--images-only", action="store_true", help="score images and token states: no retrieval, zero-shot, drift"
    )
    arguments.add_argument(
        "--cache", type=Path, default=Local().cache, help="folder of what was seen in images before (%(default)s)"
    )
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    run(main, parser())
