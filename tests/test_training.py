"""The training loop on a tiny CLIP: what is trained, what is not, curriculum, resume, stops."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import training
from pipeline.defences.protocol import Batch
from pipeline.defences.registry import Defence, read_defence
from pipeline.errors import NearsafeError
from pipeline.metrics.drift import tower_sizes, weight_drift
from pipeline.models.adapters import attach, trainable
from pipeline.models.clip import Clip, encode_images, encode_texts, load_clip
from pipeline.train_defence import read_train_params
from pipeline.training import Job, train
from pipeline.training_set import PooledFeed, TrainingSet, read_training_set
from tests.learning import before_training, captions


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A directory with clip, params.yaml and the outputs of every stage before train."""
    return before_training(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def data(made) -> TrainingSet:
    folders = (made / name for name in ("world", "embeddings", "targets", "buckets"))
    return read_training_set(*folders, clip=load_clip(made / "clip"))


@pytest.fixture
def job(made, data) -> Callable[..., Job]:
    def make(defence: str = "safer_clip", seed: int = 0, **changes: object) -> Job:
        found = read_defence(made / "params.yaml", defence)
        knobs = replace(read_train_params(made / "params.yaml", found), **changes)
        return Job(found, data, knobs, seed, 5, torch.float32)

    return make


def forward(model, clip: Clip, data: TrainingSet, rows: torch.Tensor, defence: Defence) -> Batch:
    """A batch of these pairs as the defence gets it, without tables of its own."""
    return PooledFeed(data, defence, clip, {}).batch(model, rows)


def run(job: Job, made: Path, state: Path) -> tuple[dict[str, torch.Tensor], dict[str, list], list[str]]:
    """Weights of the merged model, columns of the log, printed lines."""
    lines: list[str] = []
    found = train(job, load_clip(made / "clip"), state, lines.append)
    return found.model.state_dict(), found.log.rows(job.defence.name, job.seed), lines


def test_the_training_set_is_what_the_tables_say(made, data):
    """Cached references equal live frozen encoders; targets never come from the test split."""
    clip = load_clip(made / "clip")
    assert len(data.pair_ids) == 12 and "test-pair" not in data.pair_ids
    rows = torch.arange(12)
    batch = forward(clip.model, clip, data, rows, read_defence(made / "params.yaml", "safer_clip"))
    for side in ("text_safe", "text_unsafe", "image_safe", "image_unsafe"):
        live = torch.nn.functional.normalize(getattr(batch, side).detach(), dim=1)
        torch.testing.assert_close(live, getattr(batch, f"ref_{side}"), atol=1e-5, rtol=1e-4)
    # The target is the brute-force nearest safe caption, and the image is the one paired with it.
    expected = (batch.ref_text_unsafe @ batch.ref_text_safe.T).argmax(1)
    assert torch.equal(data.nearest[:, 0], expected) and data.nearest.shape == (12, 2)
    assert torch.equal(batch.prox_text, batch.ref_text_safe[expected])
    assert torch.equal(batch.prox_image, batch.ref_image_safe[expected])
    assert "12 training pairs, 24 captions, 24 images 3x16x16 uint8 in memory" in data.describe()


def test_at_the_start_preservation_is_zero_and_redirection_is_that_of_the_tables(made, job):
    clip, task = load_clip(made / "clip"), job()
    adapted = attach(clip.model, task.params.lora, torch.Generator().manual_seed(0), task.defence.towers)
    adapted.eval()
    with torch.no_grad():
        batch = forward(adapted, clip, task.data, torch.arange(12), task.defence)
    terms = task.defence.terms(batch)
    assert abs(terms["text_preserve_uni"][1].item()) < 1e-6 and abs(terms["image_preserve_uni"][1].item()) < 1e-6
    gap = (batch.ref_image_unsafe * batch.ref_text_unsafe).sum(1) - (batch.ref_image_unsafe * batch.prox_text).sum(1)
    assert terms["image_redirect_cross"][1].item() == pytest.approx(np.log1p(np.exp(gap.numpy())).mean(), abs=1e-5)


@pytest.mark.parametrize("defence", ["safe_clip", "safer_clip"])
def test_every_term_trains_the_adapters_of_the_tower_it_names_and_nothing_else(made, job, defence):
    clip, task = load_clip(made / "clip"), job(defence)
    adapted = attach(clip.model, task.params.lora, torch.Generator().manual_seed(0), task.defence.towers)
    for name, parameter in trainable(adapted).items():
        if "lora_B" in name:  # zero at first, which hides A and makes the preservation terms stationary
            parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    names = list(task.defence.terms(forward(adapted, clip, task.data, torch.arange(6), task.defence)))
    assert len(names) == 8
    for term in names:
        adapted.zero_grad(set_to_none=True)
        task.defence.terms(forward(adapted, clip, task.data, torch.arange(6), task.defence))[term][1].backward()
        reached = {name for name, p in adapted.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        tower = {"text": "text_model", "image": "vision_model"}[term.split("_")[0]]
        expected = {name for name in trainable(adapted) if f".{tower}." in name}
        assert reached == expected and all("lora_" in name for name in reached)


def test_the_aliased_reference_is_the_model_itself_and_drifts_with_it(made, job, data):
    """safe_clip.md sections 4.1 and 6.1: the reference equals the trainable output, but for dropout."""
    clip, task = load_clip(made / "clip"), job("safe_clip")
    aliased = replace(task.defence, params=replace(task.defence.params, variant="aliased"))
    assert (aliased.reference, task.defence.reference) == ("live", "frozen")
    adapted = attach(clip.model, task.params.lora, torch.Generator().manual_seed(0), aliased.towers)
    for name, parameter in trainable(adapted).items():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    rows = torch.arange(12)
    adapted.eval()
    batch = forward(adapted, clip, data, rows, aliased)
    assert torch.equal(batch.text_safe, batch.ref_text_safe) and torch.equal(batch.image_safe, batch.ref_image_safe)
    assert not batch.ref_text_safe.requires_grad and batch.text_safe.requires_grad
    frozen = torch.nn.functional.cosine_similarity(batch.ref_text_safe, data.frozen.text_safe)
    assert (frozen < 0.99).any(), "the alias left the pre-trained model"
    assert aliased.terms(batch)["text_preserve_uni"][1].item() == pytest.approx(0, abs=1e-6)
    adapted.train()
    noisy = forward(adapted, clip, data, rows, aliased)
    assert aliased.terms(noisy)["text_preserve_uni"][1].item() > 1e-4, "preservation 1 is dropout noise"


def test_drift_of_every_epoch_ends_at_the_drift_of_the_merged_weights(made, job, tmp_path):
    base = load_clip(made / "clip").model
    found = train(job(), load_clip(made / "clip"), tmp_path / "state", lambda line: None)
    model, log = found.model, found.log
    rows = log.drift_rows("safer_clip", 0, tower_sizes(model))
    assert [(row["epoch"], row["tower"]) for row in rows] == [(e, t) for e in range(4) for t in ("text", "vision")]
    assert all(row["l2"] == 0 for row in rows if row["epoch"] == 0)
    for row in rows[-2:]:
        expected = weight_drift(model, base, row["tower"])
        assert row["l2"] == pytest.approx(expected.l2, rel=1e-4) and row["parameters"] == expected.parameters
        assert row["rms"] == pytest.approx(expected.rms, rel=1e-4)


@pytest.mark.parametrize("defence", ["safe_clip", "safer_clip"])
def test_training_moves_both_towers_and_leaves_the_references_bit_identical(made, job, data, tmp_path, defence):
    before = {name: value.clone() for name, value in data.references(torch.arange(12)).items()}
    base = {name: value.clone() for name, value in load_clip(made / "clip").model.state_dict().items()}
    weights, log, lines = run(job(defence), made, tmp_path / "state.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in data.references(torch.arange(12)).items())
    moved = {name for name in base if not torch.equal(base[name], weights[name])}
    assert any("text_model" in name for name in moved) and any("vision_model" in name for name in moved)
    targets = ("q_proj.weight", "v_proj.weight", "patch_embedding.weight")
    assert all(name.endswith(targets) for name in moved)
    assert all(math.isfinite(value) for value in log["value"])
    assert len(lines) > 1 and "text_redirect_cross" in lines[-1] and "s/step" in lines[-1]


def test_the_loss_falls(made, job, tmp_path):
    task = job(epochs=12, curriculum=False)
    _, log, _ = run(task, made, tmp_path / "state.safetensors")
    total = np.add.reduceat(np.multiply(log["value"], log["weight"]), np.arange(0, len(log["value"]), 8))
    assert total[-6:].mean() < total[:6].mean()


def test_epoch_one_is_easy_epoch_two_adds_medium_epoch_three_covers_each_pair_once(job, data):
    seen: dict[int, list[int]] = {}
    steps = []
    for step, epoch, rows in training._batches(job()):
        steps.append(step)
        seen.setdefault(epoch, []).extend(rows.tolist())
    assert steps == list(range(1, len(steps) + 1))
    assert {data.levels[row] for row in seen[1]} == {"easy"}
    assert {data.levels[row] for row in seen[2]} == {"easy", "medium"} and set(seen[1]) < set(seen[2])
    assert sorted(seen[3]) == list(range(12)) and len(seen[2]) == len(set(seen[2]))


def test_without_curriculum_every_epoch_covers_all_in_an_order_of_its_own(job):
    orders: dict[int, list[int]] = {}
    for _, epoch, rows in training._batches(job("safe_clip")):
        orders.setdefault(epoch, []).extend(rows.tolist())
    assert all(sorted(order) == list(range(12)) for order in orders.values())
    assert orders[1] != orders[2]


def test_two_defences_see_the_same_batches_and_two_seeds_do_not(job):
    def rows(task: Job) -> list[list[int]]:
        return [batch.tolist() for _, _, batch in training._batches(task)]

    assert rows(job("safe_clip")) == rows(job("safer_clip", curriculum=False))
    assert rows(job("safe_clip")) != rows(job("safe_clip", seed=1))


def test_the_same_job_gives_the_same_bytes_whatever_the_global_random_state(made, job, tmp_path):
    one, log_one, _ = run(job(), made, tmp_path / "a")
    torch.manual_seed(12345)
    two, log_two, _ = run(job(), made, tmp_path / "b")
    assert all(torch.equal(one[name], two[name]) for name in one) and log_one == log_two
    other, _, _ = run(job(seed=1), made, tmp_path / "c")
    assert any(not torch.equal(one[name], other[name]) for name in one)


def interrupted(job: Job, at: int) -> Job:
    """The job, killed while it computes the losses of step `at` (counted from the start of this run)."""
    calls = iter(range(1, 10_000))

    def terms(batch, params):
        if next(calls) == at:
            raise KeyboardInterrupt
        return job.defence._terms(batch, params)

    return replace(job, defence=replace(job.defence, _terms=terms))


@pytest.mark.parametrize("at", [1, 2, 4, 6])
def test_a_resumed_run_equals_an_uninterrupted_one(made, job, tmp_path, at):
    """Killed twice, at borders of epochs and inside them, dropout on: the same bytes and the same log."""
    task, state = job(), tmp_path / "state.safetensors"
    whole, log, _ = run(task, made, tmp_path / "whole")
    for stop in (at, 1):
        with pytest.raises(KeyboardInterrupt):
            run(interrupted(task, stop), made, state)
    resumed, resumed_log, lines = run(task, made, state)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole) and log == resumed_log
    assert (at == 1) or f"continuing after step {at - 1} of 6" in lines[0]


def test_a_finished_state_only_needs_merging(made, job, tmp_path):
    whole, log, _ = run(job(), made, tmp_path / "state")
    again, log_again, lines = run(interrupted(job(), 1), made, tmp_path / "state")
    assert all(torch.equal(whole[name], again[name]) for name in whole) and log == log_again
    assert lines == ["safer_clip seed 0: continuing after step 6 of 6"]


def test_a_state_of_another_model_is_refused(made, job, tmp_path):
    run(job(), made, tmp_path / "state")
    with pytest.raises(NearsafeError, match="state: not a checkpoint of this training"):
        run(job(lora=replace(job().params.lora, r=5)), made, tmp_path / "state")
    (tmp_path / "state").write_bytes(b"\x00" * 20)
    with pytest.raises(NearsafeError, match="state: not a checkpoint of this training"):
        run(job(), made, tmp_path / "state")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_term_that_is_not_finite_stops_with_its_step_and_name(made, job, tmp_path, bad):
    task, calls = job(), iter(range(1, 100))

    def terms(batch, params):
        found = task.defence._terms(batch, params)
        if next(calls) == 3:
            found["text_redirect_cross"] = (1.0, found["text_redirect_cross"][1] * bad)
        return found

    broken = replace(task, defence=replace(task.defence, _terms=terms))
    with pytest.raises(NearsafeError, match=r"safer_clip seed 0: step 3: text_redirect_cross is (nan|inf)"):
        run(broken, made, tmp_path / "state")
    _, log, lines = run(task, made, tmp_path / "state")
    assert "continuing after step 2" in lines[0] and max(log["step"]) == 6


def test_a_gradient_that_is_not_finite_stops_too(made, job, tmp_path):
    task = job()

    def terms(batch, params):
        found = task.defence._terms(batch, params)
        zero = (batch.text_safe * 0).sum()
        return {**found, "root": (1.0, torch.sqrt(zero))}  # 0, with an infinite slope

    broken = replace(task, defence=replace(task.defence, _terms=terms))
    with pytest.raises(NearsafeError, match="step 1: norm of the gradient is nan"):
        run(broken, made, tmp_path / "state")


def test_an_epoch_without_pairs_is_an_error_before_the_first_step(made, job, data, tmp_path):
    empty = replace(job(), data=replace(data, levels=np.full(12, "hard")))
    with pytest.raises(NearsafeError, match="leaves epoch 1 without pairs: change bucket_difficulty"):
        run(empty, made, tmp_path / "state")


def test_a_defence_of_one_tower_leaves_the_other_alone(made, job, tmp_path):
    task = job(lora=replace(job().params.lora, targets=("q_proj",)), epochs=1, curriculum=False)

    def terms(batch, params):
        assert torch.equal(batch.image_unsafe, batch.ref_image_unsafe)
        return {"text": (1.0, (1 - (batch.text_unsafe * batch.prox_text).sum(1)).mean())}

    task = replace(task, defence=replace(task.defence, towers=("text",), _terms=terms))
    weights, _, _ = run(task, made, tmp_path / "state")
    base = load_clip(made / "clip").model.state_dict()
    moved = {name for name in base if not torch.equal(base[name], weights[name])}
    assert moved and all(name.startswith("text_model") for name in moved)


def test_bf16_autocast_trains_close_to_fp32(made, job, tmp_path):
    task = job(epochs=1)
    _, full, _ = run(task, made, tmp_path / "a")
    _, half, _ = run(replace(task, dtype=torch.bfloat16), made, tmp_path / "b")
    np.testing.assert_allclose(full["value"], half["value"], rtol=0.15, atol=0.05)
    assert full["value"] != half["value"]


def test_gradients_are_clipped_where_asked(made, job, tmp_path):
    """Adam hides the size of a gradient from its first step, not from later ones."""
    free, _, _ = run(job(), made, tmp_path / "a")
    clipped, _, _ = run(job(max_grad_norm=1e-3), made, tmp_path / "b")
    assert any(not torch.equal(free[name], clipped[name]) for name in free)


def test_the_merged_model_gives_the_embeddings_that_were_trained(made, job, data, tmp_path):
    clip = load_clip(made / "clip")
    model = train(job(), clip, tmp_path / "state", lambda line: None).model
    assert not model.training
    changed = replace(clip, model=model)
    texts = [text for text, _ in captions()]
    assert not torch.allclose(encode_texts(changed, texts), encode_texts(load_clip(made / "clip"), texts), atol=1e-3)
    before = encode_images(load_clip(made / "clip"), data.images)
    assert not torch.allclose(encode_images(changed, data.images), before, atol=1e-3)
