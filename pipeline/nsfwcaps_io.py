"""NSFWCaps in its published columns (`image_coco_url, caption, nsfw_caption, chosen_category`), in and out.

python -m pipeline.nsfwcaps_io export --nsfwcaps data/nsfwcaps --split benchmark --file nsfwcaps.csv
python -m pipeline.nsfwcaps_io import --file nsfwcaps.parquet --split benchmark --out data/nsfwcaps

The suffix of the file says CSV or Parquet. The age-word filter reads all four cells of an imported row,
the address too.
"""

import argparse
import csv
import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.agewords import LEXICON_VERSION, filter_age_words
from pipeline.errors import NearsafeError, TableError, run
from pipeline.files import replacing
from pipeline.ids import content_id
from pipeline.layout import table_file
from pipeline.nsfwcaps_card import Facts, write_card
from pipeline.tables import Output, read_output

COLUMNS = ("image_coco_url", "caption", "nsfw_caption", "chosen_category")
SOURCE, STAGE = "nsfwcaps/published", "nsfwcaps_io"
Row = dict[str, Any]
_RULES = """\
- The texts are the file's own: the wording rules of `build_nsfwcaps` were not applied to them.
- The age-word filter read every caption, category and address; a match dropped the whole row. It has no switch."""


def import_published(path: Path, split: str = "benchmark") -> dict[str, list[Row]]:
    """Rows of captions, images (URLs only), pairs and filters from a file in the published columns.

    There are no unsafe images (`unsafe_image_id` null); a row without URL has no safe image either. Raises TableError
    naming file, column and row (from 0) for a missing column, an empty text, equal captions and what is no URL.
    """
    rows = _read(Path(path))
    for number, row in enumerate(rows):
        _check(Path(path), number, row)
    refused = filter_age_words([row[name] for name in COLUMNS] for row in rows)
    kept = [row for row, bad in zip(rows, refused, strict=True) if not bad]
    once = list({tuple(row.values()): row for row in kept}.values())
    filters = [
        _count(split, "00_age_words", f"lexicon {LEXICON_VERSION}", len(rows), len(kept)),
        _count(split, "01_duplicate", "1", len(kept), len(once)),
    ]
    if not once:
        raise NearsafeError(f"{path}: no row is left of {len(rows)}: age words {len(rows)} -> {len(kept)}")
    return {**_tables(once, split), "filters": filters}


def export_published(output: Path, split: str = "benchmark") -> pa.Table:
    """One split of an output of `build_nsfwcaps` in the published columns, in order of its pairs.

    `image_coco_url` is null where the safe image is bytes or absent. Raises NearsafeError for a split without pairs.
    """
    pairs = read_output(output, "pairs")
    chosen = pairs.filter(pc.equal(pairs["split"], split)).to_pylist()
    if not chosen:
        known = ", ".join(sorted(set(pairs["split"].to_pylist())))
        raise NearsafeError(f"{output}: pairs: no row of split {split!r}; splits: {known}")
    captions = read_output(output, "captions")
    texts = dict(zip(captions["caption_id"].to_pylist(), captions["text"].to_pylist(), strict=True))
    urls: dict[str | None, str | None] = {}
    if any(pair["safe_image_id"] is not None for pair in chosen):
        images = read_output(output, "images")
        paths = pc.struct_field(images["image"], "path").to_pylist()
        urls = {i: p for i, p in zip(images["image_id"].to_pylist(), paths, strict=True) if _is_url(p)}
    for row, pair in enumerate(chosen):
        for column in ("safe_caption_id", "unsafe_caption_id"):
            if pair[column] not in texts:
                raise TableError(f"{output}: pairs: column {column!r}, row {row}: {pair[column]!r} is not in captions")
    values = [
        [urls.get(pair["safe_image_id"]) for pair in chosen],
        [texts[pair["safe_caption_id"]] for pair in chosen],
        [texts[pair["unsafe_caption_id"]] for pair in chosen],
        [pair["category"] for pair in chosen],
    ]
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(COLUMNS, values, strict=True)})


def write_published(table: pa.Table, file: Path) -> None:
    """Write an exported table as CSV or Parquet, by the suffix of `file`: temporary file, then rename."""
    kind = _kind(file)
    with replacing(file) as temporary:
        if kind == "parquet":
            pq.write_table(table, temporary, compression="zstd")
            return
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(zip(*(table[name].to_pylist() for name in COLUMNS), strict=True))


def write_import(file: Path, split: str, out: Path) -> list[Row]:
    """Import `file` into output directory `out`, with a data card; the rows of table "filters"."""
    tables = import_published(file, split)
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    output = Output(out, {"stage": STAGE, "file_sha256": digest, "split": split})
    for name, rows in tables.items():
        if rows:
            output.write(table_file(name), name, rows)
    made = {"file": f"{Path(file).name}, sha256 {digest[:16]}", "unsafe images": "none"}
    facts = Facts("NSFWCaps, imported from its published columns", made, _RULES)
    output.add_file(write_card(out, facts, tables["pairs"], tables["captions"], tables["filters"]))
    output.finish()
    return tables["filters"]


