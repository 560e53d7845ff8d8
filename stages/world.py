"""Draw the embedded world, or read the user's data sets: captions, images, pairs, zero-shot classes, labels, prompts.

python -m stages.world --params params.yaml --out data/world
"""

import argparse
from functools import partial
from pathlib import Path

from pipeline.errors import run
from pipeline.layout import shard_file, table_file
from pipeline.params import lookup, section, to_spec
from pipeline.sources.ingest import ingest
from pipeline.sources.registry import read_sources
from pipeline.tables import Output
from pipeline.world.build import WorldParams, age_filter_rows, build_world, class_rows

IMAGES_PER_SHARD = 1000


def main(params: Path, out: Path) -> None:
    """Write every table of the world, drawn or of `sources.entries`. Raises NearsafeError naming a wrong parameter."""
    sources, entries = read_sources(params)
    if entries:
        ingest(sources, entries, out, partial(print, flush=True))
    else:
        draw(params, out)


def draw(params: Path, out: Path) -> None:
    """Write every table of the embedded world."""
    knobs, seed = section(f"{params}:world", WorldParams), int(lookup(params, "seed"))
    output = Output(out, {"stage": "world", "params": to_spec(knobs), "seed": seed})
    world = build_world(knobs, seed)
    tables = {
        "captions": world.captions,
        "pairs": world.pairs,
        "classes": class_rows(),
        "labels": world.labels,
        "prompts": world.prompts,
    }
    filters = age_filter_rows({name: [str(row["text"]) for row in tables[name]] for name in ("captions", "prompts")})
    for name, rows in {**tables, "filters": filters}.items():
        output.write(table_file(name), name, rows)
    for shard, at in enumerate(range(0, len(world.images), IMAGES_PER_SHARD)):
        output.write(shard_file("images", shard), "images", world.images[at : at + IMAGES_PER_SHARD])
    output.finish()
    print(
        f"world: {len(world.captions)} captions, {len(world.images)} images, "
        f"{len(world.pairs)} pairs, {len(world.prompts)} prompts"
    )


def parser() -> argparse.ArgumentParser:
    """Command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--params", type=Path, required=True, help="parameter file with `seed`, `world` and, for users' data, `sources`"
    )
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    run(main, parser())
