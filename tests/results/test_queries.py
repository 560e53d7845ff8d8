"""The named queries: each answers, the new ones with known numbers."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.errors import NearsafeError
from pipeline.layout import Data, table_file
from pipeline.metrics.intervals import wilson
from pipeline.results.database import SQL, connect, query, questions
from pipeline.runs import RunRecord, changes, metrics_rows
from pipeline.tables import Output
from tests.conftest import detection_row, generation_row, score_row

REQUIRED = {
    "leaderboard", "tradeoff", "frontier", "per_category", "per_attack", "paper_rules", "published_and_ours",
    "slowest_stages", "changes", "filters_and_drops", "recent_runs",
}  # fmt: skip


def ask(root: Path, sql: str, **variables: str) -> list[tuple]:
    return query(connect(root, None, variables), sql).rows


def test_the_questions_of_the_project_are_named() -> None:
    assert {name for name, _ in questions()} == REQUIRED
    assert all(meaning for _, meaning in questions())
    page = (Path(__file__).parents[2] / "docs" / "queries.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in REQUIRED), "python -m pipeline.results.queries_page writes the page"


def test_the_frontier_marks_what_is_dominated_and_by_whom(tmp_path: Path) -> None:
    """better beats worse on both axes; cheap and better do not beat each other; twin ties with better and stays."""
    numbers = {"cheap": (0.99, 0.2), "better": (0.9, 0.8), "twin": (0.9, 0.8), "worse": (0.85, 0.7)}
    for defence, (zero_shot, redirected) in numbers.items():
        rows = [score_row(defence, "zeroshot/base", "mean", "accuracy", zero_shot)]
        rows += [score_row(defence, "nsfwcaps", "tuned", f"redirect_{way}", redirected) for way in ("t2i", "i2t")]
        asr = {"detector": "world", "rule": "hazard"}
        rows += [score_row(defence, "generation/world_unsafe", "", "asr", 1 - redirected, **asr)]
        rows += [score_row(defence, "generation/world_safe", "", "frechet_distance", 1 - zero_shot, detector="f@1")]
        output = Output(Data(tmp_path).scores(defence), {})
        output.write(table_file("scores"), "scores", rows)
        output.finish()
    found = ask(tmp_path, "SELECT axes, defence, on_frontier, dominated_by, lower FROM frontier")
    axes = {row[0] for row in found}
    assert axes == {
        "zero-shot against safe item nearest, tuned gallery", "zero-shot against ASR", "Frechet distance against ASR",
    }  # fmt: skip
    for name in axes:
        assert {row[1:4] for row in found if row[0] == name} == {
            ("cheap", True, ""), ("better", True, ""), ("twin", True, ""), ("worse", False, "better, twin"),
        }  # fmt: skip
    assert {row[4] for row in found if row[0].startswith("Frechet")} == {"utility, safety"}
    assert {row[4] for row in found if row[0] == "zero-shot against ASR"} == {"safety"}


def test_per_category_splits_the_attack_success(finished: Path) -> None:
    """All four unsafe prompts ask for weapons; the world's detector flags u0 of u0 and u1."""
    sql = "SELECT category, flagged, n, errors, ci_low FROM per_category WHERE rule = '{}' AND defence = 'original'"
    assert ask(finished, sql.format("hazard")) == [("weapons", 1, 2, 0, pytest.approx(wilson(1, 2)[0]))]
    assert [row[:4] for row in ask(finished, sql.format("strict"))] == [("weapons", 1, 4, 1)]


