"""Training on token states: the prompt pairs in memory, the full fine-tune, resume, and what a checkpoint holds."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextModel

from pipeline import token_set, train_defence, training
from pipeline.curriculum import LEVELS
from pipeline.defences.protocol import FrozenTokens
from pipeline.defences.registry import Defence, read_defence
from pipeline.errors import NearsafeError
from pipeline.layout import table_file
from pipeline.metrics.drift import weight_drift
from pipeline.models.adapters import Lora
from pipeline.models.clip import load_clip
from pipeline.run_seeds import read_seeds
from pipeline.tables import Output, read_output
from pipeline.token_set import TokenSet, read_token_set
from pipeline.train_defence import FIXED, read_train_params
from pipeline.training import Job, Trained, train
from pipeline.training_set import read_training_set
from stages import train as train_stage
from tests.learning import DES, LENGTH, WIDTH, before_training, captions, save_clip, save_params, save_prompt_pairs

LORA = Lora(2, 2, 0.0, ("q_proj", "fc1"))
PUSHED = {**DES, "push_harm": {"weight": 0.1, "concepts": ["a knife", "an axe"]}}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A directory with clip, params.yaml and prompt pairs, of which no other stage has run."""
    root = tmp_path_factory.mktemp("tokens")
    save_params(root / "params.yaml", defences={"des": DES, "des_push_harm": PUSHED})
    save_clip(root / "clip")
    save_prompt_pairs(root / "world")
    return root


@pytest.fixture(scope="module")
def data(made) -> TokenSet:
    return read_token_set(made / "world", load_clip(made / "clip"))


@pytest.fixture
def job(made, data) -> Callable[..., Job]:
    def make(seed: int = 0, **changes: object) -> Job:
        found = read_defence(made / "params.yaml", "des")
        knobs = replace(read_train_params(made / "params.yaml", found), **changes)
        return Job(found, data, knobs, seed, 5, torch.float32)

    return make


def run(job: Job, made: Path, state: Path) -> Trained:
    return train(job, load_clip(made / "clip"), state, lambda line: None)


def des(made: Path, name: str = "des") -> Defence:
    return read_defence(made / "params.yaml", name)


