"""Identifiers that depend on content alone, never on row numbers or order."""

import hashlib
import json


def content_id(*parts: str, prefix: str = "") -> str:
    """`prefix` and 16 hexadecimal digits of the SHA-256 of `parts` (each part kept apart, so "ab","c" != "a","bc")."""
    encoded = json.dumps(parts, ensure_ascii=False).encode()
    return prefix + hashlib.sha256(encoded).hexdigest()[:16]


def is_unicode(text: str) -> bool:
    """Can `text` be written, hashed and kept in a table? Not half of a surrogate pair, as JSON may hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def whole_number(text: str) -> int | None:
    """The number that the digits of `text` write; None for anything else, and for more digits than a number needs."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
