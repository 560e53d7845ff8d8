"""Generated images against the real images of their own prompts: a caption's picture of COCO, say.

What the field asks by FID on COCO, with image embeddings of the undefended CLIP in place of Inception's features.
Variants never compare (evaluation.md section 4.1): only values of equal N, prompts and real images do, as those of one
run are. Table `origins` says which image a prompt, or a caption of the same words, came with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
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
    """`image`: row in `values` (M, D), the undefended CLIP's embeddings of real images (unit length), by prompt id."""

    image: Mapping[str, int]
    values: Tensor

    def score(
        self, scores: Scores, benchmark: str, asked: list[str], images: Tensor, detector: str, data_hash: str,
        replicates: int, root: int,
    ) -> None:  # fmt: skip
        """A row for the prompts that have a real image; none where these are under two. `images` (N, D): the generated
        images' embeddings, of any length, in the order of the prompts `asked`.
        """
        rows = [row for row, item in enumerate(asked) if item in self.image]
        real = self.values[sorted({self.image[asked[row]] for row in rows})]
        if len(real) < 2:  # no covariance
            return
        draw = rng(root, "score", benchmark, MATCHING)
        made = torch.nn.functional.normalize(images[rows].float(), dim=1)  # as the real ones are
        distance = Reference(MATCHING, real).estimate(made, replicates, draw)
        scores.add(benchmark, MATCHING, "frechet_distance", distance, data_hash, detector=detector)


def real_images(world: Path, prompts: Mapping[str, str]) -> dict[str, str]:
    """The real image that each prompt (id to text) came with; only prompts that have one.

    A prompt that a source made of an image has its source and origin; one of a file has a caption's very words, and of
    several images with these the first.
    """
    if not any(entry["table"] == "origins" for entry in read_manifest(world)["files"]):
        return {}
    there: set[str] = set()
    for part in parts(world, "images"):
        there.update(part.columns(["image_id"])["image_id"].to_pylist())
    key: dict[str, tuple[str, str]] = {}
    real: dict[tuple[str, str], str] = {}
    for _, table in iterate_output(world, "origins"):
        for row in table.to_pylist():
            key[row["item_id"]] = own = (row["source"], row["origin"])
            if row["item_id"] in there:
                real.setdefault(own, row["item_id"])
    found = {item: real[key[item]] for item in prompts if key.get(item) in real}
    worded = pa.array(sorted({text for item, text in prompts.items() if item not in found}), pa.string())
    image: dict[str, str] = {}
    for _, table in iterate_output(world, "captions"):
        for row in table.filter(pc.is_in(table["text"], value_set=worded)).select(["caption_id", "text"]).to_pylist():
            if key.get(row["caption_id"]) in real:
                image.setdefault(row["text"], real[key[row["caption_id"]]])
    return found | {item: image[text] for item, text in prompts.items() if item not in found and text in image}


def embed_matching(chosen: Mapping[str, str], encoder: Encoder, world: Path) -> Matching:
    """Embeddings of the chosen images. Raises TableError for one that cannot be read."""
    images = encoder.images(world, sorted(set(chosen.values())))
    return Matching({prompt: images.row[real] for prompt, real in chosen.items()}, images.values)
