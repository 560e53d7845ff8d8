"""Shards in any order, on any number of workers: the bytes of one worker that takes them in turn."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import embedding, generation, scoring_generation
from stages import embed, generate, score
from tests.faults.damage import files
from tests.faults.record import record
from tests.worldlet import Worldlet, make

ORDERS = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Worldlet:
    """The stages' inputs."""
    made = make(tmp_path_factory.mktemp("order"))
    made.params.write_text(made.params.read_text() + "\nembed: {batch_size: 4}\n")
    return made


def call(made: Worldlet, stage: str, out: Path) -> None:
    data, clip = made.data, made.model("clip")
    if stage == "embed":
        embed.main(made.params, data.world, clip, out)
    elif stage == "generate":
        generate.main(made.params, "original", data.prompts, data.checkpoints("original"), made.model("diffusion"), out)
    else:
        score.main(
            made.params, "original", data.world, data.checkpoints("original"), clip, made.model("detector"), out,
            generations=[made.root / "generate"], prompts=data.prompts, images_only=True,
        )  # fmt: skip


def workers(count: int, seed: int):
    """In place of `open_pool`: `count` workers with models of their own, shards in any order."""

    @contextmanager
    def open_pool(task, compute, log, here=None) -> Iterator:
        draw, there = random.Random(seed), [task.load() for _ in range(count)]

        def run(shards):
            for shard in draw.sample(list(shards), len(shards)):
                yield shard, task.work(draw.choice(there), task.prepare(shard.job))

        yield run

    return open_pool


@pytest.mark.parametrize(
    "stage",
    ["embed", pytest.param("generate", marks=pytest.mark.faults), pytest.param("score", marks=pytest.mark.faults)],
)
def test_any_order_and_number_of_workers_leaves_equal_bytes(made: Worldlet, tmp_path: Path, monkeypatch, stage) -> None:
    where = {"embed": embedding, "generate": generation, "score": scoring_generation}[stage]
    if stage == "score":
        call(made, "generate", made.root / "generate")
    call(made, stage, made.root / stage)
    for number in range(ORDERS):
        monkeypatch.setattr(where, "open_pool", workers(number + 1, number))
        call(made, stage, tmp_path / str(number))
        assert files(tmp_path / str(number)) == files(made.root / stage)
    record("shards in another order, on 1 to 3 workers", ORDERS, ORDERS, f"{stage}: equal bytes")
