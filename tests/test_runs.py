"""The log of runs: readable at any time, also of a run that was killed."""

import errno
import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import runs, tables
from pipeline.errors import NearsafeError
from pipeline.layout import Data, table_file
from pipeline.runs import RunRecord, changes, metrics_rows, read_log, read_run_metrics, read_runs
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
    record.stage("train@des", "ran", 12.5, "cpu", "params changed", 640.0)
    record.stage("score@des", "up_to_date")
    record.finish("completed", metrics)

    folder = Data(tmp_path).runs / record.run_id
    (run,) = read_output(folder, "runs").to_pylist()
    assert run["state"] == "completed"
    assert run["started"] <= run["ended"]
    assert (run["targets"], run["overrides"]) == ("score@des", "train.lr=0.1 'a=[1, 2]'")
    stages = {row["stage"]: row for row in read_output(folder, "stage_runs").to_pylist()}
    train = stages["train@des"]
    assert (train["state"], train["seconds"], train["peak_mb"]) == ("ran", 12.5, 640.0)
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


def test_ids_sort_as_runs_began_also_where_the_clock_is_set_back(tmp_path: Path, monkeypatch) -> None:
    class Clock(datetime):
        ahead = timedelta(days=400)

        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + cls.ahead

    monkeypatch.setattr(runs, "datetime", Clock)
    ids = [RunRecord.start(tmp_path, "repro").run_id]
    Clock.ahead = timedelta()
    (Data(tmp_path).runs / "99999999-999999-ffff.copy").mkdir()  # not ours
    ids += [RunRecord.start(tmp_path, "repro").run_id for _ in range(3)]
    assert ids == sorted(set(ids))
    newest = read_runs(tmp_path)[0]
    assert newest["run_id"] == ids[-1] and newest["started"] < datetime.now(UTC).isoformat()


@pytest.mark.parametrize("damage", ["cut", "bit", "other", "gone"])
def test_a_damaged_log_is_as_good_as_none(tmp_path: Path, damage: str) -> None:
    kept, lost = (RunRecord.start(tmp_path, "repro") for _ in range(2))
    lost.stage("world", "ran", 1.0)
    for table in ("runs", "stage_runs"):
        file = lost.path / table_file(table)
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        texts = {"cut": bytes(data[: len(data) // 2]), "bit": bytes(data), "other": b"not a table"}
        file.unlink() if damage == "gone" else file.write_bytes(texts[damage])
    assert [row["run_id"] for row in read_runs(tmp_path)] == [kept.run_id]
    assert read_log(lost.path, "stage_runs") == []


def test_a_log_of_before_a_column_came_reads_with_nulls(tmp_path: Path) -> None:
    record = RunRecord.start(tmp_path, "repro")
    record.stage("world", "ran", 1.0, peak_mb=300.0)
    file = record.path / table_file("stage_runs")
    pq.write_table(pq.read_table(file).drop_columns(["peak_mb"]), file)
    (row,) = read_log(record.path, "stage_runs")
    assert (row["seconds"], row["peak_mb"]) == (1.0, None)


def test_a_disk_that_is_full_amid_a_run_ends_the_log_alone(tmp_path: Path, monkeypatch, capfd) -> None:
    record = RunRecord.start(tmp_path, "repro")

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tables.pq, "write_table", full)
    record.stage("train", "ran")
    record.finish("completed")
    said = capfd.readouterr().err
    assert said.count("the disk is full") == 1 and "the run goes on, and is not logged" in said


def test_a_run_goes_on_where_its_log_cannot_be_written(tmp_path: Path, capfd) -> None:
    (tmp_path / "runs").write_text("a file in its place")
    record = RunRecord.start(tmp_path, "repro")
    record.stage("world", "ran", 1.0)
    record.finish("completed")
    assert capfd.readouterr().err.count("the run goes on, and is not logged") == 1


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
