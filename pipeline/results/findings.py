"""A finished study becomes tables in docs/findings.md, the same numbers as CSV, and figures beside the page."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import duckdb

from pipeline.errors import NearsafeError
from pipeline.files import replacing
from pipeline.params import build, load, lookup
from pipeline.results import frontiers, image_studies, studies
from pipeline.results.database import connect
from pipeline.results.figures import write_drift, write_frontiers
from pipeline.results.page import fill_file
from pipeline.results.sources import find_sources

Study = Literal["ablation", "frontier", "des_ablation", "attack"]
STUDIES: tuple[Study, ...] = get_args(Study)
KNOWN = (
    *(table.name for table in (*studies.ABLATION, *image_studies.DES_ABLATION)),
    "frontier",
    "frontier_measures",
    "des_published",
    *image_studies.ATTACK_TABLES,
)
FIGURES = {"frontier": Path("images", "frontier.png"), "ablation": Path("images", "drift.png")}  # beside the page
# Where the labels of a study are in params.yaml: the keys of this section, in their order.
_SECTIONS = {"ablation": "ablations", "des_ablation": "des_ablations", "attack": "attack.grid"}
_DIGITS = 6


@dataclass(frozen=True)
class Sweep:
    """Section `frontier`: which defences at which settings; `run` holds the training seeds, as `--seeds` takes them."""

    defences: tuple[str, ...]
    settings: tuple[str, ...]
    run: dict[str, list[int]]


def write_findings(
    params: Path, study: Study, data: Path, page: Path, out: Path, report: Callable[[str], None]
) -> None:
    """Fill the blocks of a study in `page` and write its numbers below `out`.

    Where nothing of the study has been scored, nothing is changed, and `report` is told so; the other studies' blocks
    are never touched. Raises NearsafeError for a page with a broken or unknown marker.
    """
    labels = _labels(params, study)
    fill_file(page, {}, KNOWN)  # a broken page is an error before any work
    if not any((data / "scores" / label).is_dir() for label in labels):
        target = study.replace("_", "-")
        report(f"{study}: nothing scored below {data} yet; `make {target}` runs the study. {page} keeps its tables")
        return
    scored = {source.path.parent.name for source in find_sources(data, labels) if source.table == "scores"}
    missing = [label for label in labels if label not in scored]
    report(f"{study}: {len(labels) - len(missing)} of {len(labels)} scored" + _named(missing))
    tables, rows = _frontier(params, data, labels) if study == "frontier" else _pooled(study, data, labels)
    for name, lines in rows.items():
        _write_csv(out / f"{name}.csv", lines)
    if study == "frontier":
        write_frontiers(rows["points"], page.parent / FIGURES[study])
    elif study == "ablation" and (curve := drift_curve(connect(data, labels, verify=True), labels)):
        write_drift(curve, page.parent / FIGURES[study])
    homeless = fill_file(page, tables, KNOWN)
    report(f"{study}: {', '.join(tables)} written to {page}" + _named(homeless, "; no marker for"))


def drift_curve(database: duckdb.DuckDBPyConnection, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of view `drift_curve`, defences in the order of `labels`."""
    rows = database.sql("SELECT * FROM drift_curve ORDER BY tower, seed, epoch").to_arrow_table().to_pylist()
    return sorted(rows, key=lambda row: list(labels).index(row["defence"]))


def _pooled(study: Study, data: Path, labels: Sequence[str]) -> tuple[dict[str, str], dict[str, list[dict]]]:
    """Markdown and rows of the study's tables whose numbers have been scored."""
    database = connect(data, labels, verify=True)
    if study == "ablation":
        wanted = studies.ABLATION
    else:
        wanted = image_studies.DES_ABLATION if study == "des_ablation" else image_studies.attack_tables(database)
    tables, rows = {}, {}
    for table in wanted:
        if found := studies.numbers(database, table):
            tables[table.name] = studies.render(table, found, labels)
            rows[table.name] = studies.as_rows(table, found, labels)
    if study == "des_ablation":
        tables["des_published"] = image_studies.published(database)
    return tables, rows


def _frontier(params: Path, data: Path, labels: Sequence[str]) -> tuple[dict[str, str], dict[str, list[dict]]]:
    values, knobs = load(params), _sweep(params)
    database = connect(data, labels, verify=True)
    replicates, root = values["score"]["bootstrap"], values["seed"]
    swept = frontiers.sweep(database, knobs.defences, knobs.settings, replicates, root)
    seeds = [row[0] for row in database.execute("SELECT DISTINCT seed FROM outcomes ORDER BY seed").fetchall()]
    return frontiers.render(swept, frontiers.sizes(database), seeds), {"points": frontiers.points(swept)}


def _labels(params: Path, study: Study) -> list[str]:
    """What a study scores, in the order of params.yaml. Raises NearsafeError for a missing section."""
    if study in _SECTIONS:
        entries = lookup(params, _SECTIONS[study])
        if not isinstance(entries, dict) or not entries:
            raise NearsafeError(f"{params}: no entries in section {_SECTIONS[study]!r}")
        return list(entries)
    knobs = _sweep(params)
    return [frontiers.ORIGINAL, *(f"{d}+{setting}" for d in knobs.defences for setting in knobs.settings)]


def _sweep(params: Path) -> Sweep:
    return build(Sweep, load(params).get("frontier"), f"{params}: frontier")


def _named(names: Sequence[str], before: str = "; missing:") -> str:
    return f"{before} {', '.join(names)}" if names else ""


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: round(v, _DIGITS) if isinstance(v, float) else v for k, v in row.items()})
