"""Files that changed behind our back: a turned bit, another run's table. Refused in one line, or made again alike."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline import checkpoint, examining, train_defence
from pipeline.compute import Compute
from pipeline.embedding import EmbedParams, embed_world
from pipeline.errors import NearsafeError, TableError
from pipeline.image_cache import ImageCache, load_images
from pipeline.layout import MANIFEST
from pipeline.models.clip import load_clip
from pipeline.results.sources import find_sources
from pipeline.rewriting.resume import Resumable
from pipeline.schemas import SCHEMAS
from pipeline.shards import iterate_output, parts, verified
from pipeline.tables import Output, read_manifest, read_output, read_table
from stages import bucket_difficulty, embed, generate, mine_pairs, score, train
from tests.faults.damage import bits, files, replaced, turned
from tests.faults.record import record
from tests.learning import save_clip, save_params, save_world
from tests.worldlet import Worldlet, make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs up to `bucket_difficulty`, of models with different random weights: `here` and `there`."""
    root = tmp_path_factory.mktemp("files")
    save_params(root / "params.yaml")
    save_params(root / "two.yaml", seeds="[0, 3]")
    for seed, run in enumerate(("here", "there")):
        save_clip(root / run / "clip", seed)
        save_world(root / run / "world")
        at = {name: root / run / name for name in ("world", "embeddings", "targets", "buckets")}
        embed.main(root / "params.yaml", at["world"], root / run / "clip", at["embeddings"])
        mine_pairs.main(root / "params.yaml", at["world"], at["embeddings"], at["targets"])
        bucket_difficulty.main(root / "params.yaml", at["world"], at["embeddings"], at["targets"], at["buckets"])
    return root


@pytest.fixture(scope="module")
def worldlet(tmp_path_factory: pytest.TempPathFactory) -> Worldlet:
    """A world with checkpoints of two seeds and their images."""
    made = make(tmp_path_factory.mktemp("worldlet"))
    run_generate(made, made.data.generations("original"))
    return made


def run_generate(made: Worldlet, out: Path, checkpoints: Path | None = None) -> None:
    where = checkpoints or made.data.checkpoints("original")
    generate.main(made.params, "original", made.data.prompts, where, made.model("diffusion"), out)


def run_score(made: Worldlet, out: Path, cache: Path | None = None) -> None:
    data = made.data
    score.main(
        made.params, "original", data.world, data.checkpoints("original"), made.model("clip"), made.model("detector"),
        out, generations=[data.generations("original")], prompts=data.prompts, cache=cache, images_only=True,
    )  # fmt: skip


def run_train(root: Path, out: Path, params: str = "params.yaml") -> None:
    names = ("world", "embeddings", "targets", "buckets", "clip")
    train.main(root / params, "safer_clip", **{name: root / "here" / name for name in names}, out=out)


def one_line(error: BaseException) -> bool:
    return isinstance(error, NearsafeError) and "\n" not in str(error)


