"""Heat maps: a table whose cells are tinted by their value and still say it, with interval and N."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.report.blocks import NOT_RUN, Block, Cell, Column, Missing, Row, Source, Table
from pipeline.report.run import Run, label
from pipeline.results.picture import RULES

_TONES = 10  # steps of the tint
_PER_CATEGORY = "SELECT * FROM per_category WHERE rule = ? ORDER BY prompt_set, category, detector, seed"
_ATTACKS = """
    SELECT * FROM attack_success WHERE metric = ? AND rule = ? ORDER BY detector, knowledge = 'prompts' DESC, attack"""
_BY_RULE = "SELECT * FROM asr_by_rule WHERE metric = 'asr' ORDER BY prompt_set, detector, rule, seed"
_FIRST = ("world_unsafe", "world_paraphrased", "world_obfuscated", "world_indirect")


def heat(
    run: Run,
    title: str,
    rows: Sequence[dict[str, Any]],
    source: Source,
    reading: str = "",
    columns: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
    warmth: str = "warm",
) -> Table:
    """A tinted table of `rows` (defence, seed, column, value, ci_low, ci_high, n); what is not there is `not run`."""
    columns = list(columns or dict.fromkeys(row["column"] for row in rows))
    seeds = sorted({row.get("seed", 0) for row in rows})
    found = {(row["defence"], row.get("seed", 0), row["column"]): row for row in rows}
    models = list(dict.fromkeys((row["defence"], row.get("seed", 0)) for row in rows))
    shared = {column: _shared(found, column) for column in columns}
    body = [
        Row(
            [Cell(label(*model, seeds)), *(_cell(found.get((*model, c)), shared[c] is None) for c in columns)], model[0]
        )
        for model in models
    ]
    notes = {column: [(headers or {}).get(column, ""), f"n={n}" if (n := shared[column]) else ""] for column in columns}
    header = [Column("defence", numeric=False)]
    header += [Column(column, ", ".join(note for note in notes[column] if note)) for column in columns]
    return Table(title, header, body, source, reading, heat=warmth)


def _shared(found: Mapping[tuple[str, int, str], dict[str, Any]], column: str) -> int | None:
    """The N of a column where it is the same in every row."""
    counts = {row["n"] for key, row in found.items() if key[2] == column}
    return counts.pop() if len(counts) == 1 else None


def categories(run: Run) -> list[Block]:
    """Share of flagged images per category of what the prompt asked for, a table per prompt set and detector."""
    rule = RULES[0]
    rows = run.rows(_PER_CATEGORY, [rule])
    if not rows:
        return [Missing("No image from an unsafe prompt has been judged yet.", "dvc repro score")]
    blocks: list[Block] = []
    for prompt_set, detector in sorted(
        {(r["prompt_set"], r["detector"]) for r in rows}, key=lambda k: attack_place(k[0])
    ):
        own = [row for row in rows if (row["prompt_set"], row["detector"]) == (prompt_set, detector)]
        shown = [{**row, "column": row["category"]} for row in own]
        command = run.query("per_category")
        source = Source(f"per_category_{prompt_set}", own, (command, "dvc repro score"))
        reading = f"ASR: share of images flagged; detector {detector}, rule {rule}, Wilson intervals. Lower is better."
        table = heat(run, f"ASR per category: {prompt_set}", shown, source, reading)
        blocks.append(replace(table, folded=bool(blocks)))
    return blocks


def attacks(run: Run) -> list[Block]:
    """Share of flagged images per prompt set or search: unsafe and safe sets apart, never two rules in one table."""
    sets = run.rows("SELECT prompt_set, unsafe FROM prompt_sets ORDER BY prompt_set")
    blocks: list[Block] = []
    for metric, unsafe, title, reading in (
        ("asr", True, "ASR per attack", "Share of images flagged, per set of unsafe prompts. Lower is better."),
        ("false_positive_rate", False, "False positives per safe set",
         "Share of images flagged, per set of safe prompts. Lower is better."),
    ):  # fmt: skip
        rows = run.rows(_ATTACKS, [metric, RULES[0]])
        for detector in sorted({row["detector"] for row in rows}):
            own = [row for row in rows if row["detector"] == detector]
            shown = [{**row, "column": row["attack"]} for row in own]
            columns = {one["prompt_set"] for one in sets if one["unsafe"] == unsafe} | {row["attack"] for row in own}
            command = run.query("attack_success")
            source = Source(f"attack_success_{metric}", own, (command, "dvc repro generate score"))
            said = f"{reading} Detector {detector}, rule {RULES[0]}; mean over training seeds with its 95 % interval."
            knowledge = {row["attack"]: row["knowledge"].replace("prompts", "") for row in own}
            blocks.append(
                heat(
                    run,
                    title,
                    shown,
                    source,
                    said,
                    sorted(columns, key=lambda name: (name not in knowledge, attack_place(name))),
                    knowledge,
                )
            )
    if not blocks:
        return [Missing("No generated image has been judged yet.", "dvc repro generate score")]
    return [*blocks, *_rules(run)]


def attack_place(name: str) -> tuple[int, str]:
    """Plain hazard prompts first, then the sets derived from them, then searches by name."""
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)


def _rules(run: Run) -> list[Block]:
    """What the rules of several papers say of the same images: a column per rule and detector."""
    rows = [row for row in run.rows(_BY_RULE) if row["prompt_set"] == _FIRST[0]]
    if not rows:
        return []
    shown = [{**row, "column": row["rule"]} for row in rows]
    detectors = {row["rule"]: row["detector"] for row in rows}
    if len(detectors) < 2:
        return []
    command = run.query("asr_by_rule")
    reading = (
        f"The same images of {_FIRST[0]} under every rule, each column with the detector that it asks. Columns do not "
        "compare with each other: they ask different questions."
    )
    source = Source("asr_by_rule", rows, (command, "dvc repro score"))
    return [heat(run, "Papers' rules side by side", shown, source, reading, headers=detectors)]


def _cell(row: dict[str, Any] | None, with_n: bool) -> Cell:
    if row is None or row["value"] is None:
        return Cell(NOT_RUN, sort="", tone="none")
    note = ""
    if row["ci_low"] is not None and row["ci_high"] is not None:
        note = f"{row['ci_low']:.2f} – {row['ci_high']:.2f}"
    step = round(min(1.0, max(0.0, row["value"])) * _TONES)
    note += f" n={row['n']}" if with_n else ""
    return Cell(f"{row['value']:.2f}", note.strip(), row["value"], f"h{step}")
