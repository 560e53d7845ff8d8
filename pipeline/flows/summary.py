"""What a flow shows at its end, as Markdown: its stages, the results and what changed since the last run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.runs import StageState, changes

LABELS: dict[StageState, str] = {
    "ran": "Ran",
    "cached": "Cached",
    "up_to_date": "Up to date",
    "failed": "Failed",
    "not_run": "Not run",
}
# Names of headline numbers of which less is better; all others are better when higher.
_LOWER = ("asr", "drift", "false_positive", "frechet", "unsafe_replies")


@dataclass(frozen=True)
class Ended:
    """What became of one stage."""

    state: StageState
    seconds: float | None = None
    device: str | None = None
    reason: str | None = None
    peak_mb: float | None = None


def stage_rows(stages: Sequence[str], ended: Mapping[str, Ended]) -> list[dict[str, str]]:
    """One row per stage, in the order of the graph, for a table artifact."""
    rows = []
    for name in stages:
        end = ended[name]
        seconds = "" if end.seconds is None else f"{end.seconds:.1f}"
        peak = "" if end.peak_mb is None else f"{end.peak_mb:.0f}"
        reason = (end.reason or "").splitlines()
        rows.append(
            {"stage": name, "state": LABELS[end.state], "seconds": seconds, "peak MiB": peak,
             "device": end.device or "", "reason": " ".join(reason[-2:])}
        )  # fmt: skip
    return rows


def totals(ended: Mapping[str, Ended]) -> str:
    """ "3 ran, 1 failed": how many stages are in which state."""
    states = [end.state for end in ended.values()]
    return ", ".join(f"{states.count(state)} {LABELS[state].lower()}" for state in LABELS if state in states)


def changed_section(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> str:
    """Headline numbers that moved between two sets of metrics rows. Where intervals are apart, the row says so."""
    if not before or not after:
        return "## Changes\n\nNo earlier numbers to compare with."
    rows = changes(before, after)
    moved = [row for row in rows if row["before"] != row["after"]]
    if not moved:
        return f"## Changes\n\nNone of {len(rows)} headline numbers moved."
    moved.sort(key=lambda row: (_verdict(row) != "worse", not row["apart"]))
    apart = sum(row["apart"] for row in moved)
    marks = {"worse": "🔴 **worse**", "better": "🟢 **better**", "": ""}
    old, new = ({(row["defence"], row["seed"], row["name"]): row for row in side} for side in (before, after))
    lines = [
        "## Changes",
        "",
        f"{len(moved)} of {len(rows)} headline numbers moved; of {apart} the 95 % intervals are apart.",
        "",
        "| | defence | seed | number | before | after | difference |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in moved:
        key = row["defence"], row["seed"], row["name"]
        difference = "-" if row["difference"] is None else f"{row['difference']:+.3f}"
        cells = (marks[_verdict(row)], *key, _number(old.get(key)), _number(new.get(key)), difference)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def results_section(table: str, report: str | None) -> str:
    """The results table as the last stage wrote it, below a link to the report."""
    link = f"[Open the report]({report})" if report and report.startswith("http") else f"Report: `{report}`"
    return "\n\n".join(["## Results", *([link] if report else []), table.strip() or "No results table yet."])


def _verdict(row: Mapping[str, Any]) -> str:
    """Better or worse, only where the intervals are apart: else the difference may be chance."""
    if not row["apart"] or row["difference"] is None:
        return ""
    lower = any(part in row["name"] for part in _LOWER)
    return "better" if (row["difference"] < 0) == lower else "worse"


def _number(row: Mapping[str, Any] | None) -> str:
    """The value with its interval, where it has one."""
    if row is None or row["value"] is None:
        return "-"
    if row["ci_low"] is None or row["ci_high"] is None:
        return f"{row['value']:.3f}"
    return f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
