"""The Parquet reader on hostile files and manifests: the rows that were written, or one line that names the file."""

import io
import json
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import TableError
from pipeline.schemas import SCHEMAS
from pipeline.shards import iterate_output, parts
from pipeline.tables import Output, read_manifest, read_output, read_table, write_table
from tests.faults.hostile import VALUES, damage, spoil
from tests.faults.record import record

ROWS = [
    {"caption_id": f"c{n}", "text": f"a kite {n}", "unsafe": False, "category": None, "source": "s", "split": "train",
     "family": "f"}
    for n in range(6)
]  # fmt: skip
VECTORS = {"item_id": ["a", "b"], "modality": ["text", "text"], "vector": np.eye(2, 4, dtype=np.float32)}


def one_line(error: TableError, named: str) -> None:
    assert len(str(error).splitlines()) == 1 and named in str(error)


def fuzz_bytes(folder: Path, count: int) -> None:
    """Damaged files of two tables: either they are refused, or what is read keeps its schema and can be used."""
    outcomes = {True: 0, False: 0}
    originals = {}
    for name, rows in (("captions", ROWS), ("embeddings", VECTORS)):
        write_table(folder / f"{name}.parquet", name, rows)
        originals[name] = (folder / f"{name}.parquet").read_bytes()

    @settings(max_examples=count, deadline=None, derandomize=True, database=None)
    @given(st.sampled_from(sorted(originals)), st.integers(0, 2**32))
    def run(name: str, seed: int) -> None:
        file = folder / "x.parquet"
        file.write_bytes(damage(Random(seed), originals[name]))
        try:
            found = read_table(file, name)
        except TableError as error:
            one_line(error, "x.parquet")
            outcomes[False] += 1
            return
        assert found.schema.names == SCHEMAS[name].schema.names
        found.to_pylist()
        outcomes[True] += 1

    run()
    record("tables, damaged bytes", sum(outcomes.values()), sum(outcomes.values()), f"{outcomes[False]} refused")


def test_damaged_bytes_are_a_table_or_one_line(tmp_path):
    fuzz_bytes(tmp_path, 400)


@pytest.mark.faults
def test_many_damaged_bytes_are_a_table_or_one_line(tmp_path):
    fuzz_bytes(tmp_path, 3000)


def fuzz_rows(folder: Path, count: int) -> None:
    """Rows of hostile values: what is written is read as it was given, and what is refused leaves the old file."""
    outcomes = {True: 0, False: 0}
    write_table(folder / "x.parquet", "captions", ROWS)
    before = (folder / "x.parquet").read_bytes()

    @settings(max_examples=count, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 2**32))
    def run(seed: int) -> None:
        random = Random(seed)
        rows = [spoil(random, row, 0.03) for row in ROWS]
        rows = [row for row in rows if isinstance(row, dict)]
        try:
            write_table(folder / "x.parquet", "captions", rows)
        except TableError as error:
            one_line(error, "x.parquet")
            assert (folder / "x.parquet").read_bytes() == before
            outcomes[False] += 1
        else:
            names = SCHEMAS["captions"].schema.names
            expected = [{name: row.get(name) for name in names} for row in rows]
            assert read_table(folder / "x.parquet", "captions").to_pylist() == expected
            (folder / "x.parquet").write_bytes(before)
            outcomes[True] += 1
        assert [path.name for path in folder.iterdir()] == ["x.parquet"], "no temporary file is left"

    run()
    assert min(outcomes.values()) > 0
    record("tables, hostile rows", sum(outcomes.values()), sum(outcomes.values()), f"{outcomes[False]} refused")


def test_hostile_rows_are_kept_or_refused(tmp_path):
    fuzz_rows(tmp_path, 200)


@pytest.mark.faults
def test_many_hostile_rows_are_kept_or_refused(tmp_path):
    fuzz_rows(tmp_path, 2000)


def stored(table: pa.Table, name: str = "captions", version: bytes = b"1") -> bytes:
    """A file that says it holds table `name`."""
    sink = io.BytesIO()
    said = {b"nearsafe.schema": name.encode(), b"nearsafe.schema_version": version}
    pq.write_table(table.replace_schema_metadata(said), sink)
    return sink.getvalue()


def changed(column: str, values: pa.Array) -> pa.Table:
    table = pa.Table.from_pylist(ROWS, schema=SCHEMAS["captions"].schema)
    return table.set_column(table.column_names.index(column), column, values)


