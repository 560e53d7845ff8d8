"""A user who brings nothing to train on: the stages finish, say so, and what needs no training is scored."""

import pytest

from pipeline.curriculum import BucketParams, bucket_pairs
from pipeline.errors import NearsafeError
from pipeline.layout import shard_file, table_file
from pipeline.nsfwcaps_given import take_given
from pipeline.replies import ReplyParams, admit_images
from pipeline.tables import Output, read_output
from stages import bucket_difficulty, embed, mine_pairs, paraphrase, score, train
from tests.learning import DES
from tests.worldlet import Worldlet, make

KNOBS = """
embed: {batch_size: 4}
mine_pairs: {k: 1, chunk: 4}
bucket_difficulty: {measure: nearest, cuts: quantile, values: [0.333, 0.667]}
paraphrase: {split: benchmark}
train: {batch_size: 2, epochs: 1, lr: 0.01, max_grad_norm: null, precision: fp32, curriculum: false,
        checkpoint_seconds: 0, log_every: 2, lora: {r: 2, alpha: 2, dropout: 0, targets: [q_proj]}}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Worldlet:
    """The worldlet has pairs of split `test` alone."""
    made = make(tmp_path_factory.mktemp("measured"))
    safer = {"method": "safer_clip", "weights": dict.fromkeys(_TERMS, 1.0)}
    text = made.params.read_text().replace("seeds: [0, 1]", "seeds: [0]")
    text = text.replace("  original: {method: original}", f"  original: {{method: original}}\n  safer: {safer}")
    made.params.write_text(text.replace("defences:", f"{KNOBS}defences:\n  des: {DES}".replace("None", "null")))
    embed.main(made.params, made.data.world, made.model("clip"), made.data.embeddings)
    return made


_TERMS = [
    f"{side}_{what}_{how}"
    for side in ("text", "image")
    for what in ("preserve", "redirect")
    for how in ("uni", "cross")
]


def test_without_training_pairs_every_stage_finishes_and_training_says_what_to_do(made, tmp_path, capsys):
    data = made.data
    mine_pairs.main(made.params, data.world, data.embeddings, data.targets)
    bucket_difficulty.main(made.params, data.world, data.embeddings, data.targets, data.buckets)
    paraphrase.main(made.params, data.world, data.embeddings, data.nsfwcaps, made.model("clip"), tmp_path / "p")
    said = capsys.readouterr().out
    assert "mine_pairs: " in said and "no pair of split 'train': no targets" in said
    assert "bucket_difficulty: " in said and "no buckets" in said
    assert "paraphrase: no paraphrase: " in said
    assert read_output(data.targets, "targets", allow_empty=True).num_rows == 0
    assert read_output(data.buckets, "buckets", allow_empty=True).num_rows == 0
    assert read_output(tmp_path / "p", "paraphrases", allow_empty=True).num_rows == 0

    where = {"world": data.world, "embeddings": data.embeddings, "targets": data.targets, "buckets": data.buckets}
    for defence in ("safer", "des"):
        with pytest.raises(NearsafeError, match="no pair of split 'train': add a source .* or keep only original"):
            train.main(made.params, defence, **where, clip=made.model("clip"), out=tmp_path / defence)
    train.main(made.params, "original", **where, clip=made.model("clip"), out=tmp_path / "original")
    score.main(made.params, "original", data.world, tmp_path / "original", made.model("clip"), made.model("detector"),
               tmp_path / "scores", nsfwcaps=data.nsfwcaps, prompts=data.prompts, paraphrases=tmp_path / "p",
               embeddings=data.embeddings, cache=None)  # fmt: skip
    benchmarks = set(read_output(tmp_path / "scores", "scores")["benchmark"].to_pylist())
    assert any(name.startswith("nsfwcaps") for name in benchmarks)


def test_a_world_of_pictures_alone_has_an_empty_benchmark_and_its_pictures_may_be_described(made, tmp_path):
    """Zero-shot data has classes and images, and no caption."""
    images = [
        {**row, "caption_id": None, "split": "zero_shot"} for row in read_output(made.data.world, "images").to_pylist()
    ]
    output = Output(tmp_path / "world", {"stage": "world"})
    output.write(shard_file("captions", 0), "captions", [])
    output.write(shard_file("pairs", 0), "pairs", [])
    output.write(table_file("images"), "images", images)
    output.finish()
    lines: list[str] = []
    take_given(tmp_path / "world", ["benchmark"], tmp_path / "caps", lines.append)
    assert "the benchmark is empty" in lines[-1]
    assert len(admit_images(tmp_path / "world", ReplyParams({"all": "zero_shot"})).rows) == len(images)
    (tmp_path / "embed.yaml").write_text(made.params.read_text())
    embed.main(tmp_path / "embed.yaml", tmp_path / "world", made.model("clip"), tmp_path / "embeddings")
    mine_pairs.main(made.params, tmp_path / "world", tmp_path / "embeddings", tmp_path / "targets")
    empty = read_output(tmp_path / "targets", "targets", allow_empty=True)
    assert len(bucket_pairs(empty, BucketParams("nearest", "quantile", (0.3, 0.6)))["pair_id"]) == 0
