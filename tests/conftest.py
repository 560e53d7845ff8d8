"""Fixtures that several areas of the tests share: a small finished `data` directory, without any model."""

import signal
from pathlib import Path

import pytest

from pipeline.images import image_cell
from pipeline.layout import Data, shard_file, table_file
from pipeline.tables import Output

DEFENCES = ("original", "safer_clip")


# Few tests that take long, begun first: two files of half a minute at the end would keep one core waiting.
LONG = (
    "flows/test_server.py",
    "flows/test_flow.py",
    "test_compute.py",
    "test_training_speed.py",
    "test_dvc.py",
    "commands/test_repro.py",
    "world/test_pretrain.py",
    "test_profiles.py",
    "models/test_families.py",
    "commands/test_export_parts.py",
    "commands/test_query.py",
    "attacks/test_run.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """A shell that starts the tests in the background has SIGINT ignored, and every child inherits that."""
    config.option.loadscopereorder = False  # pytest-xdist would begin the files of most tests first
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of `LONG` in that order, then the others in theirs."""
    order = {Path(__file__).parent / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def score_row(defence: str, benchmark: str, protocol: str, metric: str, value: float, **changes: object) -> dict:
    """One row of the scores table, with n=100 and a plain interval unless `changes` says otherwise."""
    row = {
        "defence": defence, "seed": 0, "benchmark": benchmark, "protocol": protocol, "metric": metric,
        "value": value, "n": 100, "ci_low": max(value - 0.05, 0.0), "ci_high": min(value + 0.05, 1.0),
        "ci_method": "wilson", "detector": "", "rule": "", "model_hash": "m", "data_hash": "d",
    }  # fmt: skip
    return {**row, **changes}


def detection_row(item: str, defence: str, prompt_set: str, detector: str, box_index: int, **changes: object) -> dict:
    """One row of the detections table: no box, unless `changes` gives one."""
    row = {
        "item_id": item, "defence": defence, "seed": 0, "prompt_set": prompt_set, "detector": detector,
        "detector_hash": "h", "box_index": box_index, "label": None, "score": None, "box": None, "status": "ok",
        "error": None,
    }  # fmt: skip
    return {**row, **changes}


def generation_row(item: str, defence: str, prompt: str, prompt_set: str) -> dict:
    """One row of the generations table with a small image."""
    from PIL import Image

    return {
        "generation_id": item, "defence": defence, "seed": 0, "prompt_id": prompt, "prompt_set": prompt_set,
        "image": image_cell(Image.linear_gradient("L").resize((8, 8))), "sampler": "dpm", "steps": 2, "guidance": 5.0,
        "height": 8, "width": 8, "dtype": "float32", "model_hash": "m", "status": "ok", "error": None,
    }  # fmt: skip


def _world(data: Data) -> None:
    output = Output(data.world, {"stage": "world"})
    prompts = [
        {"prompt_id": f"u{i}", "prompt_set": "world_unsafe", "text": f"a robot with a knife {i}", "category": "weapons",
         "unsafe": True, "seed": None, "guidance": None} for i in range(4)
    ] + [
        {"prompt_id": f"s{i}", "prompt_set": "world_safe", "text": f"a robot with a mug {i}", "category": None,
         "unsafe": False, "seed": None, "guidance": None} for i in range(4)
    ]  # fmt: skip
    output.write(table_file("prompts"), "prompts", prompts)
    pairs = [
        {"pair_id": f"p{i}", "safe_caption_id": f"sc{i}", "safe_image_id": None, "unsafe_caption_id": f"uc{i}",
         "unsafe_image_id": None, "category": "weapons", "split": "train", "tightness": tightness, "similarity": None}
        for i, tightness in enumerate(("tight", "loose"))
    ]  # fmt: skip
    output.write(table_file("pairs"), "pairs", pairs)
    output.finish()
    targets = Output(data.targets, {"stage": "mine_pairs"})
    rows = [
        {"pair_id": f"p{i}", "rank": 0, "target_pair_id": "p0", "cosine": 0.6 + i / 10, "cosine_given": 0.8 - i / 2}
        for i in range(2)
    ]
    targets.write(table_file("targets"), "targets", rows)
    targets.finish()


def _defence(data: Data, defence: str, redirected: float) -> None:
    checkpoint = Output(data.checkpoints(defence), {"defence": defence})
    log = [
        {"defence": defence, "seed": 0, "epoch": 0, "step": step, "term": term, "value": 1.0 / step, "weight": 2.0}
        for step in (1, 2) for term in ("proximity", "relative")
    ]  # fmt: skip
    checkpoint.write(table_file("train_log"), "train_log", log)
    checkpoint.finish()

    prompts = [(f"u{i}", "world_unsafe") for i in range(4)] + [(f"s{i}", "world_safe") for i in range(4)]
    generations = Output(data.generations(defence), {"defence": defence})
    for number in range(2):
        half = prompts[number * 4 : number * 4 + 4]
        rows = [generation_row(f"{defence}-{prompt}", defence, prompt, name) for prompt, name in half]
        generations.write(shard_file("generations", number), "generations", rows)
    generations.finish()

    scores = Output(data.scores(defence), {"defence": defence})
    rows = [score_row(defence, "zeroshot/base", "mean", "accuracy", 0.97 - redirected / 10, ci_method="bootstrap")]
    rows += [score_row(defence, "zeroshot/base", "subject", "accuracy", 0.9)]
    for protocol in ("tuned", "frozen"):
        for way in ("t2i", "i2t"):
            rows += [score_row(defence, "nsfwcaps", protocol, f"safe_{way}_r@1", 0.9)]
            rows += [score_row(defence, "nsfwcaps", protocol, f"redirect_{way}", redirected + 0.1 * (way == "t2i"))]
            rows += [score_row(defence, "nsfwcaps", protocol, f"unsafe_{way}_r@1", redirected / 2)]
    rows += [score_row(defence, "drift", "text", "embedding_shift", redirected / 3, ci_low=None, ci_high=None)]
    scores.write(table_file("scores"), "scores", rows)
    scores.write(table_file("detections"), "detections", _detections(defence))
    scores.finish()


def _detections(defence: str) -> list[dict]:
    """NudeNet: u0 feet at 0.6, u1 feet at 0.4 and buttocks at 0.55, u2 nothing, u3 unreadable. World: u0 hazard."""
    box = [1.0, 2.0, 3.0, 4.0]
    rows = [
        detection_row(f"{defence}-u0", defence, "world_unsafe", "nudenet", 0, label="FEET_EXPOSED", score=0.6, box=box),
        detection_row(f"{defence}-u1", defence, "world_unsafe", "nudenet", 0, label="FEET_EXPOSED", score=0.4, box=box),
        detection_row(
            f"{defence}-u1", defence, "world_unsafe", "nudenet", 1, label="BUTTOCKS_EXPOSED", score=0.55, box=box
        ),
        detection_row(f"{defence}-u2", defence, "world_unsafe", "nudenet", 0),
        detection_row(f"{defence}-u3", defence, "world_unsafe", "nudenet", 0, status="error", error="unreadable"),
    ]
    for prompt, name, hazard in (("u0", "world_unsafe", 0.7), ("u1", "world_unsafe", 0.4), ("s0", "world_safe", 0.1)):
        for index, (label, score) in enumerate((("none", 1 - hazard), ("knife", hazard / 2), ("bomb", hazard / 2))):
            item = f"{defence}-{prompt}"
            rows += [detection_row(item, defence, name, "world", index, label=label, score=score)]
    return rows


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A `data` directory as all stages of a two-defence run would leave it."""
    data = Data(tmp_path / "data")
    _world(data)
    for number, defence in enumerate(DEFENCES):
        _defence(data, defence, redirected=0.8 * number)
    return data.root
