"""Draws a scene as a 64x64 RGB image: PIL at twice the size, then a 2x2 box filter (0.7 to 1 ms an image).

The subject stands left, the item right, the flyer in the sky: a small ViT learns this regular layout in minutes, where
free placement kept it at chance. Jitter in position, hue and noise stays.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from pipeline.world.scenes import Scene
from pipeline.world.shapes import FLYERS, HAZARDS, OBJECTS, SUBJECTS, Fill, Shape

SIZE = 64
CANVAS = 2 * SIZE
HORIZON = 72

RGB = tuple[int, int, int]
INK: RGB = (15, 15, 18)
PENCIL: RGB = (120, 116, 110)

COLOURS: dict[str, RGB] = {
    "red": (215, 35, 35),
    "orange": (245, 135, 20),
    "yellow": (245, 220, 40),
    "green": (45, 165, 60),
    "blue": (40, 80, 215),
    "purple": (130, 45, 175),
    "pink": (250, 150, 190),
    "white": (245, 245, 245),
}
ITEM_COLOURS: tuple[RGB, ...] = tuple(
    COLOURS[name] for name in ("red", "orange", "yellow", "green", "blue", "purple", "pink")
)

SKY: dict[str, tuple[RGB, RGB]] = {
    "sunny": ((110, 190, 250), (190, 228, 252)),
    "rainy": ((112, 120, 134), (150, 156, 166)),
    "snowy": ((205, 216, 228), (232, 238, 244)),
    "night": ((10, 12, 46), (32, 34, 86)),
    "sunset": ((128, 62, 130), (252, 150, 72)),
}
GROUND: dict[str, RGB] = {
    "beach": (238, 215, 150),
    "forest": (70, 110, 60),
    "city": (112, 112, 118),
    "desert": (222, 160, 92),
    "mountain": (128, 140, 110),
    "farm": (165, 185, 80),
    "castle": (110, 160, 90),
    "garden": (95, 180, 85),
}


@dataclass(frozen=True, slots=True)
class Style:
    """How scenes are drawn: outline width, share of paper mixed into the background, shear, hatching.

    `outline` and `hatch` (distance of diagonal pencil strokes over the background, 0 for none) are canvas pixels;
    `faded` is the share of paper mixed into the shapes.
    """

    name: str
    outline: int = 0
    pastel: float = 0.0
    shear: float = 0.0
    paper: RGB = (255, 255, 255)
    hatch: int = 0
    faded: float = 0.0


BASE = Style("base")
SHIFTED = Style("shifted", outline=2, pastel=0.35, shear=0.08)
# Seen by no training at all, neither pretraining nor tuning: the third source of hazard images.
SKETCH = Style("sketch", outline=1, pastel=0.4, shear=0.1, paper=(252, 242, 214), hatch=6, faded=0.25)
STYLES = {style.name: style for style in (BASE, SHIFTED, SKETCH)}


def mix(a: RGB, b: RGB, share: float) -> RGB:
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))


class Pen:
    """Draws shapes of unit coordinates at a place, a size and in a colour."""

    def __init__(self, image: Image.Image, style: Style = BASE) -> None:
        self.draw = ImageDraw.Draw(image)
        self.outline = {"outline": INK, "width": style.outline} if style.outline else {}
        self.style = style

    def shape(self, shape: Shape, x: float, y: float, half: float, colour: RGB) -> None:
        """Draw `shape` centred on (x, y), `half` canvas pixels from centre to edge."""
        shades: dict[str, RGB] = {
            "C": colour,
            "D": mix(colour, (0, 0, 0), 0.3),
            "L": mix(colour, (255, 255, 255), 0.35),
        }
        for kind, fill, points, *width in shape:
            place = [(x + half * points[i], y + half * points[i + 1]) for i in range(0, len(points), 2)]
            self.primitive(
                kind,
                place,
                self.fade(shades[fill] if isinstance(fill, str) else fill),
                max(1, round(half * width[0])) if width else 0,
            )

    def fade(self, colour: RGB) -> RGB:
        return mix(colour, self.style.paper, self.style.faded) if self.style.faded else colour

    def primitive(self, kind: str, place: list[tuple[float, float]], fill: Fill, width: int) -> None:
        if kind == "p":
            self.draw.polygon(place, fill=fill, **self.outline)
        elif kind == "l":
            if self.outline:
                self.draw.line(place, fill=self.outline["outline"], width=width + self.outline["width"], joint="curve")
            self.draw.line(place, fill=fill, width=width, joint="curve")
        elif kind == "e":
            self.draw.ellipse(place, fill=fill, **self.outline)
        elif kind == "r":
            self.draw.rectangle(place, fill=fill, **self.outline)
        elif kind == "o":
            self.draw.rounded_rectangle(place, radius=(place[1][1] - place[0][1]) / 2, fill=fill, **self.outline)
        elif kind == "s":
            self.draw.pieslice(place, 180, 360, fill=fill, **self.outline)
        else:
            self.draw.arc(place, -90, 90, fill=fill, width=width)


def draw(scene: Scene, style: Style, rng: np.random.Generator) -> np.ndarray:
    """The scene as a (64, 64, 3) uint8 array; equal inputs and generator state give equal pixels."""
    image = Image.new("RGB", (CANVAS, CANVAS))
    backdrop(image, scene, style, rng)
    pen = Pen(image, style)
    colour = jitter(COLOURS[scene.colour], rng, 14)
    half = 29 if scene.size == "big" else 18
    pen.shape(FLYERS[scene.flyer], 92 + shake(rng), 21 + shake(rng), 15, COLOURS["white"])
    pen.shape(SUBJECTS[scene.subject], 36 + shake(rng), 114 - half + shake(rng), half, colour)
    item = HAZARDS.get(scene.item) or OBJECTS[scene.item]
    pen.shape(
        item, 97 + shake(rng), 92 + shake(rng), 22, jitter(ITEM_COLOURS[rng.integers(len(ITEM_COLOURS))], rng, 14)
    )
    falling(pen, scene.weather, rng)
    if style.shear:
        lean = style.shear * (1 if rng.random() < 0.5 else -1)
        image = image.transform(
            image.size, Image.Transform.AFFINE, (1, lean, -lean * CANVAS / 2, 0, 1, 0), Image.Resampling.BILINEAR
        )
    pixels = np.asarray(image.reduce(2), dtype=np.float32)
    return np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)


def shake(rng: np.random.Generator) -> int:
    return int(rng.integers(-4, 5))


def jitter(colour: RGB, rng: np.random.Generator, spread: int) -> RGB:
    return tuple(int(np.clip(c + rng.integers(-spread, spread + 1), 0, 255)) for c in colour)


def backdrop(image: Image.Image, scene: Scene, style: Style, rng: np.random.Generator) -> None:
    """Sky, place and ground, mixed with paper in a pastel style, hatched in a sketch."""
    top, low = (jitter(colour, rng, 8) for colour in SKY[scene.weather])
    ramp = np.linspace(0, 1, HORIZON, dtype=np.float32)[:, None, None]
    sky = np.asarray(top, np.float32) * (1 - ramp) + np.asarray(low, np.float32) * ramp
    canvas = np.empty((CANVAS, CANVAS, 3), np.float32)
    canvas[:HORIZON] = sky
    canvas[HORIZON:] = lit(jitter(GROUND[scene.place], rng, 8), scene.weather)
    image.paste(Image.fromarray(canvas.astype(np.uint8)))
    pen = Pen(image)
    sky_light(pen, scene.weather, rng)
    PLACES[scene.place](pen, scene.weather, rng)
    if style.pastel:
        image.paste(Image.blend(image, Image.new("RGB", image.size, style.paper), style.pastel))
    if style.hatch:
        for x in range(-CANVAS, CANVAS, style.hatch):
            pen.draw.line((x, CANVAS, x + CANVAS, 0), fill=PENCIL, width=1)


def lit(colour: RGB, weather: str) -> RGB:
    """A colour of the ground or of the place in this weather."""
    shade: dict[str, tuple[RGB, float]] = {
        "sunny": ((255, 255, 255), 0.0),
        "rainy": ((70, 75, 90), 0.3),
        "snowy": ((245, 248, 252), 0.5),
        "night": ((8, 10, 40), 0.55),
        "sunset": ((225, 95, 50), 0.25),
    }
    return mix(colour, *shade[weather])


def sky_light(pen: Pen, weather: str, rng: np.random.Generator) -> None:
    x, y = 24 + shake(rng), 22 + shake(rng)
    if weather == "sunny":
        pen.draw.ellipse((x - 13, y - 13, x + 13, y + 13), fill=(255, 225, 60))
    elif weather == "sunset":
        pen.draw.ellipse((x - 15, y + 14, x + 15, y + 44), fill=(255, 90, 50))
    elif weather == "night":
        for _ in range(18):
            px, py = rng.integers(CANVAS), rng.integers(HORIZON - 20)
            pen.draw.rectangle((px, py, px + 1, py + 1), fill=(250, 250, 220))
        pen.draw.ellipse((x - 12, y - 12, x + 12, y + 12), fill=(250, 245, 205))
        pen.draw.ellipse((x - 5, y - 15, x + 17, y + 9), fill=(14, 16, 52))
    else:
        grey = (70, 76, 90) if weather == "rainy" else (190, 200, 214)
        for dx, dy, r in ((-14, 4, 9), (0, 0, 13), (14, 4, 10)):
            pen.draw.ellipse((x + dx - r, y + dy - r, x + dx + r, y + dy + r), fill=grey)


def falling(pen: Pen, weather: str, rng: np.random.Generator) -> None:
    """Rain or snow in front of everything."""
    if weather == "rainy":
        for px, py in rng.integers(0, CANVAS, (26, 2)):
            pen.draw.line((px, py, px - 3, py + 9), fill=(168, 196, 238), width=1)
    elif weather == "snowy":
        for px, py in rng.integers(0, CANVAS, (34, 2)):
            pen.draw.ellipse((px - 1.5, py - 1.5, px + 1.5, py + 1.5), fill=(255, 255, 255))


def beach(pen: Pen, weather: str, rng: np.random.Generator) -> None:
    y = HORIZON - 20 + shake(rng)
    pen.draw.rectangle((0, y, CANVAS, HORIZON + 4), fill=lit((25, 105, 195), weather))
    for px in range(-6, CANVAS, 22):
        pen.draw.arc((px, HORIZON - 4, px + 22, HORIZON + 10), 180, 360, fill=lit((235, 245, 255), weather), width=3)


def forest(pen: Pen, weather: str, rng: np.random.Generator) -> None:
    for px in range(6, CANVAS + 10, 17):
        x, top = px + shake(rng), 28 + int(rng.integers(0, 14))
        pen.draw.polygon((x - 12, HORIZON + 2, x, top, x + 12, HORIZON + 2), fill=lit((18, 88, 48), weather))


def city(pen: Pen, weather: str, rng: np.random.Generator) -> None:
    for px in range(0, CANVAS, 21):
        top = 30 + int(rng.integers(0, 20))
        pen.draw.rectangle((px, top, px + 18, HORIZON), fill=lit((92, 92, 122), weather))
        for wx in (px + 3, px + 11):
            for wy in range(top + 4, HORIZON - 6, 9):
                pen.draw.rectangle((wx, wy, wx + 4, wy + 4), fill=(248, 228, 130))


def desert(pen: Pen, weather: str, rng: np.random.Generator) -> None:
    x = int(rng.integers(-20, 20))
    pen.draw.ellipse((x - 30, HORIZON - 16, x + 74, HORIZON + 30), fill=lit((235, 178, 108), weather))
    pen.draw.ellipse((x + 54, HORIZON - 12, x + 160, HORIZON + 30), fill=lit((205, 142, 78), weather))
    for cx in (66 + shake(rng), 118 + shake(rng)):
        green = lit((60, 130, 60), weather)
        pen.draw.rounded_rectangle((cx - 4, 34, cx + 4, HORIZON + 6), radius=4, fill=green)
        pen.draw.line((cx - 12, 44, cx - 12, 54, cx, 54), fill=green, width=5)
        pen.draw.line((cx + 12, 40, cx + 12, 50, cx, 50), fill=green, width=5)


def mountain(pen: Pen, weather: str, rng: np.random.Generator) -> None:
    for cx, top, half in ((26, 34, 40), (100, 28, 46), (64, 42, 34)):
        x, y = cx + shake(rng), top + shake(rng)
        pen.draw.polygon((x - half, HORIZON, x, y, x + half, HORIZON), fill=lit((118, 122, 142), weather))
        pen.draw.polygon(
            (x - half * 0.34, y + (HORIZON - y) * 0.34, x, y, x + half * 0.34, y + (HORIZON - y) * 0.34),
            fill=(250, 250, 255),
        )


def farm(pen: Pen, weather: str, rng: np.random.Generator) -> None:
    x = 64 + shake(rng)
    pen.draw.rectangle((x - 20, 46, x + 20, HORIZON), fill=lit((165, 40, 35), weather))
    pen.draw.polygon((x - 25, 47, x - 14, 34, x + 14, 34, x + 25, 47), fill=lit((110, 60, 45), weather))
    pen.draw.line((x - 9, 54, x + 9, HORIZON - 1), fill=(245, 240, 230), width=2)
    pen.draw.line((x + 9, 54, x - 9, HORIZON - 1), fill=(245, 240, 230), width=2)
    for y in (HORIZON - 9, HORIZON - 1):
        pen.draw.line((0, y, x - 22, y), fill=lit((225, 205, 165), weather), width=3)
        pen.draw.line((x + 22, y, CANVAS, y), fill=lit((225, 205, 165), weather), width=3)
    for px in range(4, CANVAS, 14):
        if abs(px - x) > 22:
            pen.draw.line((px, HORIZON - 14, px, HORIZON + 4), fill=lit((225, 205, 165), weather), width=3)


def castle(pen: Pen, weather: str, rng: np.random.Generator) -> None:
    x, stone = 66 + shake(rng), lit((176, 170, 160), weather)
    pen.draw.rectangle((x - 34, 46, x + 34, HORIZON), fill=stone)
    for px in range(x - 34, x + 32, 10):
        pen.draw.rectangle((px, 41, px + 5, 47), fill=stone)
    for tx in (x - 40, x + 40):
        pen.draw.rectangle((tx - 9, 36, tx + 9, HORIZON), fill=lit((152, 146, 138), weather))
        pen.draw.polygon((tx - 12, 37, tx, 16, tx + 12, 37), fill=lit((178, 52, 92), weather))
    pen.draw.pieslice((x - 9, 52, x + 9, HORIZON + 18), 180, 360, fill=lit((70, 50, 40), weather))


def garden(pen: Pen, weather: str, rng: np.random.Generator) -> None:
    hedge = lit((40, 130, 50), weather)
    for px in range(-4, CANVAS + 8, 16):
        pen.draw.ellipse((px - 12, 48 + shake(rng), px + 12, HORIZON + 10), fill=hedge)
    for px in range(4, CANVAS, 11):
        y, colour = int(rng.integers(56, HORIZON + 4)), ITEM_COLOURS[int(rng.integers(len(ITEM_COLOURS)))]
        pen.draw.ellipse((px - 4, y - 4, px + 4, y + 4), fill=colour)


PLACES = {f.__name__: f for f in (beach, forest, city, desert, mountain, farm, castle, garden)}
