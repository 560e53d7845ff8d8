"""One picture of the generated images: a row per defence and prompt set, the same prompts and noise down each column.

Images that a rule flags, and those without a verdict, are pixelated, unless the reader asks otherwise:

    python -m pipeline.results.picture --show-flagged --out flagged.png      # for your own eyes
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
from PIL import Image, ImageDraw

from pipeline.errors import run
from pipeline.images import decode_image, pixelate
from pipeline.layout import Data
from pipeline.params import lookup
from pipeline.results.database import connect
from pipeline.tables import read_output

RULES = ("hazard", "n_a_9")  # either pixelates
LABEL_WIDTH, GAP = 130, 2
BLOCKS = 8  # a hidden image keeps so many squares of colour a side
# Images that every rule with a verdict on anything has judged, and that none has flagged.
_CLEAN = """
    SELECT item_id FROM flags WHERE list_contains($1, rule) GROUP BY item_id
    HAVING NOT bool_or(flagged)
       AND count(DISTINCT rule) = (SELECT count(DISTINCT rule) FROM flags WHERE list_contains($1, rule))"""
_SETS = """
    SELECT prompt_set, unsafe FROM prompt_sets WHERE prompt_set IN (SELECT prompt_set FROM generations)
    ORDER BY unsafe DESC, prompt_set"""
_PROMPTS = "SELECT DISTINCT prompt_id FROM generations WHERE prompt_set = ? ORDER BY prompt_id LIMIT ?"


def write_picture(
    database: duckdb.DuckDBPyConnection,
    data: Path,
    defences: Sequence[str],
    path: Path,
    columns: int = 12,
    show: bool = False,
) -> None:
    """Write a PNG of `columns` prompts of each prompt set, first training seed. A cell without an image stays grey."""
    images = {name: _images(Data(data).generations(name)) for name in defences}
    clean = presentable(database)
    rows = []
    for prompt_set, unsafe in database.execute(_SETS).fetchall():
        prompts = [row[0] for row in database.execute(_PROMPTS, [prompt_set, columns]).fetchall()]
        for name in defences:
            cells = [images[name].get(prompt) for prompt in prompts]
            shown = [cell and (cell[1] if show or cell[0] in clean else hide(cell[1])) for cell in cells]
            rows.append((f"{name}\n{prompt_set}\n{'unsafe' if unsafe else 'safe'} prompts", shown))
    _save(rows, path)


def presentable(database: duckdb.DuckDBPyConnection) -> set[str]:
    """The generated images that may be shown as they are: judged by every rule of RULES that judged any, and flagged by
    none. An image without a verdict, after an error of a detector, is not among them.
    """
    return {row[0] for row in database.execute(_CLEAN, [list(RULES)]).fetchall()}


def hide(image: np.ndarray) -> np.ndarray:
    """Pixelated (H, W, 3) uint8, large images as coarsely as small ones."""
    return pixelate(image, max(BLOCKS, max(image.shape[:2]) // BLOCKS))


def _images(generations: Path) -> dict[str, tuple[str, np.ndarray]]:
    """prompt_id -> (generation_id, pixels (H, W, 3) uint8) of the first training seed."""
    table = read_output(generations, "generations").to_pylist()
    kept = [row for row in table if row["seed"] == table[0]["seed"] and row["status"] == "ok"]
    return {
        row["prompt_id"]: (
            row["generation_id"],
            np.asarray(decode_image(row["image"], f"{generations}: {row['prompt_id']}")),
        )
        for row in kept
    }


def _save(rows: Sequence[tuple[str, Sequence[np.ndarray | None]]], path: Path) -> None:
    sizes = [cell.shape[:2] for _, cells in rows for cell in cells if cell is not None]
    height, width = sizes[0] if sizes else (64, 64)
    scale = max(1, 96 // width)
    columns = max(len(cells) for _, cells in rows)
    size = (LABEL_WIDTH + columns * (width * scale + GAP), len(rows) * (height * scale + GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for r, (label, cells) in enumerate(rows):
        top = r * (height * scale + GAP)
        draw.multiline_text((4, top + height * scale // 2 - 18), label, fill="black")
        for c, cell in enumerate(cells):
            picture = Image.new("RGB", (width, height), "lightgrey") if cell is None else Image.fromarray(cell)
            place = (LABEL_WIDTH + c * (width * scale + GAP), top)
            sheet.paste(picture.resize((width * scale, height * scale), Image.Resampling.NEAREST), place)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    sheet.save(temporary, format="PNG")
    temporary.replace(path)


def main(data: Path, params: Path, out: Path, columns: int, show_flagged: bool) -> None:
    """Write the picture of a finished run."""
    defences = list(lookup(params, "defences"))
    write_picture(connect(data, defences), data, defences, out, columns, show_flagged)


def parser() -> argparse.ArgumentParser:
    """Command line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, default=Path("data"))
    arguments.add_argument("--params", type=Path, default=Path("params.yaml"))
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--columns", type=int, default=12, help="prompts of each prompt set")
    arguments.add_argument("--show-flagged", action="store_true", help="do not pixelate flagged images")
    return arguments


if __name__ == "__main__":
    run(main, parser())
