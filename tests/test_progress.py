"""Progress of a DVC run: counted, and the rest estimated from what has run."""

import pytest

from pipeline.progress import Done, Progress, duration

PLAN = ["world", "s:train@a", "s:train@b", "s:score@a", "s:score@b", "s:findings"]


def test_the_rest_is_estimated_by_kind_and_skipped_stages_teach_nothing() -> None:
    progress = Progress(PLAN)
    assert progress.line("Stage 'world' didn't change, skipping", 1).startswith(
        "[1 of 6, 1 s, time left not known yet]"
    )
    assert progress.line("Running stage 's:train@a':", 2).startswith("[2 of 6, 2 s, time left not known yet] Running")
    assert progress.line("> python -m stages.train", 3) == "> python -m stages.train"
    # train took 10 s: another train 10 s, and the scores and the findings, of which none has run, as much each.
    assert "[3 of 6, 12 s, about 40 s left]" in progress.line("Running stage 's:score@a':", 12)
    # score took 20 s: the running train 10 s, score 20 s, findings the mean of both, 15 s.
    assert "[4 of 6, 32 s, about 45 s left]" in progress.line("Running stage 's:train@b':", 32)
    skipped = "Stage 's:score@b' is cached - skipping run, checking out outputs"
    assert "[5 of 6, 42 s, about 13 s left]" in progress.line(skipped, 42)
    assert progress.durations == {"s:train": [10, 10], "s:score": [20]}
    assert "[6 of 6, 43 s, about 13 s left]" in progress.line("Running stage 's:findings':", 43)


def test_earlier_runs_give_the_rest_from_the_start_at_the_speed_of_this_one() -> None:
    past = {"s:train@a": 10.0, "s:train@b": 30.0, "s:score@a": 100.0, "world": 500.0}
    stale = ["s:train@a", "s:train@b", "s:score@a", "s:score@b"]
    progress = Progress(PLAN, stale, past)
    assert progress.left() == 240, "score@b has never run: as long as score@a; world is up to date"
    progress.line("Running stage 's:train@a':", 0)
    assert progress.left() == 240
    assert "about 8 min left" in progress.line("Running stage 's:score@a':", 30)  # (30 + 10) / (10 + 10): at half speed
    assert progress.left() == 2 * 230


def test_how_each_stage_ended() -> None:
    progress = Progress(PLAN)
    for second, line in enumerate([
        "Stage 'world' didn't change, skipping\n",
        "Stage 's:train@a' is cached - skipping run, checking out outputs\n",
        "Running stage 's:train@b':\n",
        "train: peak memory 512 MiB\n",
        "Running stage 's:score@a':\n",
        "score: peak memory 99 MiB\n",
        "ERROR: failed to reproduce 's:score@a': failed to run: false, exited with 1\n",
    ]):  # fmt: skip
        progress.line(line, second)
    assert progress.ended == {
        "world": Done("up_to_date"),
        "s:train@a": Done("cached"),
        "s:train@b": Done("ran", 2, peak_mb=512),
        "s:score@a": Done("failed", 2, "failed to run: false, exited with 1", 99),
    }
    assert progress.running is None


@pytest.mark.parametrize("names", ["'a', and 'b'", "'a' and 'b'", "'a', 'b'"])
def test_failures_that_dvc_names_at_the_end(names: str) -> None:
    progress = Progress(["a", "b", "c"])
    for second, name in enumerate("abc"):
        progress.line(f"Running stage '{name}':", second)
    progress.line(f"ERROR: failed to reproduce stages: {names}", 3)
    assert [progress.ended[name].state for name in "abc"] == ["failed", "failed", "ran"]


def test_everything_skipped_leaves_nothing() -> None:
    progress = Progress(["world"])
    assert "[1 of 1, 0 s, about 0 s left]" in progress.line("Stage 'world' didn't change, skipping", 0)


def test_a_stage_outside_the_plan_is_counted() -> None:
    assert Progress(["world"]).line("Running stage 'embed':", 0).startswith("[1 of 2, ")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (7500, "2 h 5 min")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
