"""The benchmark runner: what it collects, measures and writes. Speeds themselves are no test's business."""

import argparse
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch

from pipeline import bench, errors
from pipeline.bench import Comparison, benchmarks, comparisons_of, describe, measure, write
from pipeline.benchmarks import mining, results, training
from pipeline.errors import NearsafeError

FACTS = {"machine": "a machine", "date": "2026-01-01", "command": "python -m pipeline.bench"}
CLIP = Path("pipeline/world/weights/clip")


def test_every_benchmark_has_comparisons_and_gets_the_options_it_takes():
    found = benchmarks()
    assert {"mining", "results", "training"} <= set(found)
    assert all(callable(module.comparisons) for module in found.values())
    assert list(benchmarks(["mining"])) == ["mining"]
    with pytest.raises(NearsafeError, match="unknown benchmark 'minning'; known: .*mining"):
        benchmarks(["minning"])
    first = next(iter(comparisons_of(type("M", (), {"comparisons": lambda depth=9, full=1: [depth]}), depth=2, out=3)))
    assert first == 2


def test_a_row_has_ratio_rates_share_and_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "matmul_rate", lambda device, dtype: 1e9)
    times = iter([4.0, 2.0, 9.0, 3.0, 8.0, 2.0])
    monkeypatch.setattr(bench, "_seconds", lambda call: next(times))
    held = []
    line = Comparison("a / b", lambda: None, lambda: held.append(torch.ones(1 << 24)), 6, "pairs", 1e9, turns=3)
    row = {"benchmark": "x", **measure(line, 7), **FACTS}
    assert (row["turns"], row["speed_up"], row["speed_up_low"], row["speed_up_high"]) == (3, 3.0, 2.0, 4.0)
    assert (row["plain_rate"], row["built_in_rate"], row["share_of_matmul"]) == (0.75, 3.0, 0.5)
    assert 50 < row["extra_mib"] < 200
    assert describe(row).startswith("a / b: 3.00x (2.00 to 4.00); 8000 ms against 2000 ms; 0.75 against 3 pairs/s; 50%")
    write([row, {**row, "unit": None, "share_of_matmul": None}], tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "benchmarks.parquet").schema == bench.COLUMNS
    block = (tmp_path / "out" / "benchmarks.md").read_text()
    assert (
        "## 2026-01-01, a machine" in block and "| a / b | 8000 ms | 2000 ms | 3.00x (2.00 to 4.00, 3 turns)" in block
    )


def test_a_stage_ends_with_the_most_memory_it_held(monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="stages.embed"))
    errors.run(lambda: print("done"), argparse.ArgumentParser(), [])
    first, last = capsys.readouterr().out.splitlines()
    found = re.fullmatch(r"embed: peak memory (\d+) MiB", last)
    assert first == "done" and int(found[1]) > 50


def test_a_price_is_asked_of_the_boxes_that_were_stored():
    for line in results.comparisons(images=40, boxes=2):
        assert line.title.startswith("80 boxes") and line.plain() == [(80,)]
        assert line.built_in()


def test_the_mining_lines_compare_the_same_work():
    vectors = mining.vectors(60, "queries", 24), mining.vectors(90, "pool", 24)
    line = mining.compare("t", *vectors, 2, turns=1)
    assert line.flops == 2 * 60 * 90 * 24
    line.plain()
    index, _ = line.built_in()
    assert index.shape == (60, 2)


def test_the_plain_loop_and_the_stage_take_steps_of_the_same_size():
    """At one narrow layer a tower: the plain loop's six forwards and the stage's step both run."""
    shape = training.Shape("tiny", (1, 64), (1, 64), 32, 16)
    task = training.Task.make(CLIP, shape, 2, None, torch.device("cpu"))
    training.plain(task)()
    step, flops = training.built_in(task, torch.float32, "sdpa")
    recorded = step()
    assert flops > 1e8 and len(recorded.terms) == 8 and torch.isfinite(recorded.values).all()
    data = training.training_set(task, training.Clip(task.model(), task.tokenizer, 224, (0,) * 3, (1,) * 3, 3, "h"))
    assert 10 <= data.captions.lengths.float().mean() <= 14, "about COCO's 12 tokens"
