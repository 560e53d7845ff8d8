"""`kill -9` at one moment of one stage, and whether the next `dvc repro` ends as if there had been none."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import pytest
from ruamel.yaml import YAML
from safetensors import SafetensorError, safe_open

from pipeline.layout import MANIFEST, SPEC, Data, Local
from tests.faults import workspace
from tests.faults.record import record

SEED = 7
Victim = Literal["stage", "dvc", "flow"]
VICTIMS: tuple[Victim, ...] = ("stage", "dvc", "flow", "stage", "dvc")  # of each of four stages
_GIVE_UP = 180.0  # seconds


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml: its name there, its module, its output, and the files that are its shards."""

    name: str
    module: str
    out: Path
    shards: str


def stage_of(module: str) -> Stage:
    """One of the four that are killed."""
    data, name = Data(), f"{module}@{workspace.DEFENCE}"
    return {
        "train": Stage(name, module, data.checkpoints(workspace.DEFENCE), "train_log-*.parquet"),
        "generate": Stage(name, module, data.generations(workspace.DEFENCE), "generations-*.parquet"),
        "score": Stage(name, module, data.scores(workspace.DEFENCE), "*.none"),  # see `finished`
        "build_nsfwcaps": Stage(module, module, data.nsfwcaps, "images-*.parquet"),
    }[module]


def upstream(temporary: pytest.TempPathFactory) -> Path:
    """A clone in which everything has run, uninterrupted; made once for all workers of pytest-xdist."""
    own = temporary.getbasetemp()
    folder = own.parent / "faults" if "PYTEST_XDIST_WORKER" in os.environ else own / "faults"
    return workspace.shared(folder, "whole", lambda root: workspace.run(workspace.make(root), "dvc", "repro"))


def forget(root: Path, stage: Stage) -> None:
    """As if the stage had never run: no output, no entry in dvc.lock, nothing that DVC or we remember of it."""
    shutil.rmtree(root / stage.out)
    shutil.rmtree(root / ".dvc/cache/runs", ignore_errors=True)
    shutil.rmtree(root / Local().cache, ignore_errors=True)
    yaml = YAML()
    lock = yaml.load(root / "dvc.lock")
    del lock["stages"][stage.name]
    yaml.dump(lock, root / "dvc.lock")


def measure(root: Path, stage: Stage) -> tuple[float, float]:
    """CPU seconds of the stage until it made its output directory, and in all, when nothing disturbs it."""
    parent = workspace.start(root, "dvc", "repro", "--single-item", stage.name)
    process = _find(parent, stage)
    begun, used = 0.0, 0.0
    while workspace.lives(process):
        used = max(used, _cpu(process))
        if not begun and (root / stage.out / SPEC).exists():
            begun = used
        time.sleep(0.02)
    assert parent.wait() == 0, workspace.said(root).read_text()[-3000:]
    return begun, used


def strike(root: Path, stage: Stage, victim: Victim, moment: float, cost: tuple[float, float]) -> bool:
    """Start the stage and kill `victim` at `moment`: 0 to 1 of its work, below 0 of its start. False: it was too late.

    Time is the stage's own CPU time, so that a busy machine does not move the moment.
    """
    words = ("nearsafe", "flow", "run", stage.name) if victim == "flow" else ()
    parent = workspace.start(root, *(words or ("dvc", "repro", "--single-item", stage.name)))
    process = _find(parent, stage)
    begun, whole = cost
    at = begun + moment * (whole - begun) if moment >= 0 else -moment * begun
    in_time = workspace.until(lambda: _cpu(process) >= at, process)
    workspace.kill(process if victim == "stage" else psutil.Process(parent.pid))
    parent.wait()
    return in_time


def finished(root: Path, stage: Stage) -> dict[str, int]:
    """What need not be made again, with the time of each file: shards; of `score`, what was seen in images."""
    found = sorted((root / stage.out).glob(stage.shards))
    if stage.module == "score":
        found = [file for _, file in workspace.files(root / Local().cache) if not file.name.endswith(".tmp")]
    return {file.relative_to(root).as_posix(): file.stat().st_mtime_ns for file in found}


