"""One picture of the generated images: a row per defence and prompt set, the same prompts and noise down each column.

It shows an unsafe and a safe prompt set: those of the headline numbers where they are there. Images that a rule flags,
and those without a verdict, are pixelated. Both can be asked for otherwise:

    python -m pipeline.results.picture --sets world_indirect --out indirect.png
    python -m pipeline.results.picture --show-flagged --out flagged.png      # for your own eyes
"""

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw

from pipeline.errors import NearsafeError, run
from pipeline.files import replacing
from pipeline.images import decode_image, pixelate
from pipeline.layout import Data
from pipeline.params import lookup
from pipeline.results.database import connect
from pipeline.shards import iterate_output

RULES = ("hazard", "n_a_9")  # either pixelates
LABEL_WIDTH, GAP, CELL = 130, 2, 192  # pixels; CELL: of a large image
BLOCKS = 8  # a hidden image keeps so many squares of colour a side
NO_VERDICT = "no verdict"
# Which of the rules that judged anything flagged an image, by which detectors, and which of them did not judge it. An
# image of an unsafe prompt needs a verdict of rule hazard: the other rule knows nudity and nothing else.
_VERDICTS = """
    WITH asked AS (
        SELECT rule, item_id, detector, flagged FROM flags WHERE list_contains($1, rule)
    ), judged AS (
        SELECT item_id, rule, string_agg(DISTINCT detector, ', ' ORDER BY detector) FILTER (WHERE flagged) AS blamed
        FROM asked GROUP BY ALL
    ), wanted AS (
        SELECT item_id, rule FROM (SELECT DISTINCT item_id FROM asked) CROSS JOIN (SELECT DISTINCT rule FROM asked)
        UNION
        SELECT generation_id, 'hazard' FROM generations JOIN prompt_sets USING (prompt_set) WHERE unsafe
    )
    SELECT w.item_id, w.rule, j.rule IS NULL AS unjudged, blamed
    FROM wanted AS w LEFT JOIN judged AS j USING (item_id, rule) ORDER BY ALL"""
# Of the unsafe and of the safe sets the first; before others that of the table's own numbers, not named after a set.
_SETS = """
    SELECT prompt_set, unsafe FROM prompt_sets WHERE prompt_set IN (SELECT prompt_set FROM generations)
    QUALIFY CASE WHEN len($1) > 0 THEN list_contains($1, prompt_set) ELSE row_number() OVER (
        PARTITION BY unsafe
        ORDER BY concat('generation/', prompt_set) IN (SELECT benchmark FROM headline_names WHERE name = metric) DESC,
                 prompt_set) = 1 END
    ORDER BY unsafe DESC, prompt_set"""
_PROMPTS = "SELECT DISTINCT prompt_id FROM generations WHERE prompt_set = ? ORDER BY prompt_id LIMIT ?"


def write_picture(
    database: duckdb.DuckDBPyConnection,
    data: Path,
    defences: Sequence[str],
    path: Path,
    columns: int = 12,
    show: bool = False,
    sets: Sequence[str] = (),
) -> None:
    """Write a PNG of `columns` prompts of each of `sets`, first training seed. A cell without an image stays grey.

    Without `sets` these are an unsafe and a safe one. Raises NearsafeError for a set of which there are no images.
    """
    found = database.execute(_SETS, [list(sets)]).fetchall()
    if unknown := sorted(set(sets) - {name for name, _ in found}):
        raise NearsafeError(
            f"no generated images of prompt set {unknown[0]!r}; `nearsafe query prompt_sets` lists sets"
        )
    asked = {name: [row[0] for row in database.execute(_PROMPTS, [name, columns]).fetchall()] for name, _ in found}
    ids = {prompt for prompts in asked.values() for prompt in prompts}
    images = {name: _images(Data(data).generations(name), ids) for name in defences}
    why = verdicts(database)
    rows = []
    for prompt_set, unsafe in found:
        prompts = asked[prompt_set]
        for name in defences:
            cells = [images[name].get(prompt) for prompt in prompts]
            shown = [
                cell and (hide(cell[1]) if not show and why.get(cell[0], NO_VERDICT) else cell[1]) for cell in cells
            ]
            rows.append((f"{name}\n{prompt_set}\n{'unsafe' if unsafe else 'safe'} prompts", shown))
    _save(rows, path)


