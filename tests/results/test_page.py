"""Tables between markers are rewritten; nothing else on the page ever is."""

from pathlib import Path

import pytest

from pipeline.errors import NearsafeError
from pipeline.results.page import fill, fill_file

PAGE = """# Findings

By hand, <!-- end --> inline does not count.

<!-- table: a -->
old a
<!-- end -->
Between.
<!-- table: b -->
old b
<!-- end -->
No newline at the end"""


def test_only_the_named_block_changes() -> None:
    filled = fill(PAGE, {"a": "| new |"}, {"a", "b"}, "page.md")
    assert filled == PAGE.replace("old a\n", "\n| new |\n\n")
    assert fill(filled, {"a": "| new |"}, {"a", "b"}, "page.md") == filled, "twice is once"
    assert fill(PAGE, {}, {"a", "b"}, "page.md") == PAGE


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- table: c -->\n<!-- end -->", "line 1: unknown table 'c'; known: a, b"),
        ("x\n<!-- table: a -->\ntext", "line 2: table 'a' is never closed"),
        ("<!-- table: a -->\n<!-- table: b -->\n<!-- end -->", "line 1: table 'a' is not closed before the next"),
        ("<!-- end -->", "line 1: .* without a table"),
        ("<!-- table: a -->\n<!-- end -->\n<!-- table: a -->\n<!-- end -->", "line 3: table 'a' stands there twice"),
    ],
)
def test_a_broken_page_is_one_clear_error_and_stays_as_it_is(page: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(page)
    with pytest.raises(NearsafeError, match=message):
        fill_file(file, {"a": "new"}, {"a", "b"})
    assert file.read_text() == page
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]


def test_a_table_without_a_place_is_named(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(PAGE)
    assert fill_file(file, {"a": "x", "elsewhere": "y"}, {"a", "b", "elsewhere"}) == ["elsewhere"]
    with pytest.raises(NearsafeError, match="no.md: cannot be read"):
        fill_file(tmp_path / "no.md", {}, {"a"})
