"""The page's Content-Security-Policy, and data URIs for downloads."""

import base64
import csv
import hashlib
import io
from collections.abc import Sequence
from typing import Any

DIGITS = 6
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def policy(style: str, script: str) -> str:
    """Nothing is loaded and nothing runs but the page's own style sheet and script, which are named by hash."""
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src '{source_hash(style)}'",
            f"script-src '{source_hash(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def source_hash(text: str) -> str:
    """The hash source of an inline element with exactly this text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def csv_uri(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a CSV file in a data URI. Text that a spreadsheet would run gets an apostrophe."""
    buffer = io.StringIO()
    if rows:
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    return data_uri(buffer.getvalue().encode("utf-8"), "text/csv")


def data_uri(data: bytes, kind: str) -> str:
    """A data URI of some bytes."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return value
