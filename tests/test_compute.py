"""Shards on a cluster of two workers: the bytes of the local engine, also when a worker dies."""

import importlib.util
import os
import signal
from functools import partial

import pytest

from pipeline import compute
from pipeline.compute import Compute, Shard, Task, open_pool, read_compute, run_shards
from pipeline.defences.registry import read_defence
from pipeline.embedding import EmbedParams, embed_world
from pipeline.errors import NearsafeError, TableError
from pipeline.generation import generate_defence
from pipeline.scoring import score_defence
from pipeline.scoring_inputs import Inputs
from pipeline.tables import Output
from tests.worldlet import make

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'nearsafe[cluster]'"
)
RAY = Compute(engine="ray", workers=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("worldlet"))


@pytest.fixture(scope="module")
def cluster():
    # No usage is reported; workers do not stand back behind every other process (Ray's default is a niceness of 15).
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def on_ray(made):
    """The worldlet's parameter file with a worker."""
    file = made.root / "ray.yaml"
    file.write_text(made.params.read_text() + "\ncompute: {engine: ray, workers: 1}\n")
    return file


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def embed(made, out, where, log=lambda line: None):
    embed_world(made.data.world, made.model("clip"), EmbedParams(4), where, out, log)
    return files(out)


def generate(made, params, out, log=lambda line: None):
    found = read_defence(made.params, "original")
    data = made.data
    generate_defence(
        params, found, data.prompts, data.checkpoints("original"), made.model("diffusion"), out, log, only=[0, 1]
    )
    return files(out)


def score(made, params, generations, out, **options):
    data = made.data
    inputs = Inputs(
        data.world, data.checkpoints("original"), made.model("clip"), made.model("detector"), prompts=data.prompts,
        generations=(generations,), images_only=True,
    )  # fmt: skip
    lines = []
    score_defence(params, "original", inputs, out, lines.append, **options)
    return files(out), lines


@needs_ray
def test_workers_write_the_bytes_of_the_local_engine(made, on_ray, cluster, tmp_path):
    """Two of them, and one for the stages whose models take long to load (two of those: tests/faults)."""
    lines = []
    embedded = embed(made, tmp_path / "e-ray", RAY, lines.append)
    assert embedded == embed(made, tmp_path / "e", Compute())
    assert sum(line.startswith("worker ") for line in lines) == 2
    assert len(embedded) == 5  # captions, two shards of images, spec and manifest
    images = tmp_path / "g"
    assert generate(made, on_ray, tmp_path / "g-ray") == generate(made, made.params, images)
    local, _ = score(made, made.params, images, tmp_path / "s")
    assert score(made, on_ray, images, tmp_path / "s-ray")[0] == local
    assert "detections-00003.parquet" in local


@needs_ray
def test_what_workers_get_and_what_comes_back_of_them(cluster, monkeypatch, tmp_path):
    """Keys are each machine's own (Ray shows a worker's settings to everyone who may ask it); a killed worker's shard
    goes to another; a worker's error reads as the stage's own.
    """
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    killed = tmp_path / "killed"

    def work(models, job):
        if job == 1 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if job == 9:
            raise TableError(f"images.parquet: row {job}: no image")
        return job, os.environ.get("AWS_ENDPOINT_URL_S3"), os.environ.get("AWS_SECRET_ACCESS_KEY")

    with open_pool(Task(dict, work), RAY, print) as pool:
        found = [result for _, result in pool([Shard((str(n),), n) for n in range(4)])]
        assert sorted(found) == [(n, "http://127.0.0.1:1", None) for n in range(4)] and killed.exists()
        with pytest.raises(TableError, match=r"^images.parquet: row 9: no image$"):
            list(pool([Shard(("a",), 9)]))


