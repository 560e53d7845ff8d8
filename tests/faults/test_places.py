"""An output directory that must not be written to, and a clock that was set back."""

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from pipeline import compute, runs
from pipeline.compute import Progress
from pipeline.errors import run
from pipeline.flows.home import Process
from pipeline.layout import Data
from pipeline.progress import duration
from pipeline.runs import RunRecord, read_runs
from pipeline.tables import read_output
from stages import bucket_difficulty, embed, generate, mine_pairs, score, train
from tests.faults.damage import files
from tests.faults.record import record
from tests.learning import save_clip, save_params, save_world
from tests.worldlet import make

NOBODY = 65534


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """Outputs up to training and images, in a place that everyone may read."""
    root = Path(tempfile.mkdtemp(prefix="nearsafe-places-"))
    root.chmod(0o755)
    save_params(root / "params.yaml")
    save_clip(root / "clip")
    save_world(root / "world")
    for stage in ("embed", "mine_pairs", "bucket_difficulty", "train"):
        call(root, stage, root / stage)
    make(root / "worldlet")
    call(root, "generate", root / "generate")
    call(root, "score", root / "score")
    for file in root.rglob("*.safetensors"):  # written for their owner alone
        file.chmod(0o644)
    yield root
    shutil.rmtree(root)


def call(root: Path, stage: str, out: Path) -> None:
    """A stage as its command line calls it."""
    small, data = root / "worldlet", root / "worldlet/data"
    learn = ["--params", root / "params.yaml", "--world", root / "world"]
    near = [*learn, "--embeddings", root / "embed"]
    sized = ["--params", small / "params.yaml", "--defence", "original", "--prompts", data / "prompts",
             "--checkpoints", data / "checkpoints/original"]  # fmt: skip
    words = {
        "embed": (embed, [*learn, "--clip", root / "clip"]),
        "mine_pairs": (mine_pairs, near),
        "bucket_difficulty": (bucket_difficulty, [*near, "--targets", root / "mine_pairs"]),
        "train": (train, [*near, "--targets", root / "mine_pairs", "--buckets", root / "bucket_difficulty",
                          "--clip", root / "clip", "--defence", "safer_clip"]),
        "generate": (generate, [*sized, "--diffusion", small / "models/diffusion"]),
        "score": (score, [*sized, "--world", data / "world", "--clip", small / "models/clip", "--images-only",
                          "--detector", small / "models/detector", "--generations", root / "generate",
                          "--cache", out.parent / "cache"]),
    }  # fmt: skip
    module, arguments = words[stage]
    run(module.main, module.parser(), [*map(str, arguments), "--out", str(out)])


@contextmanager
def nobody() -> Iterator[None]:
    """As root, who may write everywhere: as a user who may not, until the block ends."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        if not os.access(Path(compute.__file__), os.R_OK, effective_ids=True):
            pytest.skip("this clone cannot be read by another user")
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("stage", ["embed", "mine_pairs", "bucket_difficulty", "train", "generate", "score"])
def test_a_place_that_must_not_be_written_to_is_one_line_and_nothing_is_lost(made: Path, capsys, stage: str) -> None:
    """A new output below such a directory, and a finished one in its own."""
    closed = made / "closed" / stage
    closed.mkdir(parents=True)
    finished = shutil.copytree(made / stage, made / "finished" / stage / "out")
    whole = files(finished)
    for place in (closed, finished.parent, finished):
        place.chmod(0o555)
    for out in (closed / "out", finished):
        capsys.readouterr()
        with nobody(), pytest.raises(SystemExit) as ended:
            call(made, stage, out)
        said = capsys.readouterr().err.strip().splitlines()
        assert ended.value.code == 2 and len(said) == 1, said
        assert said[0].startswith("error: ") and str(out.parent) in said[0] and "writable" in said[0]
    for place in (closed, finished.parent, finished):
        place.chmod(0o755)
    assert files(finished) == whole and not any(closed.iterdir())
    record("output directory that must not be written to", 2, 2, stage)


@contextmanager
def clock_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every look at the clock is earlier than the last, by hours."""
    draw, now = random.Random(0), [time.time()]

    def earlier() -> float:
        now[0] -= draw.uniform(1, 10_000)
        return now[0]

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", earlier)
        patch.setattr(time, "time_ns", lambda: int(earlier() * 1e9))
        yield


def test_a_clock_that_goes_back_changes_no_byte_and_no_progress(made: Path, tmp_path: Path, monkeypatch) -> None:
    with clock_back(monkeypatch):
        for stage in ("embed", "mine_pairs", "bucket_difficulty", "train", "generate", "score"):
            call(made, stage, tmp_path / stage)
            assert files(tmp_path / stage) == files(made / stage), stage
        progress = Progress(10)
        progress.add(3)
        assert "-" not in str(progress) and duration(0.0)
    record("clock set back", 6, 6, "during each stage: equal bytes")


def test_times_of_files_are_not_looked_at(made: Path, tmp_path: Path) -> None:
    """Inputs from the future, manifests older than their tables."""
    draw = random.Random(0)
    world = shutil.copytree(made, tmp_path / "copy")
    for file in world.rglob("*"):
        os.utime(file, (moment := draw.uniform(0, 4e9), moment))
    for stage in ("mine_pairs", "train", "score"):
        call(world, stage, tmp_path / stage)
        assert files(tmp_path / stage) == files(made / stage), stage
    record("times of files at random", 3, 3, "equal bytes")


def test_runs_stay_in_order_when_the_clock_is_set_back(tmp_path: Path, monkeypatch) -> None:
    class Clock(datetime):
        moment = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)

        @classmethod
        def now(cls, tz=None):
            return cls.moment

    monkeypatch.setattr(runs, "datetime", Clock)
    began = []
    for hours in (0, 0, -5, -5, -9000, 1):
        Clock.moment += timedelta(hours=hours)
        began.append(_record(tmp_path).run_id)
    stamps = [name[:15] for name in began]
    assert stamps == sorted(stamps) and len(set(began)) == len(began)
    assert read_output(Data(tmp_path).runs / began[-1], "runs").num_rows == 1
    assert [row["run_id"][:15] for row in read_runs(tmp_path)] == stamps[::-1]
    record("clock set back", 4, 4, "between runs: they stay in their order")


def _record(data: Path) -> RunRecord:
    return RunRecord.start(data, "repro")


def test_a_process_is_known_after_the_clock_was_set(monkeypatch) -> None:
    """psutil adds the time of the boot, which moves with the clock, to a start that does not."""
    own = Process.of(os.getpid())
    assert own.find() is not None
    true = psutil.boot_time()
    for moved in (-86_400.0, 3.0, 86_400.0):
        with monkeypatch.context() as patch:
            patch.setattr(psutil, "boot_time", lambda moved=moved: true + moved)
            patch.setattr(psutil._pslinux, "boot_time", lambda moved=moved: true + moved)
            assert own.find() is not None
    assert Process(own.pid, own.started - 10, own.boot).find() is None
    assert Process(own.pid, own.started, "another boot").find() is None
    record("clock set back", 3, 3, "while a server or a flow runs: it is still known")
