"""Identifiers that depend on content alone, never on row numbers or order, and the names that users may give."""

import hashlib
import json
import re

# Names become parts of paths, commands, SQL and pages: neither may hold a character that means something there.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,=+-]{0,99}")
NAME_RULE = "a name has a-z, 0-9 and _, begins with a letter and has at most 64 characters"
LABEL_RULE = "a name has letters, digits and _.,=+-, begins with a letter or digit and has at most 100 characters"


def is_name(text: str) -> bool:
    """Whether a prompt set, an image set, a source or an attack may be called so: `NAME_RULE`."""
    return _NAME.fullmatch(text) is not None


def is_label(text: str) -> bool:
    """Whether a defence may be called so: `LABEL_RULE`. A point of a sweep is named by its settings."""
    return _LABEL.fullmatch(text) is not None


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
