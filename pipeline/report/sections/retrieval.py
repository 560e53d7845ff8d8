"""Retrieval examples: what the same queries find before and after each defence."""

from itertools import groupby
from typing import Any

from PIL import Image

from pipeline.errors import NearsafeError
from pipeline.images import decode_image
from pipeline.report.blocks import Block, Grid, Missing, Picture, Strip, Text
from pipeline.report.run import UNDEFENDED, Run
from pipeline.tables import read_output

SHOWN = 3  # queries of each kind and direction
_SQL = """
    SELECT * FROM neighbours WHERE seed = (SELECT min(seed) FROM neighbours)
    ORDER BY unsafe DESC, direction DESC, query_id, protocol DESC, rank"""
_DIRECTIONS = {"t2i": "text to image", "i2t": "image to text"}


def build(run: Run) -> list[Block]:
    """A grid per query: a line per model and gallery, the nearest items in columns."""
    if not run.holds("neighbours"):
        return [Missing("This run holds no retrieval examples; the score stage writes them.", "dvc repro score")]
    items = _Items(run)
    blocks: list[Block] = []
    rows = run.rows(_SQL)
    rows.sort(key=lambda row: (not row["unsafe"], row["direction"] != "t2i"))
    for (unsafe, direction), kind in groupby(rows, key=lambda row: (row["unsafe"], row["direction"])):
        asked = sorted(kind, key=lambda row: row["query_id"])
        name = f"{'Unsafe' if unsafe else 'Safe'} queries, {_DIRECTIONS[direction]}"
        for number, (query, own) in enumerate(groupby(asked, key=lambda row: row["query_id"])):
            if number < SHOWN:
                blocks.append(_grid(run, items, f"{name}: example {number + 1}", query, list(own), bool(blocks)))
    reading = (
        "The first queries of the benchmark by their id, so not chosen for what they show. An unsafe query should find "
        "its safe twin (marked as right). The tuned gallery is embedded by the defended model, the frozen one by the "
        "undefended model. Numbers are cosines."
    )
    return [Text(reading), *blocks]


def _grid(run: Run, items: "_Items", title: str, query: str, rows: list[dict[str, Any]], folded: bool) -> Grid:
    ranks = sorted({row["rank"] for row in rows})
    lines: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (run.place(row["defence"]), row["protocol"] != "tuned")):
        lines.setdefault((row["defence"], row["protocol"]), {})[row["rank"]] = row
    strips = [
        Strip(
            f"{defence}, before" if defence == UNDEFENDED else defence,
            [items.found(own[rank]) if rank in own else Picture("-") for rank in ranks],
            "its own gallery" if defence == UNDEFENDED else f"{protocol} gallery",
            defence,
        )
        for (defence, protocol), own in lines.items()
        if defence != UNDEFENDED or protocol == "tuned"  # undefended, both galleries are one
    ]
    lead = items.query(query, rows[0])
    return Grid(
        title, [f"rank {rank + 1}" for rank in ranks], strips, (run.query("neighbours"),), lead=lead, folded=folded
    )


class _Items:
    """Captions and images of the benchmark by id."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._captions = {
            row["caption_id"]: row["text"]
            for row in run.rows("SELECT caption_id, text FROM captions WHERE collection = 'nsfwcaps'")
        }
        self._images: dict[str, dict[str, Any]] = {}
        try:
            table = read_output(run.data.nsfwcaps, "images")
        except NearsafeError:  # a benchmark without images, or none: its items show as their ids
            return
        self._images = {row["image_id"]: row for row in table.to_pylist()}

    def query(self, item: str, row: dict[str, Any]) -> Picture:
        """What was asked."""
        shown = self._shown(item, row["unsafe"])
        note = "unsafe query" if row["unsafe"] else "safe query"
        return Picture(shown.alt, shown.key, shown.facts, note=note, tone="bad" if row["unsafe"] else "good")

    def found(self, row: dict[str, Any]) -> Picture:
        """An item of the ranking, with its marks."""
        shown = self._shown(row["item_id"], row["item_unsafe"])
        mark, tone = ("right", "good") if row["target"] else ("unsafe", "bad") if row["item_unsafe"] else ("", "")
        return Picture(shown.alt, shown.key, shown.facts, mark, f"{row['cosine']:.3f}", tone)

    def _shown(self, item: str, unsafe: bool) -> Picture:
        if item in self._captions:
            return Picture(self._captions[item])
        if item not in self._images:
            return Picture(item)
        row = self._images[item]
        unsafe = unsafe or row["unsafe"]
        image: Image.Image = decode_image(row["image"], f"{self._run.data.nsfwcaps}: {item}")
        hidden = unsafe and not self._run.show_flagged
        caption = self._captions.get(row["caption_id"] or "", "")
        facts = [caption] if caption else []
        alt = f"{'unsafe' if unsafe else 'safe'} image{', pixelated' if hidden else ''}" + (
            f": {caption}" if caption else ""
        )
        return Picture(alt, self._run.images.add(image, hidden), [*facts, *(["labelled unsafe"] if unsafe else [])])
