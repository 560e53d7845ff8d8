"""The log of runs: readable at any time, also of a run that was killed."""

import json
import threading
from pathlib import Path

import pytest

from pipeline.errors import NearsafeError
from pipeline.layout import Data
from pipeline.runs import RunRecord, changes, metrics_rows, read_run_metrics, read_runs
from pipeline.tables import read_output


def number(value: float | None, low: float | None = None, high: float | None = None, n: int = 100) -> dict:
    return {"value": value, "ci_low": low, "ci_high": high, "n": n}


def test_a_finished_run_reads_back_through_the_tables(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.json"
    metrics.write_text(json.dumps({"des": {"seed_0": {"asr": number(0.5, 0.4, 0.6), "drift_text": number(1.5)}}}))
    record = RunRecord.start(
        tmp_path, "flow", targets=["score@des"], overrides=["train.lr=0.1", "a=[1, 2]"], experiment="e", revision="abc"
    )
    record.stage("train@des", "not_run")
    record.stage("train@des", "ran", 12.5, "cpu", "params changed")
    record.stage("score@des", "up_to_date")
    record.finish("completed", metrics)

    folder = Data(tmp_path).runs / record.run_id
    (run,) = read_output(folder, "runs").to_pylist()
    assert run["state"] == "completed"
    assert run["started"] <= run["ended"]
    assert (run["targets"], run["overrides"]) == ("score@des", "train.lr=0.1 'a=[1, 2]'")
    stages = {row["stage"]: row for row in read_output(folder, "stage_runs").to_pylist()}
    assert (stages["train@des"]["state"], stages["train@des"]["seconds"]) == ("ran", 12.5)
    assert stages["score@des"]["state"] == "up_to_date"
    assert read_run_metrics(tmp_path, record.run_id) == metrics_rows(metrics)


def test_a_killed_run_stays_running_with_its_rows(tmp_path: Path) -> None:
    record = RunRecord.start(tmp_path, "repro")
    record.stage("world", "ran", 1.0)
    assert [row["state"] for row in read_runs(tmp_path)] == ["running"]
    assert read_output(record.path, "stage_runs").num_rows == 1
    assert read_run_metrics(tmp_path, record.run_id) == []


def test_a_run_without_numbers_ends_all_the_same(tmp_path: Path) -> None:
    record = RunRecord.start(tmp_path, "repro")
    record.finish("failed", tmp_path / "metrics.json")
    assert read_runs(tmp_path)[0]["state"] == "failed"


def test_runs_have_their_own_directories_and_the_newest_comes_first(tmp_path: Path) -> None:
    ids = [RunRecord.start(tmp_path, "repro").run_id for _ in range(20)]
    assert len(set(ids)) == 20
    found = [row["run_id"] for row in read_runs(tmp_path)]
    assert found == sorted(ids, reverse=True)
    assert read_runs(tmp_path / "elsewhere") == []


def test_stages_of_many_threads_are_all_there(tmp_path: Path) -> None:
    record = RunRecord.start(tmp_path, "flow")
    threads = [threading.Thread(target=record.stage, args=(f"stage-{i}", "ran", 0.1)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_output(record.path, "stage_runs").num_rows == 12


@pytest.mark.parametrize(
    "text", ["not json", "[1]", '{"des": {"seed_0": {"asr": 1}}}', '{"des": {"first": {"a": {}}}}']
)
def test_another_file_is_no_metrics(tmp_path: Path, text: str) -> None:
    file = tmp_path / "metrics.json"
    file.write_text(text)
    with pytest.raises(NearsafeError, match=r"metrics\.json"):
        metrics_rows(file)


def test_changes_names_what_moved_beyond_its_interval() -> None:
    def row(name: str, *numbers: float) -> dict:
        return {"defence": "des", "seed": 0, "name": name, **number(*numbers)}

    before = [
        row("asr", 0.5, 0.4, 0.6),
        row("zero_shot", 0.9, 0.8, 0.95),
        row("gone", 0.1, 0.0, 0.2),
        row("shift", 1.0),
    ]
    after = [row("asr", 0.1, 0.0, 0.2), row("zero_shot", 0.8, 0.7, 0.9), row("new", 0.2, 0.1, 0.3), row("shift", 3.0)]
    found = {
        row["name"]: (row["before"], row["after"], row["difference"], row["apart"]) for row in changes(before, after)
    }
    assert found == {
        "asr": (0.5, 0.1, pytest.approx(-0.4), True),
        "zero_shot": (0.9, 0.8, pytest.approx(-0.1), False),
        "gone": (0.1, None, None, False),
        "new": (None, 0.2, None, False),
        "shift": (1.0, 3.0, 2.0, False),
    }
