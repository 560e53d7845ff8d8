"""Vega-Lite specifications, and their rendering to inline SVG that follows the page's colours, light and dark."""

import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import vl_convert
from markupsafe import Markup

Rows = Sequence[dict[str, Any]]
_INK = "currentColor"
_SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "triangle-right", "triangle-left")
SIGNS = ("●", "■", "◆", "▲", "✚", "▼", "▶", "◀")  # the same shapes as text, for legends
# For where no style sheet reaches: Okabe and Ito's colours, as in results/figures.py.
_PAPER = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6D3B", "#7F7F7F")
_CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": _INK, "titleColor": _INK, "domainColor": _INK, "tickColor": _INK, "gridColor": _INK,
        "gridOpacity": 0.12, "domainOpacity": 0.55, "tickOpacity": 0.55, "labelFontSize": 11, "titleFontSize": 12,
        "titleFontWeight": "normal", "titlePadding": 8, "labelOpacity": 0.85, "tickCount": 5,
    },
    "axisX": {"labelFlush": False},
    "legend": {"labelColor": _INK, "labelFontSize": 12, "symbolOpacity": 1},
    "title": {"color": _INK, "fontSize": 13},
}  # fmt: skip
_ELEMENTS = {"svg", "g", "path", "line", "rect", "text", "tspan", "title", "defs", "clipPath"}


def quantitative(field: str, title: str, domain: Sequence[float] | None = None, **scale: Any) -> dict[str, Any]:
    """A channel of numbers; `domain` fixes the axis, so that panels can share it."""
    options = {"zero": False, **({"domain": list(domain)} if domain else {"nice": True}), **scale}
    return {"field": field, "type": "quantitative", "title": title, "scale": options}


def spec(layers: Sequence[dict[str, Any]], rows: Rows, size: tuple[int, int], title: str = "") -> dict[str, Any]:
    """A panel of layers that share their rows."""
    width, height = size
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"values": list(rows)},
        "width": width,
        "height": height,
        "layer": list(layers),
        **({"title": title} if title else {}),
    }


def coloured(field: str, values: Sequence[str], tones: Sequence[str]) -> dict[str, Any]:
    """Colour by the tones of the style sheet: `d1` becomes the CSS variable --d1."""
    scale = {"domain": list(values), "range": [f"var(--{tone})" for tone in tones]}
    return {"field": field, "type": "nominal", "legend": None, "scale": scale}


def shaped(field: str, values: Sequence[str], tones: Sequence[str]) -> dict[str, Any]:
    """A shape per tone, so that what colours tell apart can be told apart without them."""
    scale = {"domain": list(values), "range": [_SHAPES[int(tone[1:]) % len(_SHAPES)] for tone in tones]}
    return {"field": field, "type": "nominal", "legend": None, "scale": scale}


def sign(tone: str) -> str:
    """The shape of a tone as a character."""
    return SIGNS[int(tone[1:]) % len(SIGNS)]


def svg(chart: dict[str, Any]) -> Markup:
    """Render to an SVG element without scripts, styles, links or anything that loads.

    Its texts are escaped by the renderer. Raises ValueError should it ever hold more than shapes and texts.
    """
    text = vl_convert.vegalite_to_svg({**chart, "config": _CONFIG})
    for element in ElementTree.fromstring(text).iter():
        name = element.tag.rpartition("}")[2]
        odd = [key for key in element.attrib if key.startswith("on") or key == "style" or key.endswith("href")]
        if name not in _ELEMENTS or odd:
            raise ValueError(f"a chart holds more than shapes and texts: <{name} {' '.join(odd)}>")
    return Markup(text)


def png(chart: dict[str, Any], scale: float = 2.0) -> bytes:
    """Render on white, with plain colours in place of the style sheet's."""
    config = {**_CONFIG, "background": "white"}
    return vl_convert.vegalite_to_png(_on_paper({**chart, "config": config}), scale=scale)


def _on_paper(value: Any) -> Any:
    """`value` with colours that need no style sheet."""
    if isinstance(value, dict):
        return {key: _on_paper(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_on_paper(one) for one in value]
    if value == _INK:
        return "#222222"
    if isinstance(value, str) and (match := re.fullmatch(r"var\(--d(\d+)\)", value)):
        return _PAPER[int(match[1]) % len(_PAPER)]
    return value