def last_checkpoint(root: Path, stage: Stage) -> int | None:
    """The step of the checkpoint that a killed training left; None where there is none."""
    for file in (root / stage.out / ".resume").glob("seed-*.safetensors"):
        try:
            with safe_open(file, "pt") as opened:
                return int(YAML(typ="safe").load(opened.metadata()["state"])["step"])
        except SafetensorError:
            raise AssertionError(f"{file}: half a checkpoint under its whole name") from None
    return None


def check(whole: Path, place: Path, module: str, victim: Victim, moment: float, cost: tuple[float, float]) -> None:
    """One kill, from a copy of the whole clone to equal bytes. Counts itself."""
    survived, late = 0, False
    try:
        stage = stage_of(module)
        root = workspace.copy(whole, place)
        forget(root, stage)
        late = not strike(root, stage, victim, moment, cost)
        left = workspace.wait_gone(root)
        assert not left, f"orphans: {[process.cmdline() for process in left]}"
        made, step = finished(root, stage), last_checkpoint(root, stage)
        ended = (root / stage.out / MANIFEST).exists()
        lines = workspace.said(root).read_text()
        again = workspace.run(root, "dvc", "repro")
        for part in ("data", "results", "report"):
            assert results(root / part) == results(whole / part), f"{module}, {victim} at {moment:.2f}: {part} differs"
        print(f"{module}: {victim} at {moment}: {len(made)} files were finished, checkpoint of step {step}")
        now = finished(root, stage)
        again_made = [name for name in made if now.get(name) != made[name]]
        assert ended or len(again_made) <= 1, f"more than the shard under way was made again: {again_made}"
        if step is not None and not ended:
            assert f"continuing after step {step} of" in again
            assert step >= last_step(lines) - 1, "more than one checkpoint interval (here: a step) was lost"
        assert not workspace.processes(root)
        shutil.rmtree(root)
        survived = 1
    finally:
        name = {"stage": "the stage", "dvc": "dvc", "flow": "the flow"}[victim]
        note = f"{module}: bytes equal, no orphan, at most one shard or checkpoint lost"
        record(f"kill -9 of {name}", 1, survived, note + ("; one came after its end" if late else ""))


def check_all(whole: Path, place: Path, module: str) -> None:
    """Five kills of one stage, spread over its start and its work; the moments come from SEED and are printed."""
    stage = stage_of(module)
    root = workspace.copy(whole, place / "measured")
    forget(root, stage)
    cost = measure(root, stage)
    moments = workspace.moments(len(VICTIMS), f"{SEED}/{module}")
    print(f"{module}: seed {SEED}, begins after {cost[0]:.1f} of {cost[1]:.1f} s, killed at {moments}")
    for number, (victim, moment) in enumerate(zip(VICTIMS, moments, strict=True)):
        check(whole, place / str(number), module, victim, moment, cost)


def results(folder: Path) -> dict[str, str]:
    """Digests of what stages write; not the log of runs, and not the file of views whose bytes DuckDB varies."""
    found = workspace.tree(folder)
    return {name: digest for name, digest in found.items() if not name.startswith("runs/") and ".duckdb" not in name}


def last_step(lines: str) -> int:
    """The last step that a training told of; 0 where it had told of none."""
    steps = [line.split("step ")[1].split("/")[0] for line in lines.splitlines() if ": epoch " in line]
    return int(steps[-1]) if steps else 0


def _find(parent: subprocess.Popen[str], stage: Stage) -> psutil.Process:
    known, end = psutil.Process(parent.pid), time.monotonic() + _GIVE_UP
    while parent.poll() is None and time.monotonic() < end:
        if (found := workspace.stage_process(known, stage.module)) is not None:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{stage.name} did not start")


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system