def _tables(rows: list[Row], split: str) -> dict[str, list[Row]]:
    captions: dict[str, Row] = {}
    images: dict[str, Row] = {}
    pairs: dict[str, Row] = {}
    for row in rows:
        url, safe, unsafe, category = (row[name] for name in COLUMNS)
        shared = {"source": SOURCE, "split": split}
        family = content_id(url or safe)
        ids = [
            content_id(SOURCE, split, url or "", kind, text, prefix="c") for kind, text in (("s", safe), ("u", unsafe))
        ]
        for caption_id, text, bad in zip(ids, (safe, unsafe), (False, True), strict=True):
            found = {"caption_id": caption_id, "text": text, "unsafe": bad, "category": category if bad else None}
            captions.setdefault(caption_id, {**found, **shared, "family": family})
        image_id = content_id(SOURCE, split, url, prefix="i") if url else None
        if image_id:
            cell = {"image_id": image_id, "image": {"bytes": None, "path": url}, "unsafe": False}
            images.setdefault(image_id, {**cell, **shared, "caption_id": ids[0]})
        pair_id = content_id(*ids, category, prefix="p")
        pairs[pair_id] = {
            "pair_id": pair_id,
            "safe_caption_id": ids[0],
            "safe_image_id": image_id,
            "unsafe_caption_id": ids[1],
            "unsafe_image_id": None,
            "category": category,
            "split": split,
            "tightness": None,
            "similarity": None,
        }
    return {"captions": list(captions.values()), "images": list(images.values()), "pairs": list(pairs.values())}


def _check(path: Path, number: int, row: Row) -> None:
    for name in COLUMNS[1:]:
        if not (row[name] or "").strip():
            raise TableError(f"{path}: column {name!r}, row {number}: empty where a text is required")
    if row["caption"].strip() == row["nsfw_caption"].strip():
        raise TableError(f"{path}: column 'nsfw_caption', row {number}: the same text as in column 'caption'")
    if row["image_coco_url"] is not None and not _is_url(row["image_coco_url"]):
        raise TableError(
            f"{path}: column 'image_coco_url', row {number}: {row['image_coco_url']!r:.80} is no http(s) address"
        )


def _read(path: Path) -> list[Row]:
    """Rows with the published columns as text or None; further columns are ignored."""
    rows = _read_parquet(path) if _kind(path) == "parquet" else _read_csv(path)
    if not rows:
        raise TableError(f"{path}: the table is empty")
    return rows


def _read_parquet(path: Path) -> list[Row]:
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from error
    _check_header(path, table.schema.names)
    for name in COLUMNS:
        given = table.schema.field(name).type
        if not (pa.types.is_string(given) or pa.types.is_large_string(given) or pa.types.is_null(given)):
            raise TableError(f"{path}: column {name!r} has type {given}, expected string")
    return [{name: row[name] or None for name in COLUMNS} for row in table.select(list(COLUMNS)).to_pylist()]


def _read_csv(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header, *lines = list(csv.reader(stream, strict=True)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: not a readable CSV file: {error}") from error
    _check_header(path, header)
    at = [header.index(name) for name in COLUMNS]
    rows = []
    for number, line in enumerate(lines):
        if len(line) != len(header):
            raise TableError(f"{path}: row {number}: {len(line)} cells, the header has {len(header)}")
        rows.append({name: line[i] or None for name, i in zip(COLUMNS, at, strict=True)})
    return rows


def _check_header(path: Path, names: list[str]) -> None:
    for name in COLUMNS:
        if names.count(name) != 1:
            found = ", ".join(names) or "no columns"
            raise TableError(f"{path}: column {name!r} appears {names.count(name)} times, expected once; found {found}")


def _kind(file: Path) -> str:
    kind = file.suffix.lower().lstrip(".")
    if kind not in ("csv", "parquet"):
        raise NearsafeError(f"{file}: expected a file that ends in .csv or .parquet")
    return kind


def _is_url(text: str | None) -> bool:
    return text is not None and text.startswith(("http://", "https://"))


def _count(split: str, name: str, version: str, before: int, after: int) -> Row:
    counts = {"n_before": before, "n_dropped": before - after, "n_after": after}
    return {"stage": STAGE, "set": f"nsfwcaps/{split}", "filter": name, "version": version, **counts}


def main(command: str, file: Path, split: str, nsfwcaps: Path | None = None, out: Path | None = None) -> None:
    """Export a split to a file, or import a file into an output directory."""
    if command == "export" and nsfwcaps is not None:
        table = export_published(nsfwcaps, split)
        write_published(table, file)
        print(f"nsfwcaps_io: {file}: {table.num_rows} rows of split {split}")
    elif out is not None:
        for row in write_import(file, split, out):
            print(f"nsfwcaps_io: {row['filter']}: {row['n_before']} -> {row['n_after']} ({row['version']})")


def parser() -> argparse.ArgumentParser:
    """Command line: `export` and `import`."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = arguments.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("export", help="an output directory to a file in the published columns")
    writing.add_argument("--nsfwcaps", type=Path, required=True, help="output of the build_nsfwcaps stage")
    reading = commands.add_parser("import", help="a file in the published columns to an output directory")
    reading.add_argument("--out", type=Path, required=True)
    for command in (writing, reading):
        command.add_argument("--file", type=Path, required=True, help="a .csv or .parquet file")
        command.add_argument("--split", default="benchmark")
    return arguments


if __name__ == "__main__":
    run(main, parser())
