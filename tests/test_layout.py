"""Paths: stages, dvc.yaml and the results views agree on where things lie."""

from pathlib import Path

from ruamel.yaml import YAML

from pipeline.layout import Data, Report, Results, seed_folder, shard_file, table_file

ROOT = Path(__file__).resolve().parents[1]


def test_names() -> None:
    assert shard_file("images", 3) == "images-00003.parquet"
    assert table_file("pairs") == "pairs.parquet"
    assert Data().checkpoints("des") / seed_folder(1) == Path("data/checkpoints/des/seed-1")


def test_dvc_outputs_are_the_layouts() -> None:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    outs = set()
    for stage in stages.values():
        definition = stage.get("do", stage)
        for out in [*definition["outs"], *definition.get("metrics", [])]:
            outs.add(next(iter(out)) if isinstance(out, dict) else out)
    data, results = Data(), Results()
    fixed = [data.world, data.prompts, data.embeddings, data.targets, data.nsfwcaps, data.buckets, data.paraphrases]
    per_defence = [made("${key}") for made in (data.checkpoints, data.generations, data.replies, data.scores)]
    last = [results.metrics, results.table, results.picture, results.separation, results.plots, Report().root]
    assert outs == {path.as_posix() for path in [data.code, *fixed, *per_defence, *last]}