def test_a_turned_bit_in_a_table_is_refused_by_every_reader(made: Path) -> None:
    readers = (
        lambda folder, table: read_output(folder, table),
        lambda folder, table: list(iterate_output(folder, table)),
        lambda folder, table: [part.columns([SCHEMAS[table].schema.names[0]]) for part in parts(folder, table)],
    )  # fmt: skip
    tried = 0
    for folder, table in (("world", "images"), ("embeddings", "embeddings"), ("targets", "targets")):
        file = parts(made / "here" / folder, table)[-1].file
        for bit in bits(file, 40):
            with turned(file, bit):
                for read in readers:
                    with pytest.raises(NearsafeError, match=file.name) as caught:
                        read(file.parent, table)
                    assert one_line(caught.value)
                    tried += 1
    with (
        turned(file, 8 * (file.stat().st_size // 2)),
        pytest.raises(TableError, match="targets.parquet: not the bytes"),
    ):
        find_sources(made / "here", verify=True)
    record("one bit turned in a table", tried, tried, "every reader refuses it in one line")


def test_a_turned_bit_in_a_manifest_never_leaves_a_shard_out(made: Path) -> None:
    folder, refused, count = made / "here" / "world", 0, 250
    tables = ("captions", "images", "pairs")
    whole = [read_output(folder, table) for table in tables]
    for bit in bits(folder / MANIFEST, count):
        with turned(folder / MANIFEST, bit):
            try:
                found = [read_output(folder, table) for table in tables]
            except NearsafeError as error:
                assert one_line(error)
                refused += 1
            else:  # in the specification, which no reader takes data from
                assert all(one.equals(other) for one, other in zip(whole, found, strict=True))
    assert refused > count / 2
    record("one bit turned in a manifest", count, count, f"{refused} refused, the others change no table")


SWAPS = {
    "mine_pairs": ("embeddings", "embeddings-text-00000.parquet"),
    "bucket_difficulty": ("targets", "targets.parquet"),
    "train embeddings": ("embeddings", "embeddings-image-00001.parquet"),
    "train targets": ("targets", "targets.parquet"),
    "train buckets": ("buckets", "buckets.parquet"),
}


@pytest.mark.parametrize("stage", SWAPS)
def test_a_table_of_another_run_is_refused_by_the_stages_that_learn(made: Path, tmp_path: Path, stage: str) -> None:
    """Schema, ids and number of rows are the same: only the bytes tell."""
    folder, name = SWAPS[stage]
    here, params = {n: made / "here" / n for n in ("world", "embeddings", "targets", "buckets")}, made / "params.yaml"
    with replaced(here[folder] / name, made / "there" / folder / name):
        with pytest.raises(TableError, match=f"{name}: not the bytes that manifest.json lists: .*run its stage again"):
            if stage == "mine_pairs":
                mine_pairs.main(params, here["world"], here["embeddings"], tmp_path / "out")
            elif stage == "bucket_difficulty":
                bucket_difficulty.main(params, here["world"], here["embeddings"], here["targets"], tmp_path / "out")
            else:
                run_train(made, tmp_path / "out")
    assert not (tmp_path / "out" / MANIFEST).exists()
    record("a table swapped for another run's", 1, 1, stage)


def test_a_checkpoint_or_images_of_another_run_are_refused(worldlet: Worldlet, tmp_path: Path) -> None:
    checkpoints = worldlet.data.checkpoints("original")
    with replaced(checkpoints / "seed-0", checkpoints / "seed-1"):
        with pytest.raises(TableError, match="seed-0/model.safetensors: not the bytes that manifest.json lists"):
            run_generate(worldlet, tmp_path / "images")
        with pytest.raises(TableError, match="seed-0/model.safetensors: not the bytes"):
            run_score(worldlet, tmp_path / "scores")
    shards = [part.file for part in parts(worldlet.data.generations("original"), "generations")]
    with replaced(shards[0], shards[1]):
        with pytest.raises(TableError, match="generations-00000.parquet: .*manifest.json lists"):
            run_score(worldlet, tmp_path / "scores", tmp_path / "cache")
    with pytest.raises(TableError, match="seed-9: .* lists no such folder"):
        verified(checkpoints / "seed-9")
    assert not any((tmp_path / name / MANIFEST).exists() for name in ("images", "scores"))
    record("a table swapped for another run's", 3, 3, "checkpoints and images")


class Stop(BaseException):
    """Ends a run from outside."""


def stop_at(number: int):
    """A log that ends the run at its line `number`."""
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        if len(lines) == number:
            raise Stop

    return log


def test_a_turned_bit_in_a_finished_shard_makes_a_stopped_stage_make_it_again(made: Path, tmp_path: Path) -> None:
    run = (made / "here" / "world", made / "here" / "clip", EmbedParams(5), Compute())
    whole = files(made / "here" / "embeddings")
    for number, bit in enumerate((0, 3001, 7000)):
        out = tmp_path / str(number)
        with pytest.raises(Stop):
            embed_world(*run, out, stop_at(3))
        (first, _) = sorted(out.glob("*.parquet"))
        content = bytearray(first.read_bytes())
        content[bit // 8] ^= 1 << bit % 8
        first.write_bytes(content)
        lines: list[str] = []
        embed_world(*run, out, lines.append)
        assert files(out) == whole
        assert sum("vectors" in line for line in lines) == 2, "the damaged one, and the one that was not there"
    record("one bit turned in a finished shard of a stopped stage", 3, 3, "made again, equal bytes")


@pytest.mark.faults
def test_a_turned_bit_in_a_finished_seed_trains_it_again(made: Path, tmp_path: Path, monkeypatch) -> None:
    run_train(made, tmp_path / "whole", "two.yaml")
    plain, calls = train_defence.export_clip, iter(range(10))

    def killed(*arguments: object) -> None:
        if next(calls) == 1:
            raise Stop
        plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train_defence, "export_clip", killed)
        with pytest.raises(Stop):
            run_train(made, tmp_path / "out", "two.yaml")
    weights = tmp_path / "out/seed-0/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-7] ^= 1
    weights.write_bytes(content)
    (tmp_path / "out/.resume/seed-0.safetensors").unlink()
    run_train(made, tmp_path / "out", "two.yaml")
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    record("one bit turned in a finished seed of a stopped training", 1, 1, "trained again, equal bytes")


def test_a_turned_bit_in_the_state_of_a_training_is_refused(tmp_path: Path) -> None:
    parameters = {"a": nn.Parameter(torch.ones(3, 4)), "b": nn.Parameter(torch.zeros(2))}
    optimizer = torch.optim.AdamW(parameters.values())
    sum(parameter.sum() for parameter in parameters.values()).backward()
    optimizer.step()
    state = tmp_path / "state.safetensors"
    checkpoint.save(state, parameters, optimizer, 7, checkpoint.Log(["x"], [1], [[0.5]], [[1.0]]))
    kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    found, refused = bits(state, 200), 0
    for bit in found:
        with turned(state, bit):
            try:
                step, _ = checkpoint.restore(state, parameters, torch.optim.AdamW(parameters.values()))
            except NearsafeError as error:
                assert one_line(error) and "remove it to start afresh" in str(error)
                refused += 1
            else:  # in the white space of the header
                assert step == 7 and all(torch.equal(kept[name], parameters[name]) for name in kept)
    assert refused > 0.9 * len(found)
    record("one bit turned in the state of a training", len(found), len(found), f"{refused} refused, others no change")


def test_a_turned_bit_in_decoded_images_is_decoded_again(made: Path, tmp_path: Path) -> None:
    clip, ids = load_clip(made / "here" / "clip"), [f"i{number:02d}" for number in range(24)]
    memory, _ = load_images(ids, made / "here" / "world", clip)
    cache, tried = ImageCache(tmp_path, 0), 0
    load_images(ids, made / "here" / "world", clip, cache)
    for file in sorted(tmp_path.iterdir()):
        for bit in bits(file, 30):
            before = file.read_bytes()
            with turned(file, bit):
                found, _ = load_images(ids, made / "here" / "world", clip, cache)
                assert torch.equal(memory, found)
            file.write_bytes(before)
            tried += 1
    record("one bit turned in the cache of decoded images", tried, tried, "decoded again")


@pytest.mark.faults
def test_a_turned_bit_in_what_was_seen_before_is_looked_at_again(worldlet: Worldlet, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run_score(worldlet, tmp_path / "scores", cache)
    whole = files(tmp_path / "scores")
    kept = {part.file: part for part in parts(worldlet.data.generations("original"), "generations")}
    tables = sorted(cache.glob("*.parquet"))
    assert len(tables) == len(kept)
    (key,) = {table.stem for table in tables if table == tables[0]}
    part = next(p for p in kept.values() if _same_detections(cache / f"{key}.parquet", p))
    known = examining.recall_shard(cache, key, part)
    tried = 0
    for suffix in (".parquet", ".safetensors"):
        for bit in bits(cache / f"{key}{suffix}", 40):
            with turned(cache / f"{key}{suffix}", bit):
                found = examining.recall_shard(cache, key, part)
                assert found is None or (
                    found.detections == known.detections and torch.equal(found.features[0], known.features[0])
                )
                tried += 1
    for file in (cache / f"{key}.safetensors", cache / f"{key}.parquet"):
        with turned(file, 8 * (file.stat().st_size // 2)):
            run_score(worldlet, tmp_path / "again", cache)
            assert files(tmp_path / "again") == whole
    record("one bit turned in .nearsafe/cache", tried + 2, tried + 2, "looked at again, equal scores")


def _same_detections(table: Path, part) -> bool:
    items = set(read_table(table, "detections", allow_empty=True)["item_id"].to_pylist())
    return items == set(part.columns(["generation_id"])["generation_id"].to_pylist())


def test_a_turned_bit_in_an_answer_is_asked_again(tmp_path: Path) -> None:
    class Upper:
        name, facts = "upper", {}

        def rewrite(self, captions, categories):
            return [caption.upper() for caption in captions]

    rewriter = Resumable(Upper(), tmp_path, 4, lambda line: None)
    asked = (["a cup", "a mug", "a hat"], ["weapons"] * 3)
    first = rewriter.rewrite(*asked)
    file = tmp_path / "rewrites-00000.json"
    found = bits(file, 150)
    for bit in found:
        with turned(file, bit):
            assert rewriter.rewrite(*asked) == first
    record("one bit turned in a rewriter's answers", len(found), len(found), "asked again")


@pytest.mark.faults
def test_dvc_hands_out_a_damaged_cache_file_and_our_readers_refuse_it(made: Path, tmp_path: Path) -> None:
    """DVC trusts a write-protected file of its cache: `dvc checkout` says nothing. The manifest's hashes do."""
    output = Output(tmp_path / "data", {"stage": "x"})
    output.write("targets.parquet", "targets", read_output(made / "here" / "targets", "targets"))
    output.finish()

    def dvc(*words: str) -> int:
        command = [sys.executable, "-m", "dvc", *words]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"}
        ).returncode

    assert dvc("init", "-q", "--no-scm") == 0 and dvc("add", "-q", "data") == 0
    content = (tmp_path / "data/targets.parquet").read_bytes()
    (cached,) = (
        file for file in (tmp_path / ".dvc/cache").rglob("*") if file.is_file() and file.read_bytes() == content
    )
    cached.chmod(0o644)
    cached.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    cached.chmod(0o444)
    for file in (tmp_path / "data").iterdir():
        file.unlink()
    code = dvc("checkout", "-q", "--force")
    if (tmp_path / "data/targets.parquet").is_file():
        with pytest.raises(TableError, match="not the bytes|not a readable Parquet file"):
            read_output(tmp_path / "data", "targets")
    else:
        assert code, "DVC refused it itself"
    assert read_manifest(tmp_path / "data")["files"]
    record("one bit turned in DVC's cache", 1, 1, f"dvc checkout ended with {code}; the reader refused the table")
