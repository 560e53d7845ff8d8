"""Seeds and ids depend on names alone."""

import subprocess
import sys

import torch

from pipeline.ids import content_id
from pipeline.seeds import derive, generator, rng


def test_golden_values_never_move() -> None:
    assert derive(0, "prompt", "p1") == 3110887937285970951
    assert content_id("a", "b", prefix="c-") == "c-3554d2b8a1e34099"


def test_same_in_another_process() -> None:
    code = "from pipeline.seeds import derive; print(derive(0, 'prompt', 'p1'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(printed) == derive(0, "prompt", "p1")


def test_names_and_root_matter_and_parts_stay_apart() -> None:
    seeds = {derive(0, "a", "b"), derive(1, "a", "b"), derive(0, "ab"), derive(0, "b", "a"), derive(0, "a")}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert content_id("ab", "c") != content_id("a", "bc")


def test_generators_repeat() -> None:
    assert torch.equal(torch.randn(3, generator=generator(0, "x")), torch.randn(3, generator=generator(0, "x")))
    assert rng(0, "x").random() == rng(0, "x").random() != rng(0, "y").random()
