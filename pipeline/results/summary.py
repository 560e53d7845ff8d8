"""Numbers for DVC: the headline metrics as JSON and the tables of its plots as CSV. Deterministic, sorted, rounded."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from pipeline.files import replacing

DIGITS = 4
# One CSV per plot: dvc.yaml names these files and columns.
PLOTS = {
    "tradeoff": """
        SELECT defence || ' (' || gallery || ' gallery)' AS label, defence, seed, gallery, redirection, ci_low, ci_high,
               n, zero_shot, zero_shot_ci_low, zero_shot_ci_high, asr, asr_ci_low, asr_ci_high
        FROM tradeoff ORDER BY defence, seed, gallery""",
    "zero_shot": """
        SELECT defence, seed, shift, task, accuracy, ci_low, ci_high, n FROM zero_shot
        ORDER BY shift, task, defence, seed""",
    "loss": """
        SELECT defence, seed, step, term, value FROM loss_curve ORDER BY defence, seed, term, step""",
    "drift": """
        SELECT defence, seed, epoch, tower, l2, rms FROM drift_curve ORDER BY defence, seed, tower, epoch""",
    "bucket_cosines": """
        SELECT difficulty, target, bin, pairs, share FROM bucket_cosines ORDER BY difficulty, target, bin""",
    "alignment": """
        SELECT given, nearest, difficulty, tightness FROM alignment ORDER BY pair_id""",
}


def headline(database: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Rows of the `headline` view: defence, seed, name, value, ci_low, ci_high, n, ci_method, detector, rule."""
    return database.sql("SELECT * FROM headline ORDER BY defence, seed, name").to_arrow_table().to_pylist()


def projections(database: duckdb.DuckDBPyConnection, defences: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of table `projections`, defences in the order given."""
    rows = database.sql("SELECT * FROM projections ORDER BY seed, prompt_id, model").to_arrow_table().to_pylist()
    return sorted(rows, key=lambda row: list(defences).index(row["defence"]))


def metrics(rows: Sequence[dict[str, Any]], defences: Sequence[str]) -> dict[str, Any]:
    """`{defence: {"seed_0": {number: {value, ci_low, ci_high, n}}}}`, defences in the order given."""
    nested: dict[str, Any] = {defence: {} for defence in defences}
    for row in rows:
        number = {key: _rounded(row[key]) for key in ("value", "ci_low", "ci_high", "n")}
        nested.setdefault(row["defence"], {}).setdefault(f"seed_{row['seed']}", {})[row["name"]] = number
    return {defence: seeds for defence, seeds in nested.items() if seeds}


def write_metrics(database: duckdb.DuckDBPyConnection, path: Path, defences: Sequence[str]) -> None:
    """Write the headline numbers for `dvc metrics`."""
    write_text(path, json.dumps(metrics(headline(database), defences), indent=1) + "\n")


def write_plots(database: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Write one CSV per DVC plot into `folder`."""
    for name, sql in PLOTS.items():
        answer = database.sql(sql).to_arrow_table()
        with replacing(folder / f"{name}.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(answer.schema.names)
            writer.writerows([_rounded(value) for value in row.values()] for row in answer.to_pylist())


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _rounded(value: Any) -> Any:
    return round(value, DIGITS) if isinstance(value, float) else value
