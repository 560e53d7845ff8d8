"""Readers: every way that rows are held, one at a time; what is no row is counted, what is unreadable is an error."""

import io
import itertools
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import NearsafeError, TableError
from pipeline.sources.protocol import Drops, Place
from pipeline.sources.readers import number, read_rows, text

ROWS = [{"safe": "a kite"}, {"safe": "a boat"}]


def read(path, content, part=None):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    drops = Drops()
    return [(place.row, row) for place, row in read_rows(path, drops, part)], drops


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        (json.dumps(ROWS), [0, 1]),
        ("\ufeff" + json.dumps(ROWS), [0, 1]),
        (json.dumps({"7": ROWS[0], "3": ROWS[1]}), ["7", "3"]),
        (json.dumps({"info": {"a": 1}, "data": {"0": ROWS[0], "1": ROWS[1]}}), ["0", "1"]),
        (json.dumps({"info": "text", "data": ROWS}), [0, 1]),
        ("\n".join(map(json.dumps, ROWS)), [0, 1]),
    ],
)
def test_layouts_of_json(tmp_path, content, keys):
    assert read(tmp_path / "rows.json", content)[0] == list(zip(keys, ROWS, strict=True))


def test_lists_by_name_and_the_same_from_csv_and_parquet(tmp_path):
    named = json.dumps({"concepts": ["a"], "first": [], "second": ROWS})
    want = list(enumerate(ROWS))
    assert read(tmp_path / "a.json", named, "second")[0] == want
    assert read(tmp_path / "a.csv", "\ufeffsafe\na kite\n\na boat\n")[0] == [(0, ROWS[0]), (2, ROWS[1])]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    assert read(tmp_path / "a.parquet", sink.getvalue())[0] == want
    with pytest.raises(TableError, match="no list 'first' with rows"):
        read(tmp_path / "a.json", named, "first")


def test_what_is_no_row_is_counted_with_its_place(tmp_path):
    rows, drops = read(tmp_path / "a.json", json.dumps([ROWS[0], "text", None, ROWS[1]]))
    assert [row for row, _ in rows] == [0, 3] and drops.total("broken") == 2
    rows, drops = read(tmp_path / "a.csv", "safe,tag\na,b\na\nc,d\n")
    assert [row for row, _ in rows] == [0, 2]
    assert drops.examples["broken", "1 cells, the header has 2"] == [f"{tmp_path / 'a.csv'}: row 1"]


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("a.json", "", "not readable as JSON"),
        ("a.json", "7", "holds no rows"),
        ("a.json", '[{"safe": "a kite"}, {"safe": ', "after 1 rows: not readable as JSON"),
        ("a.json", '[{"safe": "a \xff kite"}]'.encode("latin1"), "not readable as JSON"),
        ("a.csv", 'safe\n"a kite', "after 0 rows: not readable as CSV"),
        ("a.csv", "safe,safe\n", "appears twice"),
        ("a.csv", b"safe\n\xff\xfe\n", "not readable as CSV"),
        ("a.parquet", "PAR1", "after 0 rows: not readable as Parquet"),
        ("a.pkl", "", "expected a file that ends in"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_one_line(tmp_path, name, content, named):
    with pytest.raises(NearsafeError, match=named) as error:
        read(tmp_path / name, content)
    assert "kite" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({}, "is missing"),
        ({"safe": None}, "is null"),
        ({"safe": 3}, "expected text, got int"),
        ({"safe": " \n"}, "is empty"),
        ({"safe": "a" * 2001}, "is longer than 2000 characters"),
        ({"safe": "a \ud800"}, "is no valid Unicode text"),
    ],
)
def test_a_cell_without_text(tmp_path, cells, reason):
    drops = Drops()
    assert text(cells, "safe", Place(tmp_path, 4), drops) is None
    assert drops.examples == {("broken", f"column 'safe': {reason}"): [f"{tmp_path}: row 4"]}


def test_numbers(tmp_path):
    drops = Drops()
    values = (7, "7", 7.0, "007", 0)
    assert [number({"id": value}, "id", Place(tmp_path, 0), drops) for value in values] == [7, 7, 7, 7, 0]
    for value in (None, -1, True, "7a", "²", 7.5, 2**63, "", float("nan")):
        assert number({"id": value}, "id", Place(tmp_path, 0), drops) is None
    assert drops.total() == 9


def test_a_large_file_is_not_held(tmp_path):
    with (tmp_path / "large.json").open("w") as file:
        file.write("[")
        for at in range(4000):
            file.write(("," if at else "") + json.dumps({"safe": f"{at} " + "kite " * 1000}))
        file.write("]")
    read(tmp_path / "small.json", json.dumps(ROWS))  # imports
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_rows(tmp_path / "large.json", Drops()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 4000 and peak < 6e6, "the file has 20 MB"
    first = list(itertools.islice(read_rows(tmp_path / "large.json", Drops()), 2))
    assert [place.row for place, _ in first] == [0, 1]
