"""The benchmark runner: what it collects, measures and writes. Speeds themselves are no test's business."""

import argparse
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch

from pipeline import bench, bench_growth, bench_page, errors
from pipeline.bench import Comparison, benchmarks, comparisons_of, describe, measure
from pipeline.bench_growth import Growth, measure_growth
from pipeline.bench_page import write
from pipeline.bench_stages import stage_rows
from pipeline.benchmarks import mining, results, training
from pipeline.errors import NearsafeError
from pipeline.runs import RunRecord

STAGES = "<!-- table: stages -->\n<!-- end -->\n"
FACTS = {"machine": "a machine", "date": "2026-01-01", "command": "python -m pipeline.bench"}
CLIP = Path("pipeline/world/weights/clip")


def test_every_benchmark_has_comparisons_and_gets_the_options_it_takes():
    found = benchmarks()
    assert {"mining", "results", "training"} <= set(found)
    assert all(hasattr(module, "comparisons") or hasattr(module, "growths") for module in found.values())
    assert list(benchmarks(["mining"])) == ["mining"]
    with pytest.raises(NearsafeError, match="unknown benchmark 'minning'; known: .*mining"):
        benchmarks(["minning"])
    first = next(iter(comparisons_of(type("M", (), {"comparisons": lambda depth=9, full=1: [depth]}), depth=2, out=3)))
    assert first == 2


def test_a_row_has_ratio_rates_share_and_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "matmul_rate", lambda device, dtype: 1e9)
    times = iter([4.0, 2.0, 9.0, 3.0, 8.0, 2.0])
    monkeypatch.setattr(bench, "seconds", lambda call: next(times))
    held = []
    line = Comparison("a / b", lambda: None, lambda: held.append(torch.ones(1 << 24)), 6, "pairs", 1e9, turns=3)
    row = {"benchmark": "x", **measure(line, 7), **FACTS}
    assert (row["turns"], row["speed_up"], row["speed_up_low"], row["speed_up_high"]) == (3, 3.0, 2.0, 4.0)
    assert (row["plain_rate"], row["built_in_rate"], row["share_of_matmul"]) == (0.75, 3.0, 0.5)
    assert 50 < row["extra_mib"] < 200
    assert describe(row).startswith("a / b: 3.00x (2.00 to 4.00); 8000 ms against 2000 ms; 0.75 against 3 pairs/s; 50%")


def test_figures_are_kept_per_machine_and_fill_the_page(tmp_path):
    """A later run replaces its own lines alone, and the page is made of what is kept."""
    ratio = {
        "benchmark": "x", "title": "a / b", "device": "cpu", "turns": 3, "speed_up": 3.0, "speed_up_low": 2.0,
        "speed_up_high": 4.0, "plain_seconds": 8.0, "built_in_seconds": 2.0, "unit": None, "plain_rate": None,
        "built_in_rate": None, "share_of_matmul": None, "extra_mib": 64.0, **FACTS,
    }  # fmt: skip
    other = {**ratio, "machine": "another machine", "unit": "pairs", "built_in_rate": 12.0, "share_of_matmul": 0.5}
    grown = [{"benchmark": "x", **row, **FACTS} for row in measure_growth(Growth("work", "rows", 4, _square), 2)]
    page, kept = tmp_path / "page.md", tmp_path / "kept"
    page.write_text("By hand.\n<!-- table: ratios -->\n<!-- end -->\n<!-- table: growth -->\n<!-- end -->\n" + STAGES)
    write(tmp_path / "first", [ratio, other], grown)
    bench_page.main([tmp_path / "first"], page, kept)
    write(tmp_path / "second", [{**ratio, "speed_up": 9.0, "date": "2026-02-02"}], [])
    bench_page.main([tmp_path / "second"], page, kept)
    assert pq.read_table(kept / "ratios.parquet").schema == bench_page.COLUMNS["ratios"]
    text = page.read_text()
    assert text.startswith("By hand.") and "### 2026-02-02, a machine" in text and "3.00x" in text
    assert "| a / b | cpu | 8000 ms | 2000 ms | 9.00x (2.00 to 4.00, 3 turns) |  |  | 64 MiB |" in text
    assert "| 12 pairs/s | 50% | 64 MiB |" in text and text.count("| a / b |") == 2
    assert [row["n"] for row in pq.read_table(kept / "growth.parquet").to_pylist()] == [4, 8, 16, 32]
    again = text
    bench_page.main([], page, kept)
    assert page.read_text() == again
    (kept / "growth.parquet").write_bytes(b"no table")
    with pytest.raises(NearsafeError, match=r"growth\.parquet: no table"):
        bench_page.main([], page, kept)


def test_time_and_memory_of_stages_are_those_of_the_newest_run_that_ran_them(tmp_path):
    runs = []
    for state, stages in (
        ("completed", {"train@a": (10.0, 100.0), "train@b": (30.0, 300.0), "score@a": (5.0, 50.0)}),
        ("completed", {"train@a": (20.0, 200.0)}),
        ("failed", {"train@a": (99.0, 999.0)}),
    ):
        run = RunRecord.start(tmp_path, "repro")
        for name, (seconds, peak) in stages.items():
            run.stage(name, "ran", seconds=seconds, peak_mb=peak)
        run.stage("world", "up_to_date")
        run.finish(state)
        runs.append(run.path)
    rows = {row["title"]: row for row in stage_rows(tmp_path, "a machine")}
    assert set(rows) == {"train", "score"}
    assert (rows["train"]["n"], rows["train"]["seconds"], rows["train"]["peak_mib"]) == (1, 20.0, 200.0)
    assert rows["score"]["total_seconds"] == 5.0
    shutil.rmtree(runs[1])
    rows = {row["title"]: row for row in stage_rows(tmp_path, "a machine")}
    assert (rows["train"]["n"], rows["train"]["seconds"], rows["train"]["total_seconds"]) == (2, 20.0, 40.0)
    page = tmp_path / "page.md"
    page.write_text(STAGES + "<!-- table: ratios -->\n<!-- end -->\n<!-- table: growth -->\n<!-- end -->\n")
    bench_page.main([], page, tmp_path / "kept", tmp_path)
    assert "| `train` | 2 | 20.0 s | 40.0 s | 300 MiB |" in page.read_text()


def test_the_page_of_figures_shows_what_is_kept():
    tables = {name: bench_page.read(bench_page.KEPT, name) for name in bench_page.COLUMNS}
    shown = bench_page.PAGE.read_text()
    assert all(block.strip() in shown for block in bench_page.blocks(tables).values())


def test_growth_names_the_power_of_the_size(monkeypatch):
    monkeypatch.setattr(bench_growth, "seconds", lambda call: call())
    rows = measure_growth(Growth("work", "rows", 4, _square), 1)
    assert [(row["seconds"], row["exponent"]) for row in rows] == [(16, None), (64, 2), (256, 2), (1024, 2)]


def _square(size, folder):
    assert folder.is_dir() and not list(folder.iterdir())
    return lambda: size**2


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
