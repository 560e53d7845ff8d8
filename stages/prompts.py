"""Collect every prompt set that images are made of: the world's, sets derived from it, and published files.

python -m stages.prompts --params params.yaml --world data/world --out data/prompts
"""

import argparse
from pathlib import Path

from pipeline.agewords import LEXICON_VERSION
from pipeline.errors import run
from pipeline.layout import shard_file, table_file
from pipeline.params import lookup, section, to_spec
from pipeline.prompt_sets import PromptsParams, build_prompts
from pipeline.shards import output_hash
from pipeline.tables import Output


def main(params: Path, world: Path, out: Path) -> None:
    """Write tables prompts, labels and filters. Raises NearsafeError naming file, column and row."""
    knobs, seed = section(f"{params}:prompts", PromptsParams), int(lookup(params, "seed"))
    tables = build_prompts(knobs, seed, world)
    # Which file it was is its hash; where it lay is not.
    files = {name: {**to_spec(file), "path": None, "sha256": tables.hashes[name]} for name, file in knobs.files.items()}
    spec = {"stage": "prompts", "seed": seed, "sets": to_spec(knobs.world), "files": files}
    output = Output(out, {**spec, "lexicon": LEXICON_VERSION, "inputs": {"world": output_hash(world)}})
    output.write(table_file("prompts"), "prompts", tables.prompts)
    labels = table_file("labels") if tables.labels else shard_file("labels", 0)  # a shard may be empty
    output.write(labels, "labels", tables.labels)
    output.write(table_file("filters"), "filters", tables.filters)
    output.finish()
    sets = tables.prompts["prompt_set"].to_pylist()
    for name in dict.fromkeys(sets):
        dropped = [f"{r['n_dropped']} {r['filter']}" for r in tables.filters if r["set"] == name and r["n_dropped"]]
        print(f"prompts: {name}: {sets.count(name)} prompts" + (f"; dropped: {', '.join(dropped)}" if dropped else ""))


def parser() -> argparse.ArgumentParser:
    """Command line of the stage."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--params", type=Path, required=True, help="parameter file with `prompts` and `seed`")
    arguments.add_argument("--world", type=Path, required=True, help="output of the world stage")
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    run(main, parser())
