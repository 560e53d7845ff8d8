"""Memory that is full: smaller parts of a batch, the same loss, one line; at one pair a time, one clear error."""

from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline import team as teams
from pipeline import train_defence
from pipeline.defences.registry import make_defence, read_defence
from pipeline.errors import NearsafeError
from pipeline.memory import OutOfMemory, in_batches
from pipeline.models.clip import encode_images, encode_texts, load_clip
from pipeline.run_seeds import Seeds
from pipeline.tables import read_output
from pipeline.token_set import TokenFeed
from pipeline.train_defence import Inputs, make_checkpoints, read_train_params
from pipeline.training import Job, train
from pipeline.training_set import PooledFeed
from stages import bucket_difficulty, embed, mine_pairs
from tests.faults.full_memory import fill, member
from tests.faults.record import record
from tests.learning import DES, save_clip, save_params, save_world
from tests.test_training_speed import assert_alike
from tests.test_training_speed import run as result_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("memory")
    params, clip, world = save_params(root / "params.yaml"), save_clip(root / "clip"), save_world(root / "world")
    embed.main(params, world, clip, root / "embeddings")
    mine_pairs.main(params, world, root / "embeddings", root / "targets")
    bucket_difficulty.main(params, world, root / "embeddings", root / "targets", root / "buckets")
    return root


@pytest.fixture(scope="module")
def inputs(made) -> Inputs:
    return Inputs(*(made / name for name in ("world", "embeddings", "targets", "buckets", "clip")))


@pytest.fixture
def job(made, inputs):
    def make(method="safe_clip", dropout=0.0, **changes):
        if method == "des":
            defence = make_defence("des", "des", {k: v for k, v in DES.items() if k not in ("method", "train")})
            changes = {"lora": None, **changes}
        else:
            defence = read_defence(made / "params.yaml", method)
        knobs = replace(read_train_params(made / "params.yaml", defence), epochs=2, batch_size=5, curriculum=False)
        knobs = replace(knobs, **changes)
        if knobs.lora:
            knobs = replace(knobs, lora=replace(knobs.lora, dropout=dropout))
        return Job(defence, train_defence._read(defence, knobs, inputs), knobs, 0, 5, torch.float32)

    return make


@contextmanager
def small_memory(pairs=10**9, at=(), error=torch.OutOfMemoryError):
    """No room for more than so many pairs in the towers, nor in the calls numbered `at`, counted from 1."""
    with pytest.MonkeyPatch.context() as patch:
        for feed in (PooledFeed, TokenFeed):
            patch.setattr(feed, "encode", fill(feed.encode, pairs, at, error))
        yield


def losses(job, made, state, report=lambda line: None):
    return train(job, load_clip(made / "clip"), state, report)


def made_by(out):
    return load_clip(out / "seed-0").model.state_dict(), read_output(out, "train_log")["value"].to_pylist()


LONG = pytest.mark.faults


@pytest.mark.parametrize(
    ("method", "pairs", "micro"),
    [
        ("safe_clip", 3, [3]),
        ("des", 1, [3, 2, 1]),
        pytest.param("safe_clip", 1, [3, 2, 1], marks=LONG),
        pytest.param("safer_clip", 3, [3], marks=LONG),
        pytest.param("safer_clip", 1, [3, 2, 1], marks=LONG),
        pytest.param("des", 3, [3], marks=LONG),
    ],
)
def test_half_the_pairs_at_a_time_and_the_same_loss(made, job, tmp_path, method, pairs, micro):
    whole, lines = result_of(job(method), made, tmp_path / "whole"), []
    with small_memory(pairs):
        found = losses(job(method), made, tmp_path / "full", lines.append)
    assert_alike(whole, (found.model.state_dict(), found.log.value))
    said = [line for line in lines if "out of memory" in line]
    before = [5, *micro[:-1]]
    assert said == [
        f"{method} seed 0: step 1: out of memory with {n} pairs in the towers at a time, {m} from here on: "
        "train.micro_batch"
        for n, m in zip(before, micro, strict=True)
    ]
    record("training: memory full at so many pairs", 1, 1)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError,
        pytest.param(MemoryError, marks=LONG),
        pytest.param(partial(RuntimeError, "can't allocate memory"), marks=LONG),
    ],
)
def test_the_failed_step_is_taken_again_from_the_same_state(made, job, tmp_path, error):
    """Dropout too: the weights are, bit by bit, those of a training that had the smaller size from that step on."""
    lines = []
    task = job(dropout=0.3, checkpoint_seconds=0)
    with small_memory(at=[2], error=error):  # whole batches: one call a step
        found = losses(task, made, tmp_path / "full", lines.append)
    with pytest.raises(KeyboardInterrupt), small_memory(at=[2], error=KeyboardInterrupt):
        losses(task, made, tmp_path / "same")
    smaller = replace(task, params=replace(task.params, micro_batch=3))
    expected = losses(smaller, made, tmp_path / "same")
    assert [line for line in lines if "out of memory" in line and "step 2" in line], lines
    assert found.log.value == expected.log.value
    for name, weight in expected.model.state_dict().items():
        assert torch.equal(weight, found.model.state_dict()[name])
    record("training: step repeated from the same state", 1, 1)


@LONG
def test_full_in_any_pass_of_a_step_with_parts(made, job, tmp_path):
    """Two parts of three and two pairs are encoded twice a step: memory is full in each of the four calls in turn."""
    task = job(micro_batch=3, epochs=1)
    whole = result_of(replace(task, params=replace(task.params, micro_batch=None)), made, tmp_path / "whole")
    for call in range(1, 5):
        with small_memory(at=[call]):
            found = losses(task, made, tmp_path / str(call))
        assert_alike(whole, (found.model.state_dict(), found.log.value))
    record("training: memory full in each pass of a step", 4, 4)


