"""A machine of a cluster that fails while images are made."""

import os
import signal

import pytest

from tests.faults.record import record
from tests.test_compute import cluster, generate, made, needs_ray

__all__ = ["cluster", "made"]


@needs_ray
@pytest.mark.faults
def test_images_are_those_of_the_local_engine_although_a_worker_is_killed(made, cluster, tmp_path):
    """The process is killed from outside, as a machine that fails would be, when the first images are there."""
    params = tmp_path / "ray.yaml"
    params.write_text(made.params.read_text() + "\ncompute: {engine: ray, workers: 2}\n")
    workers, killed = [], []

    def kill_one(line):
        if line.startswith("worker "):
            workers.append(int(line.split()[1]))
        elif " of 12 images" in line and not killed:
            killed.append(workers[0])
            os.kill(workers[0], signal.SIGKILL)

    found = generate(made, params, tmp_path / "g-ray", kill_one)
    assert len(workers) == 2 and len(killed) == 1
    assert found == generate(made, made.params, tmp_path / "g")
    record("a worker of a cluster killed while it makes images", 1, 1)