def test_states_are_those_of_stable_diffusion_s_text_encoder(made, data):
    """Padded to L, no mask, after the final layer norm: what `CLIPTextModel(input_ids)[0]` of the same folder gives."""
    clip = load_clip(made / "clip")
    feed = data.feed(des(made), clip)
    batch = feed.batch(clip.model, torch.arange(12))
    pairs = [row for row in read_output(made / "world", "pairs").to_pylist() if row["split"] == "train"]
    text = {row["caption_id"]: row["text"] for row in read_output(made / "world", "captions").to_pylist()}
    plain = CLIPTextModel.from_pretrained(made / "clip").eval()
    for side, states in (("safe", batch.safe), ("unsafe", batch.unsafe)):
        texts = [
            text[row[f"{side}_caption_id"]]
            for row in sorted(pairs, key=lambda r: r["pair_id"])
            if row["split"] == "train"
        ]
        tokens = clip.tokenizer(texts, padding="max_length", max_length=LENGTH, return_tensors="pt")
        with torch.no_grad():
            expected = plain(input_ids=tokens.input_ids)
        torch.testing.assert_close(states.states.detach(), expected.last_hidden_state, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(states.at_end.detach(), expected.pooler_output, atol=1e-5, rtol=1e-4)
    assert batch.safe.states.shape == (12, LENGTH, WIDTH)
    torch.testing.assert_close(batch.ref_safe.states, batch.safe.states.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(batch.ref_unsafe().states, batch.unsafe.states.detach(), atol=1e-5, rtol=1e-4)
    assert not batch.ref_unsafe().states.requires_grad and batch.unsafe.states.requires_grad


def test_at_the_start_the_basic_safe_term_is_zero(made, data):
    found = read_defence(made / "params.yaml", "des", changes=["pala=false"])
    clip = load_clip(made / "clip")
    batch = data.feed(found, clip).batch(clip.model, torch.arange(12))
    assert found.terms(batch)["safe"][1].item() == pytest.approx(0, abs=1e-6)


def test_the_codebook_holds_each_safe_caption_once_and_streaming_changes_no_target(made, data, monkeypatch):
    doubled = replace(data, safe=data.safe[[*range(11), 0]])
    clip = load_clip(made / "clip")
    whole = doubled.feed(des(made), clip)
    assert len(whole.frozen.codebook.ends) == 11 and whole.frozen.safe[11] == whole.frozen.safe[0]
    monkeypatch.setattr(token_set, "_STREAM", 5)
    monkeypatch.setattr(token_set, "_BATCH", 2)
    parts = doubled.feed(des(made), clip)
    assert [len(part.ends) for part in parts.frozen.unsafe()] == [5, 5, 2]
    assert torch.equal(whole.own["least_similar"], parts.own["least_similar"])


def test_a_text_that_no_hook_lists_is_refused(made, data):
    frozen: FrozenTokens = data.feed(des(made), load_clip(made / "clip")).frozen
    assert frozen.of(["", DES["concept"]]).states.shape == (2, LENGTH, WIDTH)
    with pytest.raises(ValueError, match="'a cup' is in neither live_texts nor frozen_texts"):
        frozen.of(["a cup"])


def test_a_concept_that_the_tower_would_cut_is_refused(made, data):
    found = read_defence(made / "params.yaml", "des", changes=["concept=" + "knife " * 15])
    with pytest.raises(NearsafeError, match="des: 'knife knife .*' has 17 tokens, the text tower reads 16"):
        data.feed(found, load_clip(made / "clip"))


def test_a_full_fine_tune_moves_every_parameter_of_the_text_tower_and_nothing_else(made, job, tmp_path):
    base = load_clip(made / "clip").model
    task = job(weight_decay=0.0)  # so that what moved had a gradient
    found = run(task, made, tmp_path / "state")
    moved = {
        name for name, weight in base.state_dict().items() if not torch.equal(weight, found.model.state_dict()[name])
    }
    assert moved == {name for name, _ in base.named_parameters() if name.startswith("text_model.")}
    assert len(found.log.epoch) == task.params.epochs * math.ceil(12 / 4)
    assert not found.model.training
    text, vision = found.log.drift[-1]
    assert text == pytest.approx(weight_drift(found.model, base, "text").l2, rel=1e-5) and vision == 0.0
    assert found.log.drift[0][0] < text


def test_the_paper_s_run_has_108_steps(job, data):
    """6,911 pairs in batches of 128, two epochs: des.md section 4."""
    paper = replace(job(batch_size=128, epochs=2), data=replace(data, levels=np.full(6911, "easy")))
    assert training._last_steps(paper) == [54, 108]


def test_the_undefended_tower_stays_bit_identical(made, data):
    clip = load_clip(made / "clip")
    feed = data.feed(des(made), clip)
    before = {name: weight.clone() for name, weight in feed.tower.state_dict().items()}
    with torch.no_grad():
        for parameter in clip.model.parameters():
            parameter += 1
    assert all(torch.equal(weight, before[name]) for name, weight in feed.tower.state_dict().items())
    assert not any(parameter.requires_grad for parameter in feed.tower.parameters())


def test_the_loss_falls(job, made, tmp_path):
    log = run(job(epochs=10), made, tmp_path / "state").log
    totals = [sum(w * v for w, v in zip(ws, vs, strict=True)) for ws, vs in zip(log.weight, log.value, strict=True)]
    assert sum(totals[-6:]) < 0.9 * sum(totals[:6])


def test_the_same_job_gives_the_same_bytes(job, made, tmp_path):
    one = run(job(), made, tmp_path / "a")
    torch.manual_seed(99)
    two = run(job(), made, tmp_path / "b")
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))
    assert one.log == two.log


@pytest.mark.parametrize("at", [1, 3, 7])
def test_a_resumed_fine_tune_equals_an_uninterrupted_one(job, made, tmp_path, at):
    """AdamW's moments and step, the parameters, the drift since the undefended model: the same bytes."""
    task, whole = job(), run(job(), made, tmp_path / "whole")
    calls = iter(range(1, 100))

    def terms(batch, params):
        if next(calls) == at:
            raise KeyboardInterrupt
        return task.defence._terms(batch, params)

    with pytest.raises(KeyboardInterrupt):
        run(replace(task, defence=replace(task.defence, _terms=terms)), made, tmp_path / "state")
    again = run(task, made, tmp_path / "state")
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))
    assert whole.log == again.log


def test_adapters_can_be_trained_on_token_states_too(job, made, tmp_path):
    found = run(job(lora=LORA), made, tmp_path / "state")
    base = load_clip(made / "clip").model.state_dict()
    moved = {name for name, weight in found.model.state_dict().items() if not torch.equal(weight, base[name])}
    assert moved and all(name.endswith(("q_proj.weight", "fc1.weight")) and "text" in name for name in moved)


