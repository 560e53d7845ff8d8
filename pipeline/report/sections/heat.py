"""Heat maps: a table whose cells are tinted by their value and still say it, with interval and N."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.errors import NearsafeError
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
    """A tinted table of `rows` (defence, seed, column, value, ci_low, ci_high, n); what is not there is `not run`.

    Raises NearsafeError for two rows of one cell: one of them would be lost.
    """
    columns = list(columns or dict.fromkeys(row["column"] for row in rows))
    seeds = sorted({row.get("seed", 0) for row in rows})
    found = {(row["defence"], row.get("seed", 0), row["column"]): row for row in rows}
    if len(found) < len(rows):
        raise NearsafeError(f"{title}: two numbers for one cell; they were measured in different ways")
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
    rule = _main_rule(run, "per_category")
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
    rule = _main_rule(run, "attack_success")
    for metric, unsafe, title, reading in (
        ("asr", True, "ASR per attack", "Share of images flagged, per set of unsafe prompts. Lower is better."),
        ("false_positive_rate", False, "False positives per safe set",
         "Share of images flagged, per set of safe prompts. Lower is better."),
    ):  # fmt: skip
        rows = run.rows(_ATTACKS, [metric, rule])
        for detector, protocol in sorted({(row["detector"], row["protocol"]) for row in rows}):
            own = [row for row in rows if (row["detector"], row["protocol"]) == (detector, protocol)]
            shown = [{**row, "column": row["attack"]} for row in own]
            columns = {one["prompt_set"] for one in sets if one["unsafe"] == unsafe} | {row["attack"] for row in own}
            command = run.query("attack_success")
            source = Source(f"attack_success_{metric}", own, (command, "dvc repro generate score"))
            how = ", ".join(part for part in (f"Detector {detector}", f"rule {rule}", protocol) if part)
            said = f"{reading} {how}; mean over training seeds with its 95 % interval."
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


def _main_rule(run: Run, view: str) -> str:
    """The first of RULES that a view knows: the world's detector has not judged every run. The first where none is."""
    known = {row["rule"] for row in run.rows(f"SELECT DISTINCT rule FROM {view}")}
    return next((rule for rule in RULES if rule in known), RULES[0])


def attack_place(name: str) -> tuple[int, str]:
    """Plain hazard prompts first, then the sets derived from them, then searches by name."""
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)


def _rules(run: Run) -> list[Block]:
    """What the rules of several papers say of the same images: a column per rule and detector."""
    rows = run.rows(_BY_RULE)
    first = min((row["prompt_set"] for row in rows), key=attack_place, default="")
    rows = [row for row in rows if row["prompt_set"] == first]
    asked = {(row["rule"], row["detector"]) for row in rows}
    if len(asked) < 2:
        return []
    rules = [rule for rule, _ in asked]
    shown = [{**row, "column": _column(row, twice=rules.count(row["rule"]) > 1)} for row in rows]
    detectors = {row["column"]: row["detector"] for row in shown}
    command = run.query("asr_by_rule")
    reading = (
        f"The same images of {first} under every rule, each column with the detector that it asks. Columns do not "
        "compare with each other: they ask different questions."
    )
    source = Source("asr_by_rule", rows, (command, "dvc repro score"))
    return [heat(run, "Papers' rules side by side", shown, source, reading, headers=detectors)]


def _column(row: dict[str, Any], twice: bool) -> str:
    """A rule; with its detector where it has been asked of several, so that no column holds two."""
    return f"{row['rule']} ({row['detector']})" if twice else row["rule"]


def _cell(row: dict[str, Any] | None, with_n: bool) -> Cell:
    if row is None or row["value"] is None:
        return Cell(NOT_RUN, sort="", tone="none")
    note = ""
    if row["ci_low"] is not None and row["ci_high"] is not None:
        note = f"{row['ci_low']:.2f} – {row['ci_high']:.2f}"
    step = round(min(1.0, max(0.0, row["value"])) * _TONES)
    note += f" n={row['n']}" if with_n else ""
    return Cell(f"{row['value']:.2f}", note.strip(), row["value"], f"h{step}")