def test_paper_rules_on_the_same_boxes(tmp_path: Path) -> None:
    """Item 0: feet 0.8, belly 0.3; item 1: buttocks 0.55 and 0.25, face 0.9; item 2: buttocks 0.1; 3: error."""
    boxes = [
        ("0", "FEET_EXPOSED", 0.8), ("0", "BELLY_EXPOSED", 0.3), ("1", "BUTTOCKS_EXPOSED", 0.55),
        ("1", "BUTTOCKS_EXPOSED", 0.25), ("1", "FACE_FEMALE", 0.9), ("2", "BUTTOCKS_EXPOSED", 0.1),
    ]  # fmt: skip
    rows = [
        detection_row(item, "d", "world_unsafe", "nudenet_n_a", index, label=label, score=score)
        for index, (item, label, score) in enumerate(boxes)
    ]
    rows.append(detection_row("3", "d", "world_unsafe", "nudenet_n_a", 0, status="error", error="unreadable"))
    rows.append(detection_row("0", "d", "world_unsafe", "nudenet_n_d", 0, label="FEET_EXPOSED", score=0.9))
    output = Output(Data(tmp_path).scores("d"), {})
    output.write(table_file("detections"), "detections", rows)
    output.finish()
    (row,) = query(connect(tmp_path), "FROM paper_rules").rows
    found = dict(zip(query(connect(tmp_path), "FROM paper_rules").columns, row, strict=True))
    assert (found["n"], found["errors"], found["mace_boxes_nudenet_n_a"]) == (4, 1, 4)
    shares = {name: round(found[f"{name}_nudenet_n_a"] * 3) for name in ("esd", "unlearndiffatk", "des", "strict")}
    assert shares == {"esd": 2, "unlearndiffatk": 2, "des": 2, "strict": 1}
    assert found["unlearndiffatk_selection_nudenet_n_a"] == pytest.approx(1 / 3)
    for name, flagged in (("esd", 2), ("strict", 1)):
        both = wilson(flagged, 4)[0], wilson(flagged + 1, 4)[1]  # the error may be either
        assert (found[f"{name}_ci_low"], found[f"{name}_ci_high"]) == pytest.approx(both)


def test_per_attack_shows_what_the_undefended_model_does(tmp_path: Path) -> None:
    for defence, value in (("original", 0.9), ("des", 0.2)):
        row = score_row(
            defence, "generation/world_indirect", "one image per prompt", "asr", value, detector="world", rule="hazard"
        )
        output = Output(Data(tmp_path).scores(defence), {})
        output.write(table_file("scores"), "scores", [row])
        output.finish()
    found = ask(tmp_path, "SELECT defence, value, undefended, round(difference, 6) FROM per_attack ORDER BY defence")
    assert found == [("des", 0.2, 0.9, -0.7), ("original", 0.9, 0.9, 0.0)]


@pytest.fixture
def logged(finished: Path) -> list[str]:
    """Three runs of the `finished` data: two with numbers, then one that was killed. Their ids."""
    ids = []
    for asr, seconds in ((0.5, 10.0), (0.1, 30.0)):
        file = finished.parent / "metrics.json"
        number = {"value": asr, "ci_low": asr - 0.05, "ci_high": asr + 0.05, "n": 100}
        same = {"value": 0.9, "ci_low": 0.8, "ci_high": 1.0, "n": 50}
        file.write_text(json.dumps({"des": {"seed_0": {"asr": number, "zero_shot": same}}}))
        ids.append(_run(finished, len(ids), file, seconds))
    ids.append(_run(finished, len(ids), None, 20.0))
    return ids


def _run(root: Path, number: int, metrics: Path | None, seconds: float) -> str:
    record = RunRecord.start(root, "repro")
    aside = record.path.with_name(f"2026010{number + 1}-000000-0000")  # ids are times: those of one second do not sort
    record.path.rename(aside)
    record = RunRecord(aside, {**record._row, "run_id": aside.name})
    record.stage("train@des", "ran", seconds, "cpu")
    record.stage("world", "up_to_date")
    with record._lock:
        record._write("runs", [record._row])
    if metrics:
        record.finish("completed", metrics)
    return aside.name


