"""A benchmark that is there already: the given pairs of the world's own splits, taken over as they are.

For quadruples that the user brings (source `nsfwcaps`, or a split of ViSU): nothing is rewritten, judged or drawn. The
age-word filter reads both captions of a pair once more; a match drops the pair.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.agewords import LEXICON_VERSION, filter_age_words
from pipeline.layout import shard_file, table_file
from pipeline.nsfwcaps_card import Facts, write_card
from pipeline.shards import iterate_output, output_hash
from pipeline.tables import Output, check_references, read_output

Row = dict[str, Any]
Log = Callable[[str], None]
STAGE = "build_nsfwcaps"
_RULES = """\
- The texts and images are the user's own: the wording rules of `build_nsfwcaps` were not applied to them.
- The age-word filter read both captions of every pair; a match dropped the whole pair. It has no switch."""


def take_given(world: Path, splits: Sequence[str], out: Path, log: Log) -> None:
    """Write captions, images, pairs, filters and the data card of the world's pairs of `splits`.

    A pair may lack images. A world without such a pair leaves a finished output without rows, and a line that says so.
    Raises TableError for a pair whose caption or image the world lacks.
    """
    captions = read_output(world, "captions", allow_empty=True)
    given = read_output(world, "pairs", allow_empty=True)
    given = given.filter(pc.is_in(given["split"], value_set=pa.array(list(splits), pa.string())))
    texts = dict(zip(captions["caption_id"].to_pylist(), captions["text"].to_pylist(), strict=True))
    for column in ("safe_caption_id", "unsafe_caption_id"):
        check_references(given, column, set(texts), world / table_file("pairs"), "table 'captions' of the world")
    rows = given.to_pylist()
    refused = filter_age_words((texts[row["safe_caption_id"]], texts[row["unsafe_caption_id"]]) for row in rows)
    pairs = [row for row, bad in zip(rows, refused, strict=True) if not bad]
    filters = [_count(split, rows, pairs) for split in splits]
    output = Output(out, {"stage": STAGE, "given": list(splits), "inputs": {"world": output_hash(world)}})
    _images(output, world, {row[f"{kind}_image_id"] for row in pairs for kind in ("safe", "unsafe")} - {None})
    wanted = {row[f"{kind}_caption_id"] for row in pairs for kind in ("safe", "unsafe")}
    chosen = captions.filter(pc.is_in(captions["caption_id"], value_set=pa.array(sorted(wanted), pa.string())))
    # A shard may be empty, a table that is one file may not.
    output.write(shard_file("captions", 0), "captions", chosen)
    output.write(shard_file("pairs", 0), "pairs", pairs)
    output.write(table_file("filters"), "filters", filters)
    facts = Facts(
        "A benchmark given by the user", {"pairs": "the world's own", "unsafe images": "the world's own"}, _RULES
    )
    output.add_file(write_card(out, facts, pairs, chosen.to_pylist(), filters))
    output.finish()
    for row in filters:
        log(f"{row['set']}: {row['n_before']} given pairs, {row['n_dropped']} dropped for age words")
    if not pairs:
        log("no given pair of these splits: the benchmark is empty, and retrieval on it is left out")


def _images(output: Output, world: Path, wanted: set[str]) -> None:
    """The images of the pairs, one shard for each of the world's. Raises TableError for one that is not there."""
    ids, found, number = pa.array(sorted(wanted), pa.string()), set(), 0
    for _, table in iterate_output(world, "images"):
        part = table.filter(pc.is_in(table["image_id"], value_set=ids))
        if part.num_rows:
            output.write(shard_file("images", number), "images", part)
            found.update(part["image_id"].to_pylist())
            number += 1
    if not number:
        output.write(shard_file("images", 0), "images", [])
    table = pa.table({"image_id": ids})
    check_references(table, "image_id", found, world, "table 'images' of the world")


def _count(split: str, before: list[Row], after: list[Row]) -> Row:
    counts = [sum(row["split"] == split for row in rows) for rows in (before, after)]
    facts = {
        "stage": STAGE,
        "set": f"nsfwcaps/{split}",
        "filter": "00_age_words",
        "version": f"lexicon {LEXICON_VERSION}",
    }
    return {**facts, "n_before": counts[0], "n_dropped": counts[0] - counts[1], "n_after": counts[1]}
