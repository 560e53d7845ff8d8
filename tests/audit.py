"""Known vulnerabilities of the lock's versions, as PyPI lists them.  python -m tests.audit [--write]

pip-audit's question (the advisories in PyPI's JSON pages) asked of the lock itself, so that nothing is installed or
resolved. An index that keeps pages of projects but not of versions answers for a project's newest version alone: the
rest is named as not audited, never as clean. `--write` puts the answer into docs/licences.md.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from pipeline.results.page import fill_file
from tests.licences import BLOCKS, PAGE, packages

INDEX = "https://pypi.org/pypi"
# Advisories that stay, with the reason why they do no harm here.
ACCEPTED = {
    "diskcache": "CVE-2025-69872: pickles in its cache folder are loaded, so whoever can write there can run code. DVC "
    "keeps its own state in such a folder inside `.dvc/tmp`, which is never shared or committed, and whoever can write "
    "there can change the stages, too. No release mends it; nearsafe does not use the package itself.",
}


def advisories(name: str, version: str) -> list[str] | None:
    """Ids of known vulnerabilities of a version; None where the index cannot say. Raises OSError without a network."""
    for url in (f"{INDEX}/{name}/{version}/json", f"{INDEX}/{name}/json"):
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError:
            continue
        if found["info"]["version"] == version:
            return [entry["id"] for entry in found["vulnerabilities"] if not entry.get("withdrawn")]
    return None


def report(found: dict[str, list[str] | None], versions: dict[str, str]) -> str:
    """The answer in Markdown."""
    unknown = [f"{name} {versions[name]}" for name, ids in found.items() if ids is None]
    known = {name: ids for name, ids in found.items() if ids}
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, `make audit`: {len(found) - len(unknown)} of {len(found)} packages audited, "
        f"{len(known)} with a known vulnerability.", "",
    ]  # fmt: skip
    for name, ids in known.items():
        lines += [f"- **{name} {versions[name]}** ({', '.join(ids)}). {ACCEPTED.get(name, 'Not looked at yet.')}"]
    if unknown:
        lines += [
            "",
            f"Not audited, because the index that was asked has no page of that version: {', '.join(unknown)}.",
        ]
    return "\n".join(lines).strip()


def main(write: bool) -> int:
    """1 where a vulnerability has no reason to stay."""
    rows = packages()
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda row: advisories(row[0], row[1]), rows)
        found = {row[0]: ids for row, ids in zip(rows, answers, strict=True)}
    text = report(found, {name: version for name, version, _ in rows})
    print(text)
    if write:
        fill_file(PAGE, {"audit": text}, BLOCKS)
    return int(any(ids and name not in ACCEPTED for name, ids in found.items()))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--write", action="store_true", help="put the answer into docs/licences.md")
    sys.exit(main(arguments.parse_args().write))
