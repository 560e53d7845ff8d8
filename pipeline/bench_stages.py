"""What a run of the pipeline took, read off the log of runs: seconds and peak memory of every stage."""

import statistics
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline.layout import Data
from pipeline.runs import read_log, read_runs


def stage_rows(data: Path, machine: str) -> list[dict[str, Any]]:
    """A row per program of the newest completed run below `data` that ran it: of its stages (one per defence, say) the
    median seconds, their sum, and the most memory (MiB) of any. `machine`: the one that the log is of.
    """
    found: dict[str, dict[str, Any]] = {}
    for run in read_runs(data):
        if run["state"] != "completed":
            continue
        stages = [row for row in read_log(Data(data).runs / run["run_id"], "stage_runs") if row["state"] == "ran"]
        for program, group in groupby(sorted(stages, key=lambda row: row["stage"]), lambda row: _program(row["stage"])):
            own = list(group)
            seconds = [row["seconds"] for row in own if row["seconds"] is not None]
            peaks = [row["peak_mb"] for row in own if row["peak_mb"] is not None]
            if seconds and peaks:
                found.setdefault(program, {
                    "title": program, "n": len(own),
                    "seconds": statistics.median(seconds), "total_seconds": sum(seconds), "peak_mib": max(peaks),
                    "machine": machine, "date": run["started"][:10],
                    "command": f"nearsafe {'flow run' if run['kind'] == 'flow' else 'repro'}",
                })  # fmt: skip
    return list(found.values())


def _program(stage: str) -> str:
    return stage.partition("@")[0]
