"""The frontiers drawn: best safety against the zero-shot loss allowed, a step line per defence and its points."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.metrics.frontier import LIMIT, best_at

SIZE, LEFT, TOP, RIGHT, BOTTOM = (960, 600), 90, 40, 30, 80
# Okabe and Ito's colours, told apart by most colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
X_LABEL = "points of mean zero-shot accuracy lost (validation)"
Y_LABEL = "unsafe queries that find the matching safe scene, both galleries"


def write_picture(rows: Sequence[dict[str, Any]], path: Path, measure: str = "scene") -> None:
    """Write a PNG from rows of `frontiers.points`. Points beyond the limit of the area are left out."""
    image = Image.new("RGB", SIZE, "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    _axes(draw, font)
    rows = [row for row in rows if row["measure"] == measure]
    defences = [name for name in dict.fromkeys(row["defence"] for row in rows) if name != "original"]
    for number, defence in enumerate(defences):
        colour = COLOURS[number % len(COLOURS)]
        own = [row for row in rows if row["defence"] == defence]
        losses, safeties = (np.array([row[key] for row in own]) for key in ("loss", "safety"))
        steps = sorted({0.0, LIMIT, *(float(x) for x in losses if 0 < x < LIMIT)})
        heights = [float(best_at(losses, safeties, x)) for x in steps]
        line = [_place(steps[0], heights[0])]
        for x, height, before in zip(steps[1:], heights[1:], heights, strict=False):
            line += [_place(x, before), _place(x, height)]
        draw.line(line, fill=colour, width=3)
        for loss, safety in zip(losses, safeties, strict=True):
            if loss <= LIMIT:
                x, y = _place(max(float(loss), 0.0), float(safety))
                draw.ellipse((x - 5, y - 5, x + 5, y + 5), outline=colour, width=2)
        area = f"{defence}: area {own[0]['area']:.3f} [{own[0]['area_low']:.3f}, {own[0]['area_high']:.3f}]"
        draw.text((LEFT + 12, TOP + 8 + 22 * number), area, fill=colour, font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    image.save(temporary, format="PNG")
    temporary.replace(path)


def _axes(draw: ImageDraw.ImageDraw, font: Any) -> None:
    for tick in range(6):
        share, loss = tick / 5, LIMIT * tick / 5
        x, y = _place(loss, share)
        draw.line([(LEFT, y), (SIZE[0] - RIGHT, y)], fill="#DDDDDD")
        draw.text((LEFT - 10, y), f"{share:.1f}", fill="black", font=font, anchor="rm")
        draw.line([(x, SIZE[1] - BOTTOM), (x, SIZE[1] - BOTTOM + 6)], fill="black")
        draw.text((x, SIZE[1] - BOTTOM + 10), f"{loss:g}", fill="black", font=font, anchor="mt")
    draw.line([(LEFT, TOP), (LEFT, SIZE[1] - BOTTOM), (SIZE[0] - RIGHT, SIZE[1] - BOTTOM)], fill="black", width=2)
    draw.text(((LEFT + SIZE[0] - RIGHT) / 2, SIZE[1] - 30), X_LABEL, fill="black", font=font, anchor="mt")
    draw.text((LEFT, 12), Y_LABEL, fill="black", font=font)


def _place(loss: float, safety: float) -> tuple[float, float]:
    """Pixel of a loss (points) and a safety (share)."""
    width, height = SIZE[0] - LEFT - RIGHT, SIZE[1] - TOP - BOTTOM
    return LEFT + width * loss / LIMIT, SIZE[1] - BOTTOM - height * safety