SOUND = pa.Table.from_pylist(ROWS, schema=SCHEMAS["captions"].schema)
NOT_UTF8 = pa.array([b"\xff\xfe"] * 6, pa.binary()).view(pa.string())
LIES = {
    "text that is no UTF-8": (stored(changed("text", NOT_UTF8)), "UTF8"),
    "a null": (stored(changed("text", pa.array(["a"] * 5 + [None]))), "row 5: null"),
    "a number as text": (stored(changed("text", pa.array(range(6)))), "'text' has type int64"),
    "a key twice": (stored(changed("caption_id", pa.array(["a"] * 6))), "row 1: duplicate key"),
    "a column twice": (stored(SOUND.append_column("text", SOUND["text"])), "'text'"),
    "another column": (stored(SOUND.append_column("more", SOUND["text"])), "'more' is not expected"),
    "a column gone": (stored(SOUND.drop_columns(["family"])), "'family' is missing"),
    "another table": (stored(SOUND, "images"), "holds table 'images'"),
    "another version": (stored(SOUND, version=b"99"), "schema version 99"),
    "a version that is no text": (stored(SOUND, version=b"\xff"), "schema version"),
    "no rows": (stored(SOUND.slice(0, 0)), "the table is empty"),
    "no table": (b"PAR1", "not a readable Parquet file"),
    "nothing": (b"", "not a readable Parquet file"),
    "JSON": (b'{"a": 1}', "not a readable Parquet file"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_table_that_breaks_its_contract_is_one_line(tmp_path, name):
    content, said = LIES[name]
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(TableError) as error:
        read_table(tmp_path / "x.parquet", "captions")
    one_line(error.value, "x.parquet")
    assert said in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_neither_written_nor_read(tmp_path, value):
    vectors = np.array([[1, 0], [0, value]], np.float32)
    with pytest.raises(TableError, match=r"row 1 \(item_id='b'\): NaN, infinite or null number"):
        write_table(tmp_path / "x.parquet", "embeddings", {**VECTORS, "vector": vectors})
    assert not list(tmp_path.iterdir())
    list_of = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 2)
    table = pa.table({"item_id": ["a", "b"], "modality": ["text", "text"], "vector": list_of})
    (tmp_path / "x.parquet").write_bytes(stored(table, "embeddings"))
    with pytest.raises(TableError, match=r"row 1 \(item_id='b'\): NaN, infinite or null number"):
        read_table(tmp_path / "x.parquet", "embeddings")


def output(folder: Path) -> Path:
    made = Output(folder, {"stage": "test"})
    for number in (0, 1):
        made.write(
            f"captions-0000{number}.parquet",
            "captions",
            [{**row, "caption_id": f"{number}{n}"} for n, row in enumerate(ROWS)],
        )
    made.finish()
    return folder


def test_a_manifest_that_lies_is_one_line_that_names_it(tmp_path):
    """Entries of hostile values, and names that lead elsewhere: nothing outside the folder is read."""
    folder = output(tmp_path / "made")
    outside = tmp_path / "x.parquet"
    outside.write_bytes((folder / "captions-00000.parquet").read_bytes())
    text = (folder / "manifest.json").read_text()
    true = json.loads(text)
    lies: list[object] = [*VALUES, {}, {"files": []}, {"files": [{}], "spec": {}}, {"spec": {}, "files": [None]}]
    for key in ("name", "table", "rows", "sha256"):
        for value in (*VALUES, "../x.parquet", str(outside), "captions-00001.parquet", "gone.parquet"):
            entry = {**true["files"][0], key: value}
            lies.append({**true, "files": [entry, true["files"][1]]})
        lies.append({**true, "files": [{k: v for k, v in true["files"][0].items() if k != key}]})
    read = 0
    contents = [json.dumps(lie).encode() for lie in lies] + [b"", b"{", b"[" * 100_000, b"\xff", b"9" * 5000]
    for content in contents:
        (folder / "manifest.json").write_bytes(content)
        for reader in (read_output, lambda path, name: [part for _, part in iterate_output(path, name)]):
            try:
                reader(folder, "captions")
                read += json.loads(content) != true
            except TableError as error:
                one_line(error, "made")
    # An entry that says "no table" leaves its file out, as the one of a file that is none does.
    assert read <= 4, "lies that no reader notices"
    (folder / "manifest.json").write_text(text)
    assert read_output(folder, "captions").num_rows == 12 and len(parts(folder, "captions")) == 2
    record("manifests that lie", len(contents), len(contents))


def test_half_an_output_is_none(tmp_path):
    made = Output(tmp_path / "made", {"stage": "test"})
    made.write("captions.parquet", "captions", ROWS)
    with pytest.raises(TableError, match=r"no manifest\.json: the stage that writes this directory did not finish"):
        read_manifest(tmp_path / "made")
