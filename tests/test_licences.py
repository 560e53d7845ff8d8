"""docs/licences.md and the audit: nothing of the lock is left out, and what nobody looked at is said."""

import io
import json
import urllib.error

import pytest

from tests import audit, licences


def test_the_page_lists_the_lock():
    rows = licences.packages()
    assert len(rows) > 200 and {"torch", "nudenet", "hypothesis"} <= {name for name, _, _ in rows}
    assert licences.block(rows).strip() in licences.PAGE.read_text(encoding="utf-8"), "python -m tests.licences"


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("MIT", "permissive"),
        ("MPL-2.0 AND MIT", "file copyleft (MPL)"),
        ("Apache-2.0 OR GPL-2.0-or-later", "a choice"),
        ("GPL-2.0-only WITH linking exception", "GPL with a linking exception"),
    ],
)
def test_a_licence_has_a_kind(expression, found):
    assert licences.kind(expression) == found


@pytest.mark.parametrize("expression", ["AGPL-3.0-only", "LGPL-3.0", "Proprietary"])
def test_a_licence_that_nobody_has_looked_at_stops_the_page(expression):
    with pytest.raises(KeyError, match=expression):
        licences.kind(expression)


def test_the_audit_tells_clean_from_not_audited(monkeypatch, capsys):
    """An index without pages of versions answers for the newest one alone."""
    pages = {"a/json": ("2.0", []), "b/json": ("1.0", ["PYSEC-1"]), "c/json": ("9.0", [])}

    def opened(url, timeout):
        key = url.removeprefix(f"{audit.INDEX}/")
        if key not in pages:
            raise urllib.error.HTTPError(url, 404, "no such page", {}, io.BytesIO())
        version, ids = pages[key]
        found = [{"id": one, "withdrawn": None} for one in ids]
        return io.BytesIO(json.dumps({"info": {"version": version}, "vulnerabilities": found}).encode())

    monkeypatch.setattr(audit.urllib.request, "urlopen", opened)
    rows = [("a", "2.0", "MIT"), ("b", "1.0", "MIT"), ("c", "1.0", "MIT")]
    monkeypatch.setattr(audit, "packages", lambda: rows)
    assert audit.main(write=False) == 1
    said = capsys.readouterr().out
    assert "2 of 3 packages audited, 1 with a known vulnerability" in said
    assert "**b 1.0** (PYSEC-1). Not looked at yet." in said and said.strip().endswith(
        "no page of that version: c 1.0."
    )
    monkeypatch.setitem(audit.ACCEPTED, "b", "a reason")
    assert audit.main(write=False) == 0
