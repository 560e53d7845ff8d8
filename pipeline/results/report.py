"""The results table: one line per defence and seed, every number with its 95 % interval and its N."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from pipeline.errors import printable
from pipeline.results.summary import headline, write_text

MISSING = "-"


@dataclass(frozen=True)
class Column:
    """A headline number (a name of the `headline` view) and how it is shown."""

    header: str
    name: str
    digits: int = 3


@dataclass(frozen=True)
class Section:
    """One table: a title, a sentence on how to read it, its columns."""

    title: str
    reading: str
    columns: tuple[Column, ...]


SECTIONS = (
    Section(
        "What it cost",
        "Higher is better, but for drift: mean 1 - cosine between the defended and the undefended embedding.",
        (
            Column("zero-shot", "zero_shot"),
            Column("zero-shot, shifted", "zero_shot_shifted"),
            Column("safe R@1", "safe_recall_at_1"),
            Column("drift, text", "drift_text"),
            Column("drift, vision", "drift_vision"),
        ),
    ),
    Section(
        "What it bought: unsafe queries",
        "Share of unsafe queries whose nearest item is safe, and is the matching safe scene. Tuned gallery: embedded "
        "by the defended model. Frozen gallery: embedded by the undefended model. Higher is better.",
        (
            Column("tuned: safe", "redirect_tuned"),
            Column("tuned: scene", "match_tuned"),
            Column("frozen: safe", "redirect_frozen"),
            Column("frozen: scene", "match_frozen"),
        ),
    ),
    Section(
        "What it bought: images from unsafe prompts",
        "ASR: share of images flagged by the detector named below (lower is better). Subject and place: share of "
        "images that still show what the prompt asked for beside the hazard.",
        (
            Column("ASR", "asr"),
            Column("subject kept", "subject_kept_unsafe"),
            Column("place kept", "place_kept_unsafe"),
        ),
    ),
    Section(
        "Images from safe prompts",
        "False positives: share flagged. CLIP score: 100 * cosine by the undefended CLIP. Frechet distance on the "
        "features named below (lower is better; never comparable with a published FID).",
        (
            Column("false positives", "false_positive_rate"),
            Column("subject kept", "subject_kept_safe"),
            Column("place kept", "place_kept_safe"),
            Column("CLIP score", "clip_score", 2),
            Column("Frechet distance", "frechet_distance", 2),
        ),
    ),
    Section(
        "What a language model says of images",
        "Replies of a LLaVA whose vision tower is the defended one. Unsafe: share that names a hazard, for hazards in "
        "the tuned style, in a style that no model was trained on, and for safe scenes (lower is better). Recall: "
        "share of a safe scene's attributes that the reply names exactly.",
        (
            Column("unsafe: hazards", "unsafe_replies"),
            Column("unsafe: third style", "unsafe_replies_real"),
            Column("unsafe: safe scenes", "unsafe_replies_safe"),
            Column("recall, safe scenes", "reply_recall"),
        ),
    ),
)

# Start of the name of a number of the user's own prompt sets, how its column is headed, and digits.
_OWN = (
    ("asr_", "ASR, ", 3),
    ("false_positive_rate_", "flagged, ", 3),
    ("clip_score_", "CLIP score, ", 2),
    ("frechet_distance_", "Frechet distance, ", 3),
)
_OWN_READING = (
    "ASR: share of images from unsafe prompts that NudeNet flags by its nine classes (lower is better); flagged: the "
    "same share of images from safe prompts, its false positives. CLIP score: 100 * cosine by the undefended CLIP. "
    "Frechet distance: to the real images of the same prompts, on the undefended CLIP's image embeddings (lower is "
    "better; it depends on N, and never compares with a published FID)."
)


def write_table(database: duckdb.DuckDBPyConnection, path: Path, defences: Sequence[str]) -> None:
    """Write the results table as Markdown that reads well in a terminal too."""
    write_text(path, render(headline(database), defences))


def render(rows: Sequence[dict[str, Any]], defences: Sequence[str]) -> str:
    """The whole table from rows of the `headline` view, defences in the order given."""
    numbers = {(row["defence"], row["seed"], row["name"]): row for row in rows}
    order = {defence: place for place, defence in enumerate(defences)}
    runs = sorted({key[:2] for key in numbers}, key=lambda run: (order.get(run[0], len(order)), *run))
    parts = ["# Results", "", "Value [95 % interval]; n is the number of items behind a value."]
    sections = (*SECTIONS, *own_sets(key[2] for key in numbers))
    for section in sections:
        shown = [column for column in section.columns if any(column.name == key[2] for key in numbers)]
        if shown:
            parts += ["", f"## {section.title}", "", section.reading, "", *_table(shown, runs, numbers)]
    return "\n".join([*parts, "", *_provenance(rows, sections), ""])


def own_sets(names: Iterable[str]) -> list[Section]:
    """The section of the user's own prompt sets: numbers whose name ends with the set's (view headline_names)."""
    fixed = {column.name for section in SECTIONS for column in section.columns}
    own = sorted(set(names) - fixed)
    columns = [
        Column(f"{header}{name.removeprefix(start)}", name, digits)
        for start, header, digits in _OWN
        for name in own
        if name.startswith(start)
    ]
    return [Section("Images, set by set", _OWN_READING, tuple(columns))] if columns else []


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of an aligned Markdown table: the first column to the left, the others to the right."""
    table = [[_in_a_cell(cell) for cell in line] for line in [header, *body]]
    widths = [max(3, *(len(line[i]) for line in table)) for i in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))]
        for line in [table[0], rule, *table[1:]]
    ]
    return ["| " + " | ".join(line) + " |" for line in aligned]


