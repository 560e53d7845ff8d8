"""Streams the user's data sets into the tables of the `world` stage: bounded memory, resumable, every drop counted."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.agewords import LEXICON_VERSION
from pipeline.errors import NearsafeError, TableError, reason
from pipeline.files import replacing
from pipeline.layout import table_file
from pipeline.models.hashing import source_hash
from pipeline.params import to_spec
from pipeline.sources.convert import AGE_WORDS, DUPLICATE, SPLIT_OVERLAP, Converter
from pipeline.sources.protocol import Drops
from pipeline.sources.registry import Entry, SourcesParams
from pipeline.sources.segments import Segments, fingerprint

STAGE = "world"
REPORT = "dropped.txt"
_ENOUGH = 1000  # rows after which the share of broken ones is looked at
_BATCH = 64  # records whose images are checked at once
_PROGRESS = 50  # segments between two lines
Log = Callable[[str], None]


def ingest(knobs: SourcesParams, entries: list[Entry], out: Path, log: Log) -> None:
    """Write captions, images, pairs, classes, labels, prompts, origins and filters of all entries to `out`.

    Beside them `dropped.txt`, the reasons and places of what was dropped. An interrupted run of the same parameters and
    files goes on. Raises NearsafeError where a source leaves nothing, TableError naming file, column and row where more
    than `knobs.max_broken` of its rows are broken, and what the source raises.
    """
    if not knobs.root.is_dir():
        raise NearsafeError(f"sources.root: {knobs.root}: no such folder")
    spec = {"stage": STAGE, "sources": to_spec(knobs)}
    own = Path(__file__).parent
    code = source_hash(sorted([*own.rglob("*.py"), *own.rglob("*.yaml")]))
    segments = Segments(out, spec, fingerprint(knobs.root, out, code), knobs.shard_rows)
    try:
        with closing(segments.seen):
            _ingest(knobs, entries, segments, log)
    except sqlite3.Error as error:  # full disk, or an index of an interrupted run that was damaged
        raise NearsafeError(
            f"{out}: the index of what was read: {reason(error)}; delete the folder, run again"
        ) from None
    segments.finish()


def _ingest(knobs: SourcesParams, entries: list[Entry], segments: Segments, log: Log) -> None:
    """Everything but the manifest."""
    if segments.state["segments"]:
        log(f"world: going on after {segments.state['segments']} segments of an interrupted run")
    filters: list[dict[str, Any]] = []
    report: list[str] = []
    for entry in entries:
        kept, drops = _ingest_entry(entry, knobs, segments, log)
        filters += filter_rows(entry.name, kept, drops)
        report += report_lines(entry.name, drops)
        log(f"world: {entry.name}: {kept} of {kept + drops.total()} rows" + _summary(drops))
    segments.output.write(table_file("filters"), "filters", filters)
    if report:
        with replacing(segments.output.path / REPORT) as temporary:
            temporary.write_text("\n".join(report) + "\n", encoding="utf-8")
        segments.output.add_file(REPORT)


def _ingest_entry(entry: Entry, knobs: SourcesParams, segments: Segments, log: Log) -> tuple[int, Drops]:
    """How many records of a source are kept, and what was dropped."""
    progress = segments.state["entries"].get(entry.name, {"records": 0, "kept": 0, "drops": [], "finished": False})
    drops, records, kept = Drops(), 0, progress["kept"]
    if progress["finished"]:
        drops.restore(progress["drops"])
        return kept, drops
    converter = Converter(entry, segments.seen, drops)
    found = entry.source.rows(knobs.root, drops)
    for _ in islice(found, progress["records"]):  # of finished segments: read again, and no more
        records += 1
    if records:
        drops.restore(progress["drops"])
    while batch := list(islice(found, min(_BATCH, knobs.shard_rows))):
        records += len(batch)
        for made in converter.convert(batch):
            kept += bool(made)
            segments.add(made)
        _check_broken(entry, kept, drops, knobs.max_broken, at_least=_ENOUGH)
        if segments.full:
            segments.commit(entry.name, {"records": records, "kept": kept, "drops": drops.state(), "finished": False})
            if segments.state["segments"] % _PROGRESS == 0:
                log(f"world: {entry.name}: {kept + drops.total()} rows so far, {drops.total()} dropped")
    _check_broken(entry, kept, drops, knobs.max_broken)
    if not kept:
        raise NearsafeError(f"sources.entries.{entry.name}: no row is left{_summary(drops) or ': its files have none'}")
    segments.commit(entry.name, {"records": records, "kept": kept, "drops": drops.state(), "finished": True})
    return kept, drops


def _check_broken(entry: Entry, kept: int, drops: Drops, limit: float, at_least: int = 1) -> None:
    """Raises TableError naming the first broken row where more than the share `limit` of all rows is broken."""
    broken, total = drops.total("broken"), kept + drops.total()
    if total >= at_least and broken > limit * total:
        (_, why), places = next((k, v) for k, v in drops.examples.items() if k[0] == "broken")
        raise TableError(
            f"{places[0]}: {why}; {broken} of {total} rows of source {entry.name!r} are broken, "
            f"more than sources.max_broken ({limit:g})"
        )


def filter_rows(name: str, kept: int, drops: Drops) -> list[dict[str, Any]]:
    """Rows of table "filters" of one entry: broken rows, the source's own filters, then those of all sources."""
    shared = (AGE_WORDS, SPLIT_OVERLAP, DUPLICATE)
    own = sorted({given for given, _ in drops.counts} - {"broken", *shared})
    before = kept + drops.total()
    rows = []
    for given in ("broken", *own, *shared):
        versions = sorted({version for filtered, version in drops.counts if filtered == given})
        version = "1" if given == "broken" else ", ".join(versions) or "1"
        dropped = drops.total(given)
        rows.append(
            {
                "stage": STAGE,
                "set": name,
                "filter": given,
                "version": f"lexicon {LEXICON_VERSION}" if given == AGE_WORDS else version,
                "n_before": before,
                "n_dropped": dropped,
                "n_after": before - dropped,
            }
        )
        before -= dropped
    return rows


def report_lines(name: str, drops: Drops) -> list[str]:
    """Reasons, how many rows each, and where the first of them stand; no text of the user's files."""
    lines = []
    for (given, why), count in sorted(drops.counts.items()):
        lines.append(f"{name}: {given}: {why}: {count}")
        lines += [f"  {place}" for place in drops.examples[given, why]]
        if count > len(drops.examples[given, why]):
            lines.append(f"  and {count - len(drops.examples[given, why])} more")
    return lines


def _summary(drops: Drops) -> str:
    """`: 3 broken, 12 age_words`, or nothing."""
    names = sorted({name for name, _ in drops.counts})
    return (": " + ", ".join(f"{drops.total(name)} {name}" for name in names) + " dropped") if names else ""
