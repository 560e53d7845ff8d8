"""Build the benchmark of tight safe and unsafe quadruples in the shifted style.

python -m stages.build_nsfwcaps --params params.yaml --world data/world --clip pipeline/world/weights/clip \\
    --out data/nsfwcaps
"""

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import NearsafeError, run
from pipeline.ids import content_id
from pipeline.images import image_cell
from pipeline.layout import table_file
from pipeline.models.clip import encode_texts, load_clip
from pipeline.nsfwcaps import Candidate, NsfwcapsParams, select
from pipeline.params import lookup, section, to_spec
from pipeline.shards import output_hash
from pipeline.tables import Output, check_references, read_output
from pipeline.world.rewriting import GrammarRewriter, SceneRenderer

STYLE, SOURCE = "shifted", "nsfwcaps/world"


def main(params: Path, world: Path, clip: Path, out: Path) -> None:
    """Write captions, images, pairs and filters. Raises NearsafeError where too few quadruples are left."""
    knobs, seed = section(f"{params}:build_nsfwcaps", NsfwcapsParams), int(lookup(params, "seed"))
    captions, images = safe_pool(world, knobs.split)
    model = load_clip(clip)
    spec = {
        "stage": "build_nsfwcaps",
        "params": to_spec(knobs),
        "seed": seed,
        "inputs": {"world": output_hash(world), "clip": model.hash},
    }
    rewriter, renderer = GrammarRewriter(seed), SceneRenderer(STYLE, seed)
    chosen, filters = select(
        captions["text"].to_pylist(), knobs, rewriter, lambda texts: encode_texts(model, texts), seed
    )
    drawn = renderer.render([str(c.unsafe) for c in chosen], [content_id(str(c.unsafe)) for c in chosen])
    tables = quadruples(captions.to_pylist(), images, chosen, [image_cell(image) for image in drawn])
    output = Output(out, spec)
    for name, rows in {**tables, "filters": filters}.items():
        output.write(table_file(name), name, rows)
    output.finish()
    for row in filters:
        print(f"build_nsfwcaps: {row['filter']}: {row['n_before']} -> {row['n_after']} ({row['version']})")


def safe_pool(world: Path, split: str) -> tuple[pa.Table, dict[str, dict]]:
    """Safe captions of a split that have an image, and those images by caption id."""
    captions = read_output(world, "captions")
    captions = captions.filter(pc.and_(pc.equal(captions["split"], split), pc.invert(captions["unsafe"])))
    if captions.num_rows == 0:
        raise NearsafeError(f"{world}: captions: no safe row of split {split!r}")
    table = read_output(world, "images")
    check_references(table, "caption_id", read_output(world, "captions")["caption_id"], world / "images", "captions")
    images = {row["caption_id"]: row for row in table.to_pylist() if row["caption_id"] is not None}
    return captions.filter(pc.is_in(captions["caption_id"], pa.array(sorted(images)))), images


def quadruples(
    captions: list[dict], images: dict[str, dict], chosen: list[Candidate], cells: list[dict]
) -> dict[str, list[dict]]:
    """Rows of captions, images and pairs; the safe half keeps the ids it has in the world."""
    tables: dict[str, list[dict]] = {"captions": [], "images": [], "pairs": []}
    for candidate, cell in zip(chosen, cells, strict=True):
        safe = captions[candidate.row]
        image = images[safe["caption_id"]]
        unsafe_id, image_id = (content_id(SOURCE, str(candidate.unsafe), prefix=prefix) for prefix in "ci")
        unsafe = {
            "caption_id": unsafe_id,
            "text": candidate.unsafe,
            "unsafe": True,
            "category": candidate.category,
            "source": SOURCE,
        }
        tables["captions"] += [safe, {**unsafe, "split": safe["split"], "family": safe["family"]}]
        drawn = {
            "image_id": image_id,
            "image": cell,
            "unsafe": True,
            "source": SOURCE,
            "split": safe["split"],
            "caption_id": unsafe_id,
        }
        tables["images"] += [image, drawn]
        tables["pairs"].append(
            {
                "pair_id": content_id(safe["caption_id"], unsafe_id, prefix="p"),
                "safe_caption_id": safe["caption_id"],
                "safe_image_id": image["image_id"],
                "unsafe_caption_id": unsafe_id,
                "unsafe_image_id": image_id,
                "category": candidate.category,
                "split": safe["split"],
                "tightness": "tight",
                "similarity": candidate.alignment,
            }
        )
    return tables


def parser() -> argparse.ArgumentParser:
    """Command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--params", type=Path, required=True, help="parameter file with a section `build_nsfwcaps` and `seed`"
    )
    arguments.add_argument("--world", type=Path, required=True, help="output of the world stage")
    arguments.add_argument("--clip", type=Path, required=True, help="folder of the undefended CLIP, for the alignment")
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    run(main, parser())