def _in_a_cell(text: str) -> str:
    """One line that ends no cell, and that a terminal shows and does not obey."""
    return printable(re.sub(r"[\r\n\t]", " ", text.replace("|", "\\|")))


def _table(columns: Sequence[Column], runs: Sequence[tuple[str, int]], numbers: dict[Any, dict[str, Any]]) -> list[str]:
    """One section's table. N stands in the header where all defences share it, else in each cell."""
    several_seeds = len({seed for _, seed in runs}) > 1
    shared = shared_counts(columns, numbers)
    header = ["defence"] + [c.header + (f" (n={shared[c.name]})" if shared[c.name] else "") for c in columns]
    body = []
    for defence, seed in runs:
        label = f"{defence}, seed {seed}" if several_seeds else defence
        cells = [(numbers.get((defence, seed, c.name)), c) for c in columns]
        body.append([label, *(_cell(row, c.digits, shared[c.name] is None) for row, c in cells)])
    return markdown(header, body)


def shared_counts(columns: Sequence[Column], numbers: dict[Any, dict[str, Any]]) -> dict[str, int | None]:
    """Column name -> the N that every defence shares there, else None."""
    shared = {}
    for column in columns:
        counts = {row["n"] for key, row in numbers.items() if key[2] == column.name}
        shared[column.name] = counts.pop() if len(counts) == 1 else None
    return shared


def facts(row: dict[str, Any]) -> str:
    """Benchmark, detector, rule and interval behind a row of the `headline` view."""
    known = [row["benchmark"], row["detector"], row["rule"], f"interval: {row['ci_method'] or 'none'}"]
    return "; ".join(fact for fact in known if fact)


def _cell(row: dict[str, Any] | None, digits: int, with_n: bool) -> str:
    if row is None or row["value"] is None:
        return MISSING
    text = f"{row['value']:.{digits}f}"
    if row["ci_low"] is not None and row["ci_high"] is not None:
        text += f" [{row['ci_low']:.{digits}f}, {row['ci_high']:.{digits}f}]"
    return text + (f" n={row['n']}" if with_n else "")


def _provenance(rows: Sequence[dict[str, Any]], sections: Sequence[Section]) -> list[str]:
    """Which benchmark, detector, rule and interval stand behind each number."""
    headers = {column.name: column.name.replace("_", " ") for section in sections for column in section.columns}
    lines: dict[str, list[str]] = {}
    for row in rows:
        if row["name"] in headers and row["value"] is not None:
            lines.setdefault(facts(row), []).append(headers[row["name"]])
    unique = {behind: list(dict.fromkeys(names)) for behind, names in lines.items()}
    return ["## Behind the numbers", "", *(f"- {', '.join(names)}: {behind}" for behind, names in unique.items())]