@needs_ray
def test_a_cluster_that_is_too_small_or_a_shard_that_kills_every_worker_is_an_error(cluster):
    with open_pool(Task(dict, print), Compute("ray", gpus=1), print) as pool:
        with pytest.raises(NearsafeError, match="1 workers with .* do not fit into the cluster's 2.0 CPUs and 0 GPUs"):
            list(pool([Shard(("a",), 1)]))
    with open_pool(Task(dict, print), Compute("ray", workers=3), print) as pool:
        with pytest.raises(NearsafeError, match="3 workers with .* room for 2; ask for fewer"):
            list(pool([Shard((str(n),), n) for n in range(3)]))
    with open_pool(Task(dict, lambda models, job: os._exit(1)), Compute("ray", retries=0), print) as pool:
        with pytest.raises(NearsafeError, match="^a: its worker was lost"):
            list(pool([Shard(("a",), 1)]))


def test_without_ray_the_engine_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(NearsafeError, match="not installed: run make env"):
        with open_pool(Task(dict, print), RAY, print):
            pass


def test_the_section_may_be_missing_and_is_checked(made, tmp_path):
    assert read_compute(made.params) == Compute()
    file = tmp_path / "params.yaml"
    for text, message in (
        ("{engine: spark}", "compute.engine: expected one of local, ray, got 'spark'"),
        ("{engine: ray, workers: 0}", "compute: workers must be at least 1"),
        ("{cpus: 0}", "compute: a worker needs cpus or gpus"),
    ):
        file.write_text(f"compute: {text}")
        with pytest.raises(NearsafeError, match=message):
            read_compute(file)


def test_shards_in_any_order_leave_one_output_and_finished_ones_are_not_made_again(tmp_path):
    rows = [{"item_id": f"i{n}", "modality": "text", "vector": [float(n), 1.0]} for n in range(3)]
    shards = [Shard((f"embeddings-text-{n:05d}.parquet",), n, "text", 1) for n in range(3)]
    done = []

    def write(output, shard, row):
        done.append(shard.job)
        output.write(shard.files[0], "embeddings", [row])

    def run(out, pool, log=lambda line: None):
        output = Output(out, {"stage": "x"}, resume=True)
        run_shards(pool, shards, output, partial(write, output), log)
        output.finish()
        return files(out)

    whole = run(tmp_path / "a", lambda todo: ((shard, rows[shard.job]) for shard in todo))
    assert run(tmp_path / "b", lambda todo: ((shard, rows[shard.job]) for shard in reversed(todo))) == whole
    (tmp_path / "a" / "embeddings-text-00001.parquet").unlink()
    lines = []
    assert run(tmp_path / "a", lambda todo: ((shard, rows[shard.job]) for shard in todo), lines.append) == whole
    assert done[6:] == [1] and lines == ["text: 2 of 3 shards are finished"]


def test_jobs_are_prepared_one_ahead_and_not_more(monkeypatch):
    events = []

    def prepare(job):
        events.append(f"read {job}")
        return job

    def work(models, job):
        events.append(f"work {job}")
        return job

    with open_pool(Task(dict, work, prepare), Compute(), print) as pool:
        for shard, _ in pool([Shard((str(n),), n) for n in range(4)]):
            read = [event for event in events if event.startswith("read")]
            assert len(read) <= shard.job + 2
    assert sorted(events) == sorted(f"{what} {n}" for what in ("read", "work") for n in range(4))


def test_images_are_examined_once_while_nothing_that_looks_at_them_changes(made, tmp_path, monkeypatch):
    images = tmp_path / "g"
    generate(made, made.params, images)
    plain, _ = score(made, made.params, images, tmp_path / "s")
    first, _ = score(made, made.params, images, tmp_path / "s1", cache=tmp_path / "cache")
    kept = sorted((tmp_path / "cache").iterdir())
    (tmp_path / "cache" / kept[0].name).write_bytes(b"cut")  # one file is broken: that shard is looked at again
    second, lines = score(made, made.params, images, tmp_path / "s2", cache=tmp_path / "cache")
    assert plain == first == second
    assert any("of 4 shards of images were examined before" in line for line in lines)
    looked = [line for line in lines if line.endswith("images examined")]
    assert len(looked) <= 1
    monkeypatch.setattr(compute, "open_pool", None)
    third, lines = score(made, made.params, images, tmp_path / "s3", cache=tmp_path / "cache")
    assert third == plain
    assert "score: 4 of 4 shards of images were examined before" in lines