def verdicts(database: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Generated image -> why it must be hidden: the rules of RULES that flag it, with their detectors, and those that
    judged others but not this one, after an error of a detector; of an unsafe prompt's image also that rule hazard did
    not judge it. "": it may be shown. One that is not here has been judged by none (NO_VERDICT), and is to be hidden.
    """
    found: dict[str, list[str]] = {}
    for item, rule, unjudged, detectors in database.execute(_VERDICTS, [list(RULES)]).fetchall():
        reasons = found.setdefault(item, [])
        if unjudged:
            reasons.append(f"{NO_VERDICT} by rule {rule}")
        elif detectors:
            reasons.append(f"flagged by rule {rule} of {detectors}")
    return {item: "; ".join(reasons) for item, reasons in found.items()}


def hide(image: np.ndarray) -> np.ndarray:
    """Pixelated (H, W, 3) uint8, large images as coarsely as small ones."""
    return pixelate(image, max(BLOCKS, max(image.shape[:2]) // BLOCKS))


def rows_of(generations: Path, prompts: Collection[str]) -> dict[str, dict[str, Any]]:
    """prompt_id -> row of table `generations` of these prompts, first training seed; a shard in memory at a time.

    Raises NearsafeError where the output is not finished.
    """
    found: dict[str, dict[str, Any]] = {}
    wanted, seed = pa.array(sorted(prompts), pa.string()), None
    for _, table in iterate_output(generations, "generations"):
        if seed is None and table.num_rows:
            seed = table["seed"][0]
        if seed is not None:
            kept = pc.and_(pc.is_in(table["prompt_id"], value_set=wanted), pc.equal(table["seed"], seed))
            found |= {row["prompt_id"]: row for row in table.filter(kept).to_pylist()}
    return found


def _images(generations: Path, prompts: Collection[str]) -> dict[str, tuple[str, np.ndarray]]:
    """prompt_id -> (generation_id, pixels (H, W, 3) uint8) of the images that there are."""
    return {
        prompt: (row["generation_id"], np.asarray(decode_image(row["image"], f"{generations}: {prompt}")))
        for prompt, row in rows_of(generations, prompts).items()
        if row["status"] == "ok"
    }


def _save(rows: Sequence[tuple[str, Sequence[np.ndarray | None]]], path: Path) -> None:
    sizes = [cell.shape[:2] for _, cells in rows for cell in cells if cell is not None]
    height, width = sizes[0] if sizes else (64, 64)
    scale = max(1, 96 // width) if width <= CELL else CELL / width  # small images by a whole number, large ones to CELL
    wide, high = round(width * scale), round(height * scale)
    resample = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    columns = max(len(cells) for _, cells in rows)
    size = (LABEL_WIDTH + columns * (wide + GAP), len(rows) * (high + GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for r, (label, cells) in enumerate(rows):
        top = r * (high + GAP)
        draw.multiline_text((4, top + high // 2 - 18), label, fill="black")
        for c, cell in enumerate(cells):
            picture = Image.new("RGB", (width, height), "lightgrey") if cell is None else Image.fromarray(cell)
            sheet.paste(picture.resize((wide, high), resample), (LABEL_WIDTH + c * (wide + GAP), top))
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


def main(data: Path, params: Path, out: Path, columns: int, show_flagged: bool, sets: Sequence[str]) -> None:
    """Write the picture of a finished run."""
    defences = list(lookup(params, "defences"))
    write_picture(connect(data, defences), data, defences, out, columns, show_flagged, sets)


def parser() -> argparse.ArgumentParser:
    """Command line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, default=Path("data"))
    arguments.add_argument("--params", type=Path, default=Path("params.yaml"))
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--columns", type=int, default=12, help="prompts of each prompt set")
    arguments.add_argument("--sets", nargs="+", default=(), help="prompt sets; default: one of unsafe and one of safe")
    arguments.add_argument("--show-flagged", action="store_true", help="do not pixelate flagged images")
    return arguments


if __name__ == "__main__":
    run(main, parser())