def test_the_optimizer_and_its_weight_decay_are_knobs(job, made, tmp_path):
    runs = {}
    for name, knobs in {
        "adamw": {"weight_decay": 0.0},
        "adam": {"optimizer": "adam", "weight_decay": 0.0},
        "decayed": {"weight_decay": 10.0},
    }.items():
        runs[name] = run(job(epochs=1, **knobs), made, tmp_path / name).model.text_model
    weights = {name: torch.cat([p.flatten() for p in model.parameters()]) for name, model in runs.items()}
    torch.testing.assert_close(weights["adam"], weights["adamw"])
    assert weights["decayed"].norm() < 0.95 * weights["adamw"].norm()


def test_categories_narrow_what_is_trained_on_and_not_the_safe_pool(job, made, data, tmp_path):
    task, seen = job(epochs=1, categories=("explosives",)), []

    def terms(batch, params):
        seen.append(batch)
        return task.defence._terms(batch, params)

    run(replace(task, defence=replace(task.defence, _terms=terms)), made, tmp_path / "state")
    assert [len(batch.safe.ends) for batch in seen] == [4], "4 of 12 pairs, batches of 4"
    wanted = {row for row, pair in enumerate(data.pair_ids) if pair.endswith("ball")}
    assert {row for _, _, rows in training._batches(task) for row in rows.tolist()} == wanted
    assert len(seen[0].frozen.codebook.ends) == len(seen[0].frozen.safe) == 12
    assert sum(len(part.ends) for part in seen[0].frozen.unsafe()) == 12
    assert data.categories == ("explosives", "weapons")
    with pytest.raises(
        NearsafeError, match=r"train.categories: no pair of category 'drugs'; known: explosives, weapons"
    ):
        run(job(categories=("weapons", "drugs")), made, tmp_path / "other")
    with pytest.raises(ValueError, match="categories: empty"):
        job(categories=())


def test_categories_that_the_curriculum_empties_are_named(job, data):
    late = np.where([pair.endswith("ball") for pair in data.pair_ids], "medium", "easy")
    task = job(curriculum=True, categories=("explosives",))
    with pytest.raises(NearsafeError, match="leaves epoch 1 without pairs of train.categories explosives: change"):
        training._last_steps(replace(task, data=replace(data, levels=late)))
    assert training._last_steps(replace(job(curriculum=True), data=replace(data, levels=late))) == [2, 5, 8]


def train_on(made: Path, out: Path, name: str, **changes: Path) -> None:
    absent = {kind: made / "absent" for kind in ("embeddings", "targets", "buckets")}
    folders = {"world": made / "world", "clip": made / "clip", **absent, **changes}
    train_stage.main(made / "params.yaml", name, **folders, out=out)


def test_prompt_pairs_without_images_train_and_the_method_s_tensors_stay_with_the_checkpoint(made, tmp_path):
    train_on(made, tmp_path / "out", "des_push_harm")
    kept = load_file(tmp_path / "out" / "seed-0" / FIXED)
    assert {name: tuple(tensor.shape) for name, tensor in kept.items()} == {
        "concept": (LENGTH * WIDTH,), "empty": (LENGTH * WIDTH,), "centres": (2, LENGTH * WIDTH)
    }  # fmt: skip
    defended, base = load_clip(tmp_path / "out" / "seed-0").model, load_clip(made / "clip").model
    assert weight_drift(defended, base, "text").l2 > 0 and weight_drift(defended, base, "vision").l2 == 0
    log = read_output(tmp_path / "out", "train_log").to_pylist()
    assert {row["term"] for row in log} >= {"unsafe", "safe", "concept", "push_harm"}
    assert {row["tower"] for row in read_output(tmp_path / "out", "drift").to_pylist()} == {"text", "vision"}


def save_buckets(folder: Path, pairs: tuple[str, ...]) -> dict[str, str]:
    """A `buckets` output for pairs in reverse order: every third one easy, medium or hard. Returns each one's level."""
    level = {pair: LEVELS[number * 5 % 3] for number, pair in enumerate(pairs)}
    output = Output(folder, {"stage": "bucket_difficulty"})
    rows = [{"pair_id": pair, "difficulty": level[pair], "cosine": 0.5} for pair in reversed(pairs)]
    output.write(table_file("buckets"), "buckets", rows)
    output.finish()
    return level


