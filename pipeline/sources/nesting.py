"""JSON that nests no deeper than rows do: a parser's work on each level grows with the levels above it."""

from typing import BinaryIO

import numpy as np

MAX_DEPTH = 1000
_OTHERS = bytes(sorted(set(range(256)) - set(b"[]{}")))
_STEPS = np.zeros(256, np.int64)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1


class TooDeepError(ValueError):
    """More than `MAX_DEPTH` lists and objects in one another."""


class Shallow:
    """A file that is read as it is, until it nests too deep: then `read` raises TooDeepError."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._depth, self._inside, self._held = 0, 0, b""

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes."""
        block = self._stream.read(size)
        data = self._held + block
        cut = (len(data) - len(data.rstrip(b"\\"))) % 2  # a backslash whose character is in the next block
        self._held, data = data[len(data) - cut :], data[: len(data) - cut]
        # Without what is escaped, quotes open and close texts in turn, and brackets in texts are none.
        parts = data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        brackets = b"".join(parts[self._inside :: 2]).translate(None, _OTHERS)
        self._inside = (self._inside + len(parts) - 1) % 2
        if brackets:
            depths = self._depth + _STEPS[np.frombuffer(brackets, np.uint8)].cumsum()
            if depths.max() > MAX_DEPTH:
                raise TooDeepError(f"more than {MAX_DEPTH} lists and objects in one another")
            self._depth = int(depths[-1])
        return block