def test_full_with_one_pair_is_one_line_that_names_what_to_lower(made, job, tmp_path):
    with small_memory(0), pytest.raises(OutOfMemory) as caught:
        losses(job(), made, tmp_path / "full")
    assert str(caught.value) == (
        "safe_clip seed 0: step 1: out of memory with 1 pairs in the towers at a time: lower train.batch_size; the "
        "last checkpoint is kept"
    )
    whole = result_of(job(), made, tmp_path / "whole")
    found = losses(job(), made, tmp_path / "full")  # and nothing of it stays behind
    assert_alike(whole, (found.model.state_dict(), found.log.value))


def test_full_in_the_optimizer_is_one_line_too(made, job, tmp_path, monkeypatch):
    def full(*arguments, **named):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.optim.Adam, "step", full)
    with pytest.raises(OutOfMemory, match="whatever train.micro_batch: lower train.batch_size"):
        losses(job(), made, tmp_path / "full")
    record("training: nothing smaller to try, refused in one line", 2, 2)


def test_other_errors_are_not_taken_for_it(made, job, tmp_path):
    with (
        small_memory(at=[1], error=partial(RuntimeError, "shapes do not match")),
        pytest.raises(RuntimeError, match="sh"),
    ):
        losses(job(), made, tmp_path / "s")


def test_what_was_made_before_is_continued_without_what_memory_held(made, inputs, tmp_path):
    """A stage that halved, stopped and runs again: the same spec, so its checkpoint is continued, and the same loss."""
    defence = read_defence(made / "params.yaml", "safe_clip", changes=["train.lora.dropout=0.0"])

    def stage(out, lines):
        make_checkpoints(made / "params.yaml", defence, inputs, out, lines.append, Seeds(5, (0,)))
        return made_by(out)

    lines: list[str] = []
    with small_memory(2), pytest.MonkeyPatch.context() as patch:
        patch.setattr(PooledFeed, "encode", fill(PooledFeed.encode, 10**9, [20], KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            stage(tmp_path / "a", lines)
    assert any("out of memory with 4 pairs" in line for line in lines)
    found = stage(tmp_path / "a", lines)
    assert any("continuing after step" in line for line in lines)
    assert_alike(stage(tmp_path / "b", []), found)
    assert (tmp_path / "a" / "spec.json").read_bytes() == (tmp_path / "b" / "spec.json").read_bytes()


@LONG
def test_a_team_goes_on_from_its_last_checkpoint_with_smaller_parts(made, inputs, tmp_path, monkeypatch):
    changes = ["train.epochs=2", "train.batch_size=5", "train.lora.dropout=0.0", "train.processes=2"]
    defence, lines = read_defence(made / "params.yaml", "safe_clip", changes=changes), []
    make_checkpoints(made / "params.yaml", defence, inputs, tmp_path / "whole", lines.append, Seeds(5, (0,)))
    monkeypatch.setattr(train_defence, "_member", member)
    make_checkpoints(made / "params.yaml", defence, inputs, tmp_path / "full", lines.append, Seeds(5, (0,)))
    (said,) = [line for line in lines if "out of memory" in line]
    assert "with 3 pairs" in said and said.endswith("again from the last checkpoint with 2: train.micro_batch")
    found = [
        (
            load_clip(tmp_path / n / "seed-0").model.state_dict(),
            read_output(tmp_path / n, "train_log")["value"].to_pylist(),
        )
        for n in ("whole", "full")
    ]
    assert_alike(*found)
    record("training: memory full in one of two processes", 1, 1)


# Embeddings.


def test_embeddings_are_made_by_halves(made):
    clip, texts = load_clip(made / "clip"), [f"a cup {'in a field ' * (n % 3)}" for n in range(11)]
    images = torch.randint(0, 256, (11, 3, 16, 16), dtype=torch.uint8)
    expected = encode_texts(clip, texts, 3), encode_images(clip, images, 3)
    patch = pytest.MonkeyPatch()
    for name in ("get_text_features", "get_image_features"):
        plain = getattr(type(clip.model), name)

        def small(model, plain=plain, **inputs):
            if len(next(iter(inputs.values()))) > 3:
                raise torch.OutOfMemoryError
            return plain(model, **inputs)

        patch.setattr(type(clip.model), name, small)
    with pytest.warns(UserWarning, match="out of memory with 11 items at a time, 6 from here on; set batch_size"):
        found = encode_texts(clip, texts, 64), encode_images(clip, images, 64)
    patch.undo()
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)
    record("embedding: memory full", 2, 2)


def test_batches_cover_every_item_once_in_order():
    done = []

    def work(batch):
        if batch.stop - batch.start > 2:
            raise MemoryError
        done.extend(range(batch.start, batch.stop))

    with pytest.warns(UserWarning):
        in_batches(9, 7, work)
    assert done == list(range(9))

    def never(batch):
        raise MemoryError

    with pytest.raises(NearsafeError, match="one item at a time"), pytest.warns(UserWarning):
        in_batches(3, 2, never)


@LONG
def test_a_members_lack_of_memory_is_told_apart():
    from tests.faults.full_memory import lacking

    with pytest.raises(OutOfMemory, match="^no room$"):
        teams.launch(1, CPU, lacking)
