"""embed, mine_pairs, bucket_difficulty and train as stages: outputs, resume, bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from pipeline import train_defence
from pipeline.defences.registry import read_defence
from pipeline.errors import NearsafeError, TableError
from pipeline.layout import MANIFEST
from pipeline.models.clip import encode_images, encode_texts, load_clip
from pipeline.models.hashing import model_hash
from pipeline.tables import Output, read_manifest, read_output
from pipeline.vectors import read_vectors
from stages import embed, mine_pairs, train
from tests.learning import before_training, captions, save_clip, save_params


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return before_training(tmp_path_factory.mktemp("stages"))


def run_train(root: Path, out: Path, defence: str = "safer_clip", params: Path | None = None, **other: Path) -> None:
    names = ("world", "embeddings", "targets", "buckets", "clip")
    inputs = {name: other.get(name, root / name) for name in names}
    train.main(params or root / "params.yaml", defence, **inputs, out=out)


def tree(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_embeddings_are_normalised_rows_of_the_model(made):
    text, image = read_vectors(made / "embeddings")
    clip = load_clip(made / "clip")
    table = read_output(made / "world", "captions")
    expected = torch.nn.functional.normalize(encode_texts(clip, table.column("text").to_pylist()), dim=1)
    torch.testing.assert_close(text.of(table.column("caption_id").to_pylist()), expected, atol=1e-6, rtol=1e-5)
    assert len(image.row) == 24 and text.model_hash == clip.hash
    torch.testing.assert_close(image.values.norm(dim=1), torch.ones(24))
    with pytest.raises(TableError, match="no embedding of item 'absent'"):
        text.of(["c00", "absent"])


def test_a_model_that_makes_nan_is_stopped_with_the_item(made, tmp_path):
    broken = shutil.copytree(made / "clip", tmp_path / "clip")
    weights = load_file(broken / "model.safetensors")
    weights["text_projection.weight"][0] = 3e38  # finite itself
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NearsafeError, match=r"captions.parquet: the embedding of item 'c00' is NaN"):
        embed.main(made / "params.yaml", made / "world", broken, tmp_path / "out")
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_targets_are_the_nearest_training_captions(made):
    rows = read_output(made / "targets", "targets").to_pylist()
    assert len(rows) == 24 and {row["rank"] for row in rows} == {0, 1} and "test-pair" not in str(rows)
    pairs = {row["pair_id"]: row for row in read_output(made / "world", "pairs").to_pylist()}
    text, _ = read_vectors(made / "embeddings")
    train_ids = sorted(pair for pair in pairs if pair != "test-pair")
    safe = text.of([pairs[pair]["safe_caption_id"] for pair in train_ids]).double()
    for row in rows:
        query = text.of([pairs[row["pair_id"]]["unsafe_caption_id"]]).double()[0]
        order = torch.argsort(-(safe @ query), stable=True)
        assert row["target_pair_id"] == train_ids[order[row["rank"]]]
        assert row["cosine"] == pytest.approx(float((safe @ query)[order[row["rank"]]]), abs=1e-6)
        given = text.of([pairs[row["pair_id"]]["safe_caption_id"]]).double()[0]
        assert row["cosine_given"] == pytest.approx(float(given @ query), abs=1e-6)


def test_pairs_that_share_a_safe_caption_stand_in_the_pool_once_by_lowest_id(made, tmp_path):
    """Whatever the order of the rows."""
    world = shutil.copytree(made / "world", tmp_path / "world")
    pairs = read_output(world, "pairs").to_pylist()[:12]
    pairs += [{**row, "pair_id": "a" + row["pair_id"]} for row in pairs]
    output = Output(tmp_path / "shared", {})
    output.write("pairs.parquet", "pairs", pairs[::-1])
    output.finish()
    mine_pairs.main(made / "params.yaml", tmp_path / "shared", made / "embeddings", tmp_path / "targets")
    rows = read_output(tmp_path / "targets", "targets").to_pylist()
    assert len(rows) == 48 and all(row["target_pair_id"].startswith("ap-") for row in rows)
    expected = {(r["pair_id"], r["rank"]): r["cosine"] for r in read_output(made / "targets", "targets").to_pylist()}
    assert all(row["cosine"] == expected[row["pair_id"].removeprefix("a"), row["rank"]] for row in rows)


def test_the_chunk_does_not_change_the_targets(made, tmp_path):
    params = save_params(tmp_path / "params.yaml", mine_pairs={"k": 2, "chunk": 1})
    mine_pairs.main(params, made / "world", made / "embeddings", tmp_path / "targets")
    assert (tmp_path / "targets/targets.parquet").read_bytes() == (made / "targets/targets.parquet").read_bytes()


@pytest.mark.parametrize("k", [0, 13])
def test_k_beyond_the_pool_is_an_error(made, tmp_path, k):
    params = save_params(tmp_path / "params.yaml", mine_pairs={"k": k, "chunk": 1})
    with pytest.raises(NearsafeError, match=rf"mine_pairs.k: expected 1 to 12, .* got {k}"):
        mine_pairs.main(params, made / "world", made / "embeddings", tmp_path / "targets")


def test_buckets_are_thirds_of_the_nearest_cosine(made):
    rows = read_output(made / "buckets", "buckets").to_pylist()
    by_level = {level: [r["cosine"] for r in rows if r["difficulty"] == level] for level in ("easy", "medium", "hard")}
    assert [len(values) for values in by_level.values()] == [4, 4, 4]
    assert min(by_level["easy"]) >= max(by_level["medium"]) and min(by_level["medium"]) >= max(by_level["hard"])


def test_the_undefended_checkpoint_is_the_base_itself(made, tmp_path):
    run_train(made, tmp_path / "out", "original")
    assert model_hash(tmp_path / "out/seed-0") == model_hash(made / "clip")
    assert read_output(tmp_path / "out", "train_log", allow_empty=True).num_rows == 0
    listed = {entry["name"] for entry in read_manifest(tmp_path / "out")["files"]}
    assert "seed-0/model.safetensors" in listed and "seed-0/tokenizer.json" in listed


def test_every_seed_makes_a_plain_folder_and_a_log(made, tmp_path, capsys):
    params = save_params(tmp_path / "params.yaml", seeds="[0, 3]")
    run_train(made, tmp_path / "out", params=params)
    log = read_output(tmp_path / "out", "train_log")
    assert set(log.column("seed").to_pylist()) == {0, 3} and set(log.column("epoch").to_pylist()) == {1, 2, 3}
    assert log.num_rows == 2 * 6 * 8 and set(log.column("defence").to_pylist()) == {"safer_clip"}
    for seed in (0, 3):
        CLIPModel.from_pretrained(tmp_path / "out" / f"seed-{seed}")
    zero, three = (load_clip(tmp_path / "out" / f"seed-{seed}") for seed in (0, 3))
    texts = [text for text, _ in captions()]
    assert zero.hash != three.hash and not torch.equal(encode_texts(zero, texts), encode_texts(three, texts))
    printed = capsys.readouterr().out
    assert "safer_clip seed 3: epoch 3 step 6/6 total" in printed and "precision fp32: as configured" in printed
    assert not (tmp_path / "out/.resume").exists()


def test_the_export_is_the_trained_model_and_the_run_repeats_byte_for_byte(made, tmp_path):
    run_train(made, tmp_path / "one")
    run_train(made, tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    base, tuned = load_clip(made / "clip"), load_clip(tmp_path / "one/seed-0")
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    assert not torch.allclose(encode_images(base, images), encode_images(tuned, images), atol=1e-3)


def test_a_killed_stage_keeps_finished_seeds_and_ends_as_if_never_killed(made, tmp_path, monkeypatch, capsys):
    params = save_params(tmp_path / "params.yaml", seeds="[0, 3]")
    run_train(made, tmp_path / "whole", params=params)
    original, calls = train_defence.export_clip, iter(range(10))

    def killed(*arguments):
        if next(calls) == 1:
            raise KeyboardInterrupt
        original(*arguments)

    monkeypatch.setattr(train_defence, "export_clip", killed)
    with pytest.raises(KeyboardInterrupt):
        run_train(made, tmp_path / "out", params=params)
    assert not (tmp_path / "out" / MANIFEST).exists()
    capsys.readouterr()
    run_train(made, tmp_path / "out", params=params)
    printed = capsys.readouterr().out
    assert "seed 0: finished before, kept" in printed and "seed 3: continuing after step 6 of 6" in printed
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_another_spec_and_a_finished_output_start_afresh(made, tmp_path, capsys):
    run_train(made, tmp_path / "out")
    (tmp_path / "out" / MANIFEST).unlink()
    params = save_params(tmp_path / "params.yaml")
    values = json.loads(params.read_text())
    values["defences"]["safer_clip"]["rel_scale"] = 2.0
    params.write_text(json.dumps(values))
    capsys.readouterr()
    run_train(made, tmp_path / "out", params=params)
    run_train(made, tmp_path / "out", params=params)
    printed = capsys.readouterr().out
    assert "kept" not in printed and "continuing" not in printed and printed.count("step 6/6") == 2


def test_references_of_another_model_are_refused(made, tmp_path):
    with pytest.raises(NearsafeError, match=r"embeddings: made by model \w+, the base model is \w+"):
        run_train(made, tmp_path / "out", clip=save_clip(tmp_path / "other", seed=1))


def _changed_world(made: Path, out: Path, table: str, change) -> Path:
    """A copy of the world with the rows of one table changed."""
    output = Output(out, {})
    for entry in read_manifest(made / "world")["files"]:
        rows = pq.read_table(made / "world" / entry["name"]).to_pylist()
        output.write(entry["name"], entry["table"], change(rows) if entry["table"] == table else rows)
    output.finish()
    return out


def _broken_image(rows: list[dict]) -> list[dict]:
    return [{**r, "image": {"bytes": b"no image", "path": None}} if r["image_id"] == "i03" else r for r in rows]


@pytest.mark.parametrize(
    "table, change, message",
    [
        ("images", _broken_image, "images-00000.parquet: column 'image', image_id 'i03': unreadable image"),
        ("images", lambda rows: [r for r in rows if r["image_id"] != "i03"], "image 'i03' is not in the images"),
        ("captions", lambda rows: [r for r in rows if r["caption_id"] != "c03"], "caption 'c03' is not in the capt"),
        ("pairs", lambda rows: rows[1:], "column 'pair_id', row [0-9]+: 'p-0-cup' is not in the pairs"),
        (
            "pairs",
            lambda rows: [{**rows[0], "unsafe_image_id": None}, *rows[1:]],
            "column 'unsafe_image_id': pair 'p-0-cup' has none, training needs it",
        ),
    ],
)
def test_a_world_that_does_not_fit_is_named(made, tmp_path, table, change, message):
    world = _changed_world(made, tmp_path / "world", table, change)
    with pytest.raises(TableError, match=message):
        run_train(made, tmp_path / "out", world=world)


def test_an_unreadable_image_stops_embed_with_file_and_item(made, tmp_path):
    world = _changed_world(made, tmp_path / "world", "images", _broken_image)
    with pytest.raises(TableError, match="images-00000.parquet: column 'image', image_id 'i03': unreadable image"):
        embed.main(made / "params.yaml", world, made / "clip", tmp_path / "out")


def test_a_nan_in_the_embeddings_table_is_named(made, tmp_path):
    copy = shutil.copytree(made / "embeddings", tmp_path / "embeddings")
    file = copy / "embeddings-text-00000.parquet"
    table = pq.read_table(file)
    values = table.column("vector").combine_chunks().flatten().to_numpy().copy()
    values[3] = np.nan
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values), 12)
    pq.write_table(table.set_column(2, table.schema.field("vector"), vectors), file)
    with pytest.raises(TableError, match=r"embeddings-text-00000.parquet: column 'vector', row 0 \(item_id='c00'\)"):
        run_train(made, tmp_path / "out", embeddings=copy)


def test_an_unfinished_input_is_named(made, tmp_path):
    copy = shutil.copytree(made / "buckets", tmp_path / "buckets")
    (copy / MANIFEST).unlink()
    with pytest.raises(TableError, match="buckets: no manifest.json: .* did not finish"):
        run_train(made, tmp_path / "out", buckets=copy)


def test_pairs_without_a_bucket_are_named(made, tmp_path):
    output = Output(tmp_path / "buckets", {})
    output.write("buckets.parquet", "buckets", read_output(made / "buckets", "buckets").slice(1))
    output.finish()
    with pytest.raises(TableError, match="no difficulty of training pair 'p-0-ball'"):
        run_train(made, tmp_path / "out", buckets=tmp_path / "buckets")


@pytest.mark.parametrize(
    "sections, message",
    [
        ({"seeds": [0, 0]}, "seeds: expected one or more different integers"),
        ({"seeds": []}, "seeds: expected one or more different integers"),
        ({"train": {}}, "train .*batch_size: missing"),
        ({"train": None}, "no section 'train'"),
    ],
)
def test_bad_parameters_are_named(made, tmp_path, sections, message):
    params = save_params(tmp_path / "params.yaml", **sections)
    with pytest.raises(NearsafeError, match=message):
        run_train(made, tmp_path / "out", params=params)


def test_an_unknown_defence_and_a_missing_model_leave_nothing_behind(made, tmp_path):
    with pytest.raises(NearsafeError, match="unknown defence 'safest'; known: original, safe_clip, safer_clip"):
        run_train(made, tmp_path / "out", "safest")
    for defence in ("original", "safer_clip"):
        with pytest.raises(NearsafeError, match="absent: no such model folder"):
            run_train(made, tmp_path / "out", defence, clip=tmp_path / "absent")
    assert not (tmp_path / "out").exists()


def test_overrides_of_a_defence_are_laid_over_the_shared_knobs(made):
    params = made / "params.yaml"
    safer = train_defence.read_train_params(params, read_defence(params, "safer_clip"))
    safe = train_defence.read_train_params(params, read_defence(params, "safe_clip"))
    assert safer.curriculum and not safe.curriculum and (safer.lora.r, safe.lora.r) == (3, 2)
    assert safer.lora.targets == safe.lora.targets and safer.lr == safe.lr