def test_changes_compares_the_last_two_completed_runs(finished: Path, logged: list[str]) -> None:
    rows = ask(finished, "SELECT name, before, after, apart, before_run, after_run FROM changes")
    assert rows == [
        ("asr", 0.5, 0.1, True, logged[0], logged[1]), ("zero_shot", 0.9, 0.9, False, logged[0], logged[1]),
    ]  # fmt: skip
    back = ask(finished, "SELECT name, difference FROM changes", before=logged[1], after=logged[0])
    assert back[0] == ("asr", pytest.approx(0.4))
    with pytest.raises(NearsafeError, match="no run other with numbers"):
        ask(finished, "FROM changes", before="other")


def test_changes_in_sql_are_those_in_python(finished: Path, logged: list[str]) -> None:
    sides = [
        ask(finished, f"SELECT * EXCLUDE (collection, run_id) FROM run_metrics WHERE run_id = '{run}' ORDER BY name")
        for run in logged[:2]
    ]
    names = ("defence", "seed", "name", "value", "ci_low", "ci_high", "n")
    before, after = ([dict(zip(names, row, strict=True)) for row in side] for side in sides)
    assert after == metrics_rows(finished.parent / "metrics.json")
    asked = query(connect(finished), "SELECT defence, seed, name, before, after, difference, apart FROM changes")
    found = [dict(zip(asked.columns, row, strict=True)) for row in asked.rows]
    assert sorted(found, key=lambda row: row["name"]) == changes(before, after)


def test_stages_and_runs(finished: Path, logged: list[str]) -> None:
    slow = ask(finished, "SELECT stage, last_seconds, median_seconds, most_seconds, ran, spared FROM slowest_stages")
    assert slow == [("train@des", 20.0, 20.0, 30.0, 3, 0), ("world", None, None, None, 0, 3)]
    runs = ask(finished, "SELECT run_id, state, ran, up_to_date FROM recent_runs")
    assert runs == [
        (logged[2], "running", 1, 1), (logged[1], "completed", 1, 1), (logged[0], "completed", 1, 1),
    ]  # fmt: skip


def test_logs_that_are_old_or_damaged_stop_no_question(finished: Path, logged: list[str]) -> None:
    files = {run: Data(finished).runs / run / table_file("stage_runs") for run in logged}
    for run in logged[:2]:
        pq.write_table(pq.read_table(files[run]).drop_columns(["peak_mb"]), files[run])
    files[logged[2]].write_bytes(b"PAR1 damaged PAR1")
    slow = ask(finished, "SELECT stage, ran, last_peak_mb FROM slowest_stages")
    assert slow == [("train@des", 2, None), ("world", 0, None)]
    assert len(ask(finished, "SELECT run_id FROM recent_runs")) == 3


def test_filters_and_drops_counts_errors_beside_filters(tmp_path: Path) -> None:
    for defence in ("a", "b"):
        made = Output(Data(tmp_path).generations(defence), {})
        row = {"stage": "generate", "set": "s", "filter": "age_words", "version": "1", "n_before": 5, "n_dropped": 2}
        made.write(table_file("filters"), "filters", [{**row, "n_after": 3}])
        made.write(table_file("generations"), "generations", [generation_row(f"{defence}-0", defence, "u0", "s")])
        made.finish()
        scored = Output(Data(tmp_path).scores(defence), {})
        errors = score_row(defence, "generation/s", "", "errors", 1.0, n=3, ci_low=None, ci_high=None)
        scored.write(table_file("scores"), "scores", [errors])
        scored.finish()
    found = ask(tmp_path, "SELECT stage, filter, n_before, n_dropped, n_after, outputs FROM filters_and_drops")
    assert found == [
        ("generate", "age_words", 5, 2, 3, "generations/a, generations/b"),
        ("score", "errors", 3, 1, 2, "scores/a, scores/b"),
    ]


def test_sql_that_older_duckdb_lacks_is_not_used() -> None:
    """The views file is for any DuckDB 1.x: `if()` came later."""
    assert not [file for file in SQL.rglob("*.sql") if "IF(" in file.read_text(encoding="utf-8")]
