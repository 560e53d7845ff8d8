"""docs/reliability.md is made of what the fault tests count, whatever part of them ran."""

from datetime import date

import pytest

from tests.faults import page
from tests.faults.record import record


def test_the_page_takes_a_log_of_which_a_part_is_missing(tmp_path, monkeypatch):
    log = tmp_path / "faults.jsonl"
    monkeypatch.setenv("NEARSAFE_FAULTS_LOG", str(log))
    record("kill", 1, 1, "train")
    record("fuzz | bytes", 500, 499, "<b>")
    record("kill", 2, 1, "train")
    with log.open("a") as file:
        file.write('{"subject": "half')
    (tmp_path / "page.md").write_text(f"above\n{page.BEGIN}\nold\n{page.END}\nbelow\n")
    page.main(log, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert text.startswith(f"above\n{page.BEGIN}\n20") and text.endswith(f"{page.END}\nbelow\n") and "old" not in text
    assert "| kill | 3 | 2 | train |" in text and "| fuzz \\| bytes | 500 | 499 |" in text
    assert "| **all** | **503** | **501** | |" in text


def test_nothing_is_counted_without_a_log_and_the_shipped_page_can_be_filled(monkeypatch):
    monkeypatch.delenv("NEARSAFE_FAULTS_LOG", raising=False)
    record("kill", 1, 1)
    shipped = page.PAGE.read_text()
    filled = page.fill(shipped, [], date(2026, 1, 1), "a machine")
    assert page.fill(filled, [], date(2026, 1, 1), "a machine") == filled
    with pytest.raises(ValueError, match="expected one"):
        page.fill("no markers", [], date(2026, 1, 1), "a machine")