def test_a_curriculum_on_token_states_follows_the_buckets(made, job, data, tmp_path):
    level = save_buckets(tmp_path / "buckets", data.pair_ids)
    found = read_token_set(made / "world", load_clip(made / "clip"), tmp_path / "buckets")
    assert dict(zip(found.pair_ids, found.levels, strict=True)) == level and len(set(level.values())) == 3
    seen: dict[int, set[str]] = {}
    for _, epoch, rows in training._batches(replace(job(curriculum=True), data=found)):
        seen.setdefault(epoch, set()).update(found.pair_ids[row] for row in rows.tolist())
    assert seen[1] == {pair for pair, name in level.items() if name == "easy"}
    assert seen[2] == {pair for pair, name in level.items() if name != "hard"} and seen[3] == set(level)


def test_without_a_curriculum_the_stage_reads_no_buckets_and_with_one_it_does(made, data, tmp_path):
    save_buckets(tmp_path / "buckets", data.pair_ids)
    folders = (made / "world", made / "absent", made / "absent", tmp_path / "buckets", made / "clip")
    train_stage.main(made / "params.yaml", "des", *folders, tmp_path / "out", changes=["train.curriculum=true"])
    log = read_output(tmp_path / "out", "train_log").to_pylist()
    steps = [len({row["step"] for row in log if row["epoch"] == epoch}) for epoch in (1, 2, 3)]
    assert steps == [1, 2, 3], "4, 8 and 12 pairs, batches of 4"
    with pytest.raises(NearsafeError, match="absent"):
        train_stage.main(
            made / "params.yaml", "des", made / "world", made / "absent", made / "absent", made / "absent",
            made / "clip", tmp_path / "out", changes=["train.curriculum=true"],
        )  # fmt: skip


def test_the_code_of_token_states_counts_for_methods_that_read_them(made, monkeypatch):
    """A change in token_losses makes other checkpoints than those of DES no older."""
    files = {}
    monkeypatch.setattr(train_defence, "source_hash", lambda paths: [path.name for path in paths])
    monkeypatch.setattr(train_defence, "output_hash", lambda folder: folder.name)
    inputs = train_defence.Inputs(*(made / name for name in ("world", "embeddings", "targets", "buckets", "clip")))
    for found in (des(made), read_defence(save_params(made / "pooled.yaml"), "safer_clip")):
        knobs = read_train_params(made / "params.yaml", found)
        files[found.name] = set(train_defence._spec(found, knobs, read_seeds(made / "params.yaml"), inputs)["code"])
    assert files["des"] - files["safer_clip"] == {"des.py", "token_losses.py", "token_set.py"}
    assert files["safer_clip"] - files["des"] == {"safer_clip.py"}


@pytest.fixture(scope="module")
def with_images(tmp_path_factory) -> Path:
    """Pairs with images, and the stages before training."""
    return before_training(tmp_path_factory.mktemp("pooled"))


def test_a_pooled_defence_can_be_fine_tuned_whole(with_images, tmp_path):
    """Both towers move, projections and logit scale stay, and nothing is kept beside the model."""
    root = with_images
    folders = (root / name for name in ("world", "embeddings", "targets", "buckets"))
    data = read_training_set(*folders, clip=load_clip(root / "clip"))
    found = read_defence(root / "params.yaml", "safer_clip")
    knobs = replace(read_train_params(root / "params.yaml", found), lora=None, curriculum=False, lr=1e-3)
    result = train(Job(found, data, knobs, 0, 5, torch.float32), load_clip(root / "clip"), tmp_path / "state", str)
    base = load_clip(root / "clip").model
    moved = {name for name, p in result.model.named_parameters() if not torch.equal(p, base.state_dict()[name])}
    assert moved == {name for name, _ in base.named_parameters() if name.startswith(("text_model.", "vision_model."))}
    assert min(result.log.drift[-1]) > 0 and not result.fixed


def test_a_world_without_captions_is_refused(made, tmp_path):
    shutil.copytree(made / "world", tmp_path / "world")
    clip = load_clip(made / "clip")
    assert len(read_token_set(tmp_path / "world", clip).texts) == len(captions()) == 24
    (tmp_path / "world" / "captions.parquet").unlink()
    with pytest.raises(NearsafeError, match="captions"):
        read_token_set(tmp_path / "world", clip)
