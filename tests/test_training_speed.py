"""Ways to train that change the cost and not the result: micro-batches, processes, attention, mapped images."""

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.multiprocessing import start_processes

from pipeline import image_cache, team, train_defence
from pipeline.checkpoint import Log
from pipeline.defences.registry import make_defence, read_defence
from pipeline.errors import NearsafeError, TableError
from pipeline.image_cache import ImageCache, load_images
from pipeline.ledger import Ledger, Step
from pipeline.models.clip import load_clip
from pipeline.params import build
from pipeline.precision import pick_attention, pick_compile
from pipeline.run_seeds import Seeds
from pipeline.tables import read_output
from pipeline.team import Team, launch, team_size
from pipeline.train_defence import Inputs, make_checkpoints, read_train_params
from pipeline.training import Job, TrainParams, train
from pipeline.training_set import read_training_set
from tests.learning import DES, before_training
from tests.team_work import die

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A directory with clip, params.yaml (no dropout) and the outputs of every stage before train."""
    return before_training(tmp_path_factory.mktemp("speed"))


@pytest.fixture(scope="module")
def inputs(made) -> Inputs:
    return Inputs(*(made / name for name in ("world", "embeddings", "targets", "buckets", "clip")))


@pytest.fixture
def job(made, inputs) -> Callable[..., Job]:
    def make(method: str = "safe_clip", **changes: object) -> Job:
        if method == "des":
            own = {key: value for key, value in DES.items() if key not in ("method", "train")}
            defence = make_defence("des", "des", own)
            changes = {"lora": None, "curriculum": False, **changes}
        elif method == "nearsafe":
            defence = make_defence("nearsafe", "nearsafe", {"clusters": 2})
        else:
            defence = read_defence(made / "params.yaml", method)
        knobs = read_train_params(made / "params.yaml", defence)
        knobs = replace(knobs, **{"epochs": 2, "batch_size": 5, **changes})
        if knobs.lora:
            knobs = replace(knobs, lora=replace(knobs.lora, dropout=0.0))
        return Job(defence, train_defence._read(defence, knobs, inputs), knobs, 0, 5, torch.float32)

    return make


def run(job: Job, made: Path, state: Path) -> tuple[dict[str, torch.Tensor], list[list[float]]]:
    found = train(job, load_clip(made / "clip"), state, lambda line: None)
    return found.model.state_dict(), found.log.value


def stopped(job: Job, at: int) -> Job:
    """The job, interrupted while it computes the losses of its `at`-th step."""
    calls = iter(range(1, 100))

    def terms(batch, params):
        if next(calls) == at:
            raise KeyboardInterrupt
        return job.defence._terms(batch, params)

    return replace(job, defence=replace(job.defence, _terms=terms))


def assert_alike(one: tuple, other: tuple, atol: float = 2e-4) -> None:
    """The stated tolerance: values of every term of every step, and every weight.

    But for biases of keys: their gradient is 0 (a softmax does not see them), so that Adam follows its rounding.
    """
    np.testing.assert_allclose(one[1], other[1], rtol=1e-3, atol=atol)
    for name, weight in one[0].items():
        if name.endswith("k_proj.bias"):
            continue
        torch.testing.assert_close(other[0][name], weight, rtol=1e-3, atol=atol)


@pytest.mark.parametrize("method", ["safe_clip", "nearsafe", "des"])
@pytest.mark.parametrize("size", [1, 2])
def test_micro_batches_have_the_loss_of_the_whole_batch(made, job, tmp_path, method, size):
    """Contrastive terms too: a batch of 5 by ones, and by twos with one left over."""
    whole = run(job(method), made, tmp_path / "whole")
    assert_alike(whole, run(job(method, micro_batch=size), made, tmp_path / "parts"))


def test_a_live_reference_stays_without_gradient_in_micro_batches(made, job, tmp_path):
    task = job()
    task = replace(task, defence=replace(task.defence, params=replace(task.defence.params, variant="aliased")))
    parts = replace(task, params=replace(task.params, micro_batch=2))
    assert_alike(run(task, made, tmp_path / "whole"), run(parts, made, tmp_path / "parts"))


def test_micro_batches_with_dropout_draw_the_same_in_both_passes(made, job, tmp_path):
    """Otherwise the gradient would be that of other embeddings: seen as a run that repeats itself, bit by bit."""
    task = job(micro_batch=2)
    task = replace(task, params=replace(task.params, lora=replace(task.params.lora, dropout=0.3)))
    one, other = run(task, made, tmp_path / "a"), run(task, made, tmp_path / "b")
    assert one[1] == other[1] and all(torch.equal(weight, other[0][name]) for name, weight in one[0].items())


def test_eager_and_fused_attention_agree(made, job, tmp_path):
    eager = run(job(attention="eager"), made, tmp_path / "eager")
    assert_alike(run(job(attention="sdpa"), made, tmp_path / "sdpa"), eager)
    exported = load_clip(made / "clip")
    train(job(attention="eager", epochs=1), exported, tmp_path / "again", lambda line: None)
    assert exported.model.config._attn_implementation == "sdpa", "what is exported says nothing of how it was trained"


def test_decisions_name_their_reason():
    cuda = torch.device("cuda")
    assert pick_attention("auto", CPU, torch.float32)[0] == "sdpa"
    assert pick_attention("auto", CPU, torch.bfloat16)[0] == "eager"
    assert pick_attention("eager", cuda, torch.bfloat16) == ("eager", "attention eager: as configured")
    assert pick_compile("auto", CPU, 10**6) == (False, "compile off: it pays on CUDA alone")
    assert not pick_compile("auto", cuda, 100)[0] and pick_compile("auto", cuda, 10**4)[0]
    assert team_size("auto", CPU) == (1, "1 process: no CUDA device") and team_size(3, CPU)[0] == 3


@pytest.mark.parametrize(
    "changes, message",
    [({"micro_batch": 0}, "micro_batch"), *(({"processes": n}, "processes") for n in (0, 6, "two"))],
)
def test_knobs_that_make_no_sense_are_refused(made, changes, message):
    plain = {"batch_size": 5, "epochs": 1, "lr": 0.1, "max_grad_norm": None, "precision": "fp32", "curriculum": False,
             "lora": None, "checkpoint_seconds": 1.0, "log_every": 1}  # fmt: skip
    with pytest.raises(NearsafeError, match=message):
        build(TrainParams, {**plain, **changes}, "p: train")


def test_a_number_read_late_still_stops_the_training_with_its_step():
    ledger, one = Ledger("x seed 0", Log()), torch.tensor
    for step, value in ((1, 0.5), (2, float("nan")), (3, 0.1)):
        ledger.add(Step(step, 1, ("a", "b"), [1.0, 2.0], one([0.1, value], dtype=torch.float64), one(1.0)))
    with pytest.raises(NearsafeError, match="x seed 0: step 2: b is nan"):
        ledger.settle()
    assert len(ledger.log.value) == 1, "what came before it is in the log"


# Several processes.


@pytest.fixture
def forked(monkeypatch):
    """Processes from one that has the imports already; without this they are started as a stage starts them."""
    multiprocessing.set_forkserver_preload(["accelerate", "pipeline.train_defence", "tests.team_work"])

    def start(*arguments, **options):
        return start_processes(*arguments, **{**options, "start_method": "forkserver"})

    monkeypatch.setattr(team, "start_processes", start)


def test_shares_of_a_batch_are_equal_and_cover_it():
    shares = [Team(rank, 3, CPU).share(torch.arange(10, 17)).tolist() for rank in range(3)]
    assert shares == [[10, 11, 12], [13, 14, 15], [16, 16, 16]]


def test_two_processes_train_as_one_does(forked, made, job, inputs, tmp_path):
    """gloo, token states in micro-batches; batches of 5 and of 2 do not divide evenly; live texts are one process's.

    The two continue what one process began and was stopped at.
    """
    task = job("des", micro_batch=2)
    knobs = replace(task.params, processes=2)
    state, cache = tmp_path / "work" / "state.safetensors", ImageCache(tmp_path / "work", 0)
    with pytest.raises(KeyboardInterrupt):
        run(stopped(task, at=3), made, state)
    launch(2, CPU, train_defence._member, task.defence, knobs, inputs, cache, 0, 5, torch.float32, state)
    finished = run(stopped(task, at=1), made, state)  # nothing is left to train
    assert_alike(run(task, made, tmp_path / "alone"), finished)


def test_a_stage_of_two_processes_is_one_command_with_the_same_result(made, inputs, tmp_path):
    lines: list[str] = []
    found: dict[int, tuple] = {}
    for size in (1, 2):
        changes = ["train.epochs=2", "train.batch_size=5", "train.lora.dropout=0.0", f"train.processes={size}"]
        defence, out = read_defence(made / "params.yaml", "safer_clip", changes=changes), tmp_path / str(size)
        make_checkpoints(made / "params.yaml", defence, inputs, out, lines.append, Seeds(5, (0,)))
        values = read_output(out, "train_log").column("value").to_pylist()
        found[size] = load_clip(out / "seed-0").model.state_dict(), values
    assert_alike(found[1], found[2])
    assert any("2 processes: as configured" in line for line in lines)
    assert any("mapped from a file" in line for line in lines), "one copy of the images for both"
    names = {path.name for path in (tmp_path / "2").iterdir()}
    assert names == {"seed-0", "train_log-00000.parquet", "drift-00000.parquet", "spec.json", "manifest.json"}


@pytest.mark.parametrize("how, message", [("kill", "of 2 .* ended: "), ("error", "^this is what went wrong$")])
def test_a_process_that_dies_ends_all_with_one_error(forked, how, message):
    with pytest.raises(NearsafeError, match=message) as caught:
        launch(2, CPU, die, how)
    assert "\n" not in str(caught.value)


# Decoded images.


def ids_of(made: Path) -> list[str]:
    return [f"i{number:02d}" for number in range(24)]


def test_mapped_images_are_those_in_memory_and_train_alike(made, inputs, tmp_path):
    clip = load_clip(made / "clip")
    memory, mapped = load_images(ids_of(made), made / "world", clip)
    file, in_file = load_images(ids_of(made), made / "world", clip, ImageCache(tmp_path, 0.001))
    assert torch.equal(memory, file) and (mapped, in_file) == (False, True)
    file[0] = 0  # a training's own copy: the file stays as it is
    again, _ = load_images(ids_of(made), made / "world", clip, ImageCache(tmp_path, 0.001))
    assert torch.equal(memory, again)
    fits, _ = load_images(ids_of(made), made / "world", clip, ImageCache(tmp_path / "none", 1))
    assert torch.equal(memory, fits) and not (tmp_path / "none").exists()
    folders = (getattr(inputs, name) for name in ("world", "embeddings", "targets", "buckets"))
    whole = read_training_set(*folders, clip, ImageCache(tmp_path, 0))
    assert "mapped from a file" in whole.describe()


def test_decoding_continues_where_it_was_stopped(made, tmp_path, monkeypatch):
    clip, decoded, plain = load_clip(made / "clip"), [], image_cache.decode_image
    memory, _ = load_images(ids_of(made), made / "world", clip)

    def decode(cell: dict, where: str):
        if stopping and "i15" in where:
            raise KeyboardInterrupt
        decoded.append(where)
        return plain(cell, where)

    monkeypatch.setattr(image_cache, "decode_image", decode)
    stopping = True
    with pytest.raises(KeyboardInterrupt):
        load_images(ids_of(made), made / "world", clip, ImageCache(tmp_path, 0))
    before, stopping = len(decoded), False
    found, _ = load_images(ids_of(made), made / "world", clip, ImageCache(tmp_path, 0))
    assert torch.equal(memory, found) and before >= 10
    assert not any("i00" in where for where in decoded[before:]), "the first shard was decoded before"
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir()), "no temporary file is left"


def test_an_image_that_is_not_there_is_named(made, tmp_path):
    clip = load_clip(made / "clip")
    for cache in (None, ImageCache(tmp_path, 0)):
        with pytest.raises(TableError, match="image 'absent' is not in the images"):
            load_images([*ids_of(made), "absent"], made / "world", clip, cache)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(team.torch.cuda, "device_count", lambda: 2)
    assert team_size("auto", torch.device("cuda")) == (2, "2 processes: one a GPU")
    with pytest.raises(NearsafeError, match="train.processes: 3 processes, 2 GPUs"):
        team_size(3, torch.device("cuda"))
