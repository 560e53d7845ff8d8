"""How far a stage has come, read from what it prints: "50 of 200 images", "step 40/120"."""

import re

# Numbers of a version, a date or a path are no progress: nothing of that may touch them. Nor is what a filter dropped.
_PAIR = re.compile(r"(?<!dropped )(?<![\w./:-])(\d{1,9})(?: of (?:about )?|/)(\d{1,9})(?![\w/-]|\.\d)(?! failed)")


def fraction(line: str) -> float | None:
    """Share (0 to 1) that a line speaks of, None if of none. Of several pairs the last counts: mostly the finest."""
    pairs = [(int(done), int(whole)) for done, whole in _PAIR.findall(line)]
    shares = [done / whole for done, whole in pairs if done <= whole and whole > 1]
    return shares[-1] if shares else None
