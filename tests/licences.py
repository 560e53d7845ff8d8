"""The packages of docs/licences.md: every line of the lock with its licence.  python -m tests.licences

Read from the installed packages' own metadata; a few say too little there, and are given here as their licence files
have it.
"""

import re
from importlib import metadata
from pathlib import Path

from pipeline.results.page import fill_file

LOCK, PAGE = Path("requirements.lock"), Path("docs/licences.md")
# From the licence files inside the packages, where the metadata is silent or names one of several.
STATED = {
    "antlr4-python3-runtime": "BSD-3-Clause",
    "asyncssh": "EPL-2.0 OR GPL-2.0-or-later",
    "grandalf": "GPL-2.0-only OR EPL-1.0",
    "pygit2": "GPL-2.0-only WITH linking exception",
    "text-unidecode": "Artistic-1.0 OR GPL-2.0-or-later",
}
SHORT = {
    "MIT License": "MIT", "BSD License": "BSD",
    "Apache Software License": "Apache-2.0", "Apache License 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0", "Apache 2.0": "Apache-2.0", "ISC License (ISCL)": "ISC",
    "3-Clause BSD License": "BSD-3-Clause", "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0", "Zope Public License": "ZPL-2.1",
}  # fmt: skip
KINDS = {
    "permissive": "Use, change, pass on and sell; keep the notices when you pass the package on.",
    "file copyleft (MPL)": "As permissive, but changed files of the package itself stay under the MPL.",
    "a choice": "One side of the choice asks for no more than notices, or than the source of the package's own changed "
    "files (EPL); take that one. nearsafe only imports the package.",
    "GPL with a linking exception": "Linking and passing on unchanged puts no condition on your code; changes to the "
    "library itself stay under the GPL.",
}
BLOCKS = ("packages", "audit")  # the latter is filled by tests/audit.py


def packages(lock: Path = LOCK) -> list[tuple[str, str, str]]:
    """(name, version, licence) of every line of the lock, in its order. Raises PackageNotFoundError."""
    found = []
    for line in lock.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        name, version = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?==(\S+)", line.strip()).groups()
        found.append((name, version, licence(name)))
    return found


def licence(name: str) -> str:
    """As an SPDX expression where the package gives one."""
    if name in STATED:
        return STATED[name]
    own = metadata.metadata(name)
    listed = [line.split("::")[-1].strip() for line in own.get_all("Classifier") or [] if line.startswith("License")]
    first = (own.get("License") or "").split("\n")[0]
    texts = [own.get("License-Expression")] if own.get("License-Expression") else listed or [first]
    return " OR ".join(SHORT.get(text, text) for text in texts)


def kind(expression: str) -> str:
    """Which of KINDS. Raises KeyError for a licence that nobody has looked at."""
    if "WITH linking exception" in expression:
        return "GPL with a linking exception"
    if re.search(r"\b[AL]?GPL|EPL", expression):
        if " OR " not in expression:
            raise KeyError(f"{expression}: strong copyleft without a choice")
        return "a choice"
    if "MPL" in expression:
        return "file copyleft (MPL)"
    if re.search(r"MIT|BSD|Apache|ISC|PSF|ZPL|Zlib|CC0", expression):
        return "permissive"
    raise KeyError(f"{expression!r}: unknown licence")


def block(rows: list[tuple[str, str, str]]) -> str:
    """The packages in Markdown, by kind."""
    parts = []
    for name, meaning in KINDS.items():
        own = [row for row in rows if kind(row[2]) == name]
        lines = [f"## {name[0].upper()}{name[1:]}: {len(own)}", "", meaning, ""]
        if name == "permissive":
            by_licence: dict[str, list[str]] = {}
            for package, version, expression in own:
                by_licence.setdefault(expression, []).append(f"{package} {version}")
            lines += [f"- **{key}**: {', '.join(by_licence[key])}" for key in sorted(by_licence)]
        else:
            lines += ["| package | version | licence |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in own)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


if __name__ == "__main__":
    fill_file(PAGE, {"packages": block(packages())}, BLOCKS)
