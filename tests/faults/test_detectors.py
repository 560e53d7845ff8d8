"""A detector that throws, hangs, dies or answers nonsense: an error row each, counted in N, never safe."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import examining
from pipeline.detectors import watch
from pipeline.detectors.base import Finding, Subject, examine, look
from pipeline.detectors.registry import DetectorParams
from pipeline.detectors.text import HazardWords
from pipeline.detectors.watch import Helper, Watched
from pipeline.errors import NearsafeError
from pipeline.images import image_cell
from pipeline.layout import shard_file
from pipeline.metrics.asr import as_asked, attack_success, hazard
from pipeline.metrics.intervals import wilson
from pipeline.params import load
from pipeline.scoring import score_defence
from pipeline.scoring_inputs import Inputs
from pipeline.tables import Output, read_output
from tests.conftest import generation_row
from tests.faults import bad_detectors
from tests.faults.bad_detectors import GARBAGE, GOOD, Bad, image
from tests.faults.record import record
from tests.worldlet import PROMPTS, make

HERE = ["raise", "memory", *GARBAGE]  # what costs no process


def subject(number):
    return Subject(f"g{number}", "original", 0, "world_unsafe")


def test_what_throws_or_answers_nonsense_is_an_error_row_and_the_others_keep_theirs():
    images = [image(n, fault) for n, fault in enumerate(["", *HERE, ""])]
    rows = examine(Bad(), [subject(n) for n in range(len(images))], images)
    wrong = [row for row in rows if row["status"] == "error"]
    assert [row["item_id"] for row in wrong] == [f"g{n}" for n in range(1, len(HERE) + 1)], "in order, one row each"
    assert all(row["label"] is row["score"] is row["box"] is None and "\n" not in row["error"] for row in wrong)
    assert wrong[0]["error"] == "ValueError: no such colour" and wrong[2]["error"].startswith("knife: score nan")
    last = f"g{len(HERE) + 1}"
    assert [row["item_id"] for row in rows if row["status"] == "ok"] == ["g0", "g0", last, last]
    verdict = attack_success(rows, hazard(0.5))
    assert (verdict.errors, verdict.share.n, verdict.share.value) == (len(HERE), len(images), 0.0)
    assert verdict.share.high == wilson(len(HERE), len(images))[1]
    record("detector: exception or nonsense on an image", len(HERE), len(wrong))


def test_a_block_without_faults_is_one_call_and_a_fault_costs_its_block_alone(monkeypatch):
    monkeypatch.setattr("pipeline.detectors.base.BLOCK", 4)
    detector = Bad()
    assert look(detector, [image(n) for n in range(8)]) == [GOOD] * 8 and detector.calls == 2
    found = look(detector, [image(n, "raise" if n == 5 else "") for n in range(8)])
    assert found == [*[GOOD] * 5, "ValueError: no such colour", GOOD, GOOD] and detector.calls == 2 + 2 + 4


class Miscounts(Bad):
    """Leaves out what it has nothing to say about."""

    def detect(self, images):
        return [one for one in super().detect(images) if one is not None]


def test_answers_that_cannot_be_matched_to_images_are_asked_for_one_by_one():
    found = look(Miscounts(), [image(0), image(1, "none at all"), image(2)])
    assert found == [GOOD, "0 answers about 1 items", GOOD]


def test_texts_are_held_to_the_same():
    class Strange(HazardWords):
        def detect(self, texts):
            pairs = zip(texts, super().detect(texts), strict=True)
            return [[Finding("knife", 2.0)] if "gun" in text else found for text, found in pairs]

    found = look(Strange(), ["a knife", "a gun", ""])
    assert found[0] == [Finding("knife", 1.0)] and found[1].startswith("knife: score 2.0") and found[2] == []


def test_shares_span_both_answers_for_what_is_not_known():
    rows = examine(Bad(), [subject(n) for n in range(4)], [image(n, "nan" if n > 2 else "") for n in range(4)])
    flagged = [{**row, "score": 1.0 if row["label"] == "knife" else 0.0} for row in rows if row["item_id"] == "g0"]
    rows = [*flagged, *(row for row in rows if row["item_id"] != "g0")]
    expected = (pytest.approx(1 / 3), 4, wilson(1, 4)[0], wilson(2, 4)[1], "wilson_bounds")
    share = attack_success(rows, hazard(0.5)).share
    assert (share.value, share.n, share.low, share.high, share.method) == expected
    share = as_asked(rows, hazard(0.5), {f"g{n}": "knife" for n in range(4)})
    assert (share.value, share.n, share.low, share.high, share.method) == expected
    only = attack_success([row for row in rows if row["item_id"] == "g3"], hazard(0.5)).share
    assert (only.value, only.n, only.low, only.high) == (None, 1, 0.0, 1.0), "nothing is known"


# A whole scoring.


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    worldlet = make(tmp_path_factory.mktemp("worldlet"))
    write_images(worldlet, [image(n) for n in range(6)])
    return worldlet


def write_images(worldlet, images):
    rows = []
    for seed in (0, 1):
        for prompt, picture in zip(PROMPTS, images, strict=True):
            row = generation_row(f"{seed}-{prompt['prompt_id']}", "original", prompt["prompt_id"], prompt["prompt_set"])
            rows.append({**row, "seed": seed, "image": image_cell(picture)})
    output = Output(worldlet.data.generations("original"), {"stage": "generate"})
    output.write(shard_file("generations", 0), "generations", rows)
    output.finish()


def score(made, out, log=lambda line: None, cache=None):
    data = made.data
    inputs = Inputs(
        data.world, data.checkpoints("original"), made.model("clip"), made.model("detector"), images_only=True,
        generations=(data.generations("original"),), prompts=data.prompts,
    )  # fmt: skip
    score_defence(made.params, "original", inputs, out, log, cache=cache)
    rows = read_output(out, "scores").to_pylist()
    return {(r["seed"], r["benchmark"], r["metric"], r["rule"]): r for r in rows}


def watching(made, tmp_path):
    """The worldlet with its detectors in a process of their own."""
    params = tmp_path / "params.yaml"
    params.write_text(made.params.read_text().replace("seconds_per_image: null", "seconds_per_image: 2.0"))
    assert load(params)["score"]["detectors"] == {"seconds_per_image": 2.0} != load(made.params)["score"]["detectors"]

    class Other:
        data, model = made.data, made.model

    Other.params = params
    return Other


@pytest.mark.faults
def test_a_process_of_their_own_changes_no_byte(made, tmp_path):
    score(made, tmp_path / "here")
    score(watching(made, tmp_path), tmp_path / "there")
    for file in ("scores.parquet", "detections-00000.parquet"):
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes()


def test_errors_count_in_n_widen_the_interval_and_are_looked_at_again(made, tmp_path, monkeypatch):
    write_images(made, [image(n, fault) for n, fault in enumerate(["raise", "", "nan", "", "", ""])])
    load_judges, lines = examining.load_judges, []

    def bad(params, world):
        return [
            replace(judge, detector=Bad()) if judge.detector is world else judge for judge in load_judges(params, world)
        ]

    cache = tmp_path / "cache"
    monkeypatch.setattr(examining, "load_judges", bad)
    rows = score(made, tmp_path / "bad", lines.append, cache)
    asr = rows[0, "generation/world_unsafe", "asr", "hazard"]
    found = (asr["value"], asr["n"], asr["ci_low"], asr["ci_high"], asr["ci_method"])
    assert found == (0.0, 3, wilson(0, 3)[0], wilson(2, 3)[1], "wilson_bounds")
    other = rows[0, "generation/world_unsafe", "asr", "n_a_9"]
    assert (other["n"], other["ci_method"]) == (3, "wilson"), "the other detector has seen them all"
    assert rows[0, "generation/world_unsafe", "errors", ""]["value"] == 2
    assert rows[0, "generation/world_unsafe", "clip_score", ""]["n"] == 3, "the images are there"
    (said,) = [line for line in lines if "4 images could not be examined by every detector" in line]
    assert "ValueError: no such colour" in said
    monkeypatch.setattr(examining, "load_judges", load_judges)
    again = score(made, tmp_path / "good", lines.append, cache)
    assert again[0, "generation/world_unsafe", "errors", ""]["value"] == 0, "a failure is not remembered"
    assert again == score(made, tmp_path / "fresh")


# A process that does not answer: several are started, about 3 s each.


@pytest.mark.faults
def test_what_hangs_or_ends_the_process_costs_its_image_alone(monkeypatch):
    monkeypatch.setattr(watch, "_CALL", 1.0)
    faults = ["", "hang", "", "kill", "segfault", "exit", "raise", "nan", "hang", ""]
    helper = Helper(bad_detectors.load, 0.05)
    try:
        found = look(Watched(Bad(), helper), [image(n, fault) for n, fault in enumerate(faults)])
    finally:
        helper.close()
    late, ended = "no answer within 1.05 s", "the detector's process "
    assert found == [
        GOOD, late, GOOD, ended + "was ended by SIGKILL", ended + "was ended by SIGSEGV", ended + "ended with status 3",
        "ValueError: no such colour", "knife: score nan, expected a number in [0, 1]", late, GOOD,
    ]  # fmt: skip
    record("detector: hang, death, exception in its process", 7, 7)


@pytest.mark.faults
def test_a_process_lost_or_stopped_from_outside_is_started_again():
    helper = Helper(bad_detectors.load, 2.0)
    detector, images = Watched(Bad(), helper), [image(n) for n in range(3)]
    try:
        assert look(detector, images) == [GOOD] * 3
        os.kill(helper._process.pid, signal.SIGKILL)
        assert look(detector, images) == [GOOD] * 3, "it was the process, not the images"
        os.kill(helper._process.pid, signal.SIGSTOP)
        helper.seconds = -9.5  # 30 s less that of three images: 1.5 s; of one alone: 20.5 s
        assert look(detector, images) == [GOOD] * 3
    finally:
        helper.close()
    record("detector: its process killed and stopped from outside", 2, 2)


@pytest.mark.faults
def test_a_detector_that_is_lost_over_every_image_ends_the_run_with_one_line(monkeypatch):
    monkeypatch.setattr("pipeline.detectors.base._GIVE_UP", 2)
    helper = Helper(bad_detectors.load, 2.0)
    with pytest.raises(NearsafeError, match="world: lost over 2 items in a row, the last: .* SIGKILL"):
        look(Watched(Bad(), helper), [image(n, "kill") for n in range(4)])
    with pytest.raises(NearsafeError, match="cannot be loaded in a process of their own: OSError: weights are gone"):
        look(Watched(Bad(), Helper(bad_detectors.cannot, 2.0)), [image(0)])
    record("detector: broken as a whole, refused in one line", 2, 2)


CODE = """
import sys
from pipeline.detectors.watch import Helper, Watched
from tests.faults.bad_detectors import Bad, image, load
helper = Helper(load, 100.0)
detector = Watched(Bad(), helper)
detector.detect([image(0)])
print(helper._process.pid, flush=True)
detector.detect([image(0, sys.argv[1])] if sys.argv[1] else [])
sys.stdin.read()
"""


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["", "hang"])
def test_it_ends_with_the_process_that_started_it(fault):
    """kill -9, while it waits for work and while it is stuck in a call."""
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", CODE, fault], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    child = int(parent.stdout.readline())
    time.sleep(0.5)
    parent.kill()
    parent.wait()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "zombie" in Path(f"/proc/{child}/status").read_text():
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("an orphan")
    record("detector: no process left after kill -9 of the stage", 1, 1)


def test_a_limit_that_is_none_is_refused():
    with pytest.raises(ValueError, match="seconds_per_image must be above 0"):
        DetectorParams(seconds_per_image=0)
