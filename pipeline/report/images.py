"""The images of a page: made small, hidden where they must be, embedded once however often they are shown."""

import base64
import hashlib
import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from pipeline.images import encode_png
from pipeline.results.picture import hide

LARGEST = 192  # pixels of the longer side; a larger image is made smaller
_LOSSLESS = 96  # up to this side as PNG, byte for byte what it was


class Images:
    """Images as data URIs by the hash of their bytes, in the order in which they were first added."""

    def __init__(self) -> None:
        self._uris: dict[str, tuple[str, int, int]] = {}

    def add(self, image: Image.Image, hidden: bool) -> str:
        """Keep an image and return its key. `hidden`: its squares' mean colours alone reach the page."""
        small = image.convert("RGB")
        small.thumbnail((LARGEST, LARGEST))
        if hidden:
            small = Image.fromarray(hide(np.asarray(small)))
        data, kind = _encode(small, hidden)
        key = hashlib.sha256(data).hexdigest()[:16]
        if key not in self._uris:
            uri = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
            self._uris[key] = (uri, *small.size)
        return key

    def keep(self, data: bytes) -> tuple[str, tuple[int, int]]:
        """Keep a PNG file as it is; return its key and size. Raises OSError where it is none."""
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            size = image.size
        key = hashlib.sha256(data).hexdigest()[:16]
        self._uris[key] = (f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}", *size)
        return key, size

    def all(self) -> Iterable[tuple[str, str, int, int]]:
        """(key, data URI, width, height) of every image."""
        return [(key, *entry) for key, entry in self._uris.items()]

    def size(self, key: str) -> tuple[int, int]:
        """Width and height of an image that was added."""
        return self._uris[key][1:]


def _encode(image: Image.Image, hidden: bool) -> tuple[bytes, str]:
    """PNG where that is small or must be exact, else WebP."""
    if hidden or max(image.size) <= _LOSSLESS:
        return encode_png(image), "png"
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=82, method=4)
    return buffer.getvalue(), "webp"
