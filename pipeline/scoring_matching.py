"""Generated images against the real images of their own prompts: a caption's picture of COCO, say.

What the field asks by FID on COCO, with image embeddings of the undefended CLIP in place of Inception's features.
Variants never compare (evaluation.md section 4.1): only values of equal N, prompts and real images do, as those of one
run are. Table `origins` says which image a prompt came with.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pipeline.metrics.frechet import Reference
from pipeline.metrics.rows import Scores
from pipeline.scoring_items import Encoder
from pipeline.seeds import rng
from pipeline.shards import iterate_output, parts
from pipeline.tables import read_manifest

MATCHING = "matching_images"


@dataclass(frozen=True)
class Matching:
    """`image`: row in `values` (M, D), the undefended CLIP's embeddings of real images, by prompt id."""

    image: Mapping[str, int]
    values: Tensor

    def score(
        self, scores: Scores, benchmark: str, asked: list[str], images: Tensor, detector: str, data_hash: str,
        replicates: int, root: int,
    ) -> None:  # fmt: skip
        """A row for the prompts that have a real image; none where these are under two. `images` (N, D): the generated
        images' embeddings, in the order of the prompts `asked`.
        """
        rows = [row for row, item in enumerate(asked) if item in self.image]
        real = self.values[sorted({self.image[asked[row]] for row in rows})]
        if len(real) < 2:  # no covariance
            return
        draw = rng(root, "score", benchmark, MATCHING)
        distance = Reference(MATCHING, real).estimate(images[rows], replicates, draw)
        scores.add(benchmark, MATCHING, "frechet_distance", distance, data_hash, detector=detector)


def real_images(world: Path, prompts: Collection[str]) -> dict[str, str]:
    """The real image that each prompt came with, the first of several; only prompts that have one."""
    if not any(entry["table"] == "origins" for entry in read_manifest(world)["files"]):
        return {}
    of: dict[tuple[str, str], list[str]] = {}
    for _, table in iterate_output(world, "origins"):
        for row in table.to_pylist():
            of.setdefault((row["source"], row["origin"]), []).append(row["item_id"])
    there: set[str] = set()
    for part in parts(world, "images"):
        there.update(part.columns(["image_id"])["image_id"].to_pylist())
    found: dict[str, str] = {}
    for items in of.values():
        real = next((item for item in items if item in there), None)
        found |= {item: real for item in items if item in prompts and real is not None}
    return found


def embed_matching(chosen: Mapping[str, str], encoder: Encoder, world: Path) -> Matching:
    """Embeddings of the chosen images. Raises TableError for one that cannot be read."""
    images = encoder.images(world, sorted(set(chosen.values())))
    return Matching({prompt: images.row[real] for prompt, real in chosen.items()}, images.values)
