"""Tables on disk: what a broken file says, and what an interrupted stage leaves."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import TableError
from pipeline.tables import SCHEMAS, Output, check_references, read_output, read_table, write_table

BUCKETS = [{"pair_id": f"p{i}", "difficulty": "easy", "cosine": 0.5} for i in range(3)]
EMBEDDINGS = {"item_id": ["a", "b"], "modality": ["text", "image"], "vector": np.eye(2, 4, dtype=np.float32)}


def rewrite(path: Path, change) -> None:
    """Replace the table in a valid file by `change(table)`, metadata kept: a file that another tool spoiled."""
    table = pq.read_table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


@pytest.fixture
def buckets(tmp_path: Path) -> Path:
    path = tmp_path / "buckets.parquet"
    write_table(path, "buckets", BUCKETS)
    return path


def refused(path: Path, name: str, *words: str) -> None:
    """Reading fails with one TableError that names the file and all `words`."""
    with pytest.raises(TableError) as caught:
        read_table(path, name)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_round_trip_keeps_rows_types_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "embeddings.parquet"
    write_table(path, "embeddings", EMBEDDINGS, metadata={"model_hash": "abc"})
    table = read_table(path, "embeddings")
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 4)
    assert table.column("vector").to_pylist()[1] == [0, 1, 0, 0]
    assert table.schema.metadata[b"model_hash"] == b"abc"
    assert table.schema.metadata[b"nearsafe.schema_version"] == b"1"


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_table(tmp_path / name, "embeddings", EMBEDDINGS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_missing_column(buckets: Path) -> None:
    rewrite(buckets, lambda table: table.drop_columns(["cosine"]))
    refused(buckets, "buckets", "'cosine'", "missing")


def test_extra_column(buckets: Path) -> None:
    rewrite(buckets, lambda table: table.append_column("note", pa.array(["x"] * 3)))
    refused(buckets, "buckets", "'note'", "not expected")


def test_wrong_type(buckets: Path) -> None:
    rewrite(buckets, lambda table: table.set_column(2, "cosine", pa.array(["a", "b", "c"])))
    refused(buckets, "buckets", "'cosine'", "string", "float")


def test_null_names_the_row(buckets: Path) -> None:
    rewrite(buckets, lambda table: table.set_column(2, "cosine", pa.array([0.1, 0.2, None], pa.float32())))
    refused(buckets, "buckets", "'cosine'", "row 2", "null")


def test_duplicate_key_names_both_rows(buckets: Path) -> None:
    rewrite(buckets, lambda table: table.set_column(0, "pair_id", pa.array(["p0", "p1", "p0"])))
    refused(buckets, "buckets", "pair_id='p0'", "row 2", "first in row 0")


def test_value_outside_a_closed_vocabulary(buckets: Path) -> None:
    rewrite(buckets, lambda table: table.set_column(1, "difficulty", pa.array(["easy", "brutal", "hard"])))
    refused(buckets, "buckets", "'difficulty'", "row 1", "'brutal'", "easy, hard, medium")


def test_empty_table(buckets: Path) -> None:
    rewrite(buckets, lambda table: table.slice(0, 0))
    refused(buckets, "buckets", "empty")
    assert read_table(buckets, "buckets", allow_empty=True).num_rows == 0


@pytest.mark.parametrize("keep", [0, 10, -20])
def test_truncated_file(buckets: Path, keep: int) -> None:
    buckets.write_bytes(buckets.read_bytes()[:keep])
    refused(buckets, "buckets", "not a readable Parquet file")


def test_damaged_pages_inside_an_intact_frame(tmp_path: Path) -> None:
    path = tmp_path / "buckets.parquet"
    write_table(path, "buckets", [{"pair_id": f"{i:032x}", "difficulty": "easy", "cosine": 0.1} for i in range(5000)])
    data = bytearray(path.read_bytes())
    data[100:4000] = b"\xff" * 3900
    path.write_bytes(bytes(data))
    refused(path, "buckets")


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "gone.parquet", "buckets", "no such file")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embedding_that_is_not_finite(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "embeddings.parquet"
    vectors = np.ones((3, 4), np.float32)
    vectors[2, 1] = bad
    columns = {"item_id": ["a", "b", "c"], "modality": ["text"] * 3, "vector": vectors}
    with pytest.raises(TableError, match=r"'vector', row 2 \(item_id='c'\)"):
        write_table(path, "embeddings", columns)
    assert not path.exists()
    write_table(path, "embeddings", columns | {"vector": np.ones((3, 4), np.float32)})
    spoiled = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 4)
    rewrite(path, lambda table: table.set_column(2, "vector", spoiled))
    refused(path, "embeddings", "'vector'", "row 2", "'c'")


def test_other_schema_version(buckets: Path) -> None:
    table = pq.read_table(buckets)
    metadata = {**table.schema.metadata, b"nearsafe.schema_version": b"99"}
    pq.write_table(table.replace_schema_metadata(metadata), buckets)
    refused(buckets, "buckets", "schema version 99", "version 1")


def test_other_table(buckets: Path) -> None:
    refused(buckets, "targets", "'buckets'", "'targets'")


def test_write_names_the_row_that_does_not_fit(tmp_path: Path) -> None:
    rows = [*BUCKETS, {"pair_id": "p9", "difficulty": "easy", "cosine": "high"}]
    with pytest.raises(TableError, match="'cosine', row 3: 'high'"):
        write_table(tmp_path / "b.parquet", "buckets", rows)
    with pytest.raises(TableError, match="'extra' is not expected"):
        write_table(tmp_path / "b.parquet", "buckets", [{**BUCKETS[0], "extra": 1}])
    assert list(tmp_path.iterdir()) == []


def test_failed_write_keeps_the_old_file(buckets: Path) -> None:
    before = buckets.read_bytes()
    with pytest.raises(TableError):
        write_table(buckets, "buckets", [{**BUCKETS[0], "cosine": float("nan")}])
    assert buckets.read_bytes() == before


def test_every_table_survives_when_all_nullable_columns_are_null(tmp_path: Path) -> None:
    samples = {pa.string(): "x", pa.bool_(): True, pa.int32(): 1, pa.int64(): 1, pa.float32(): 0.5, pa.float64(): 0.5}
    for name, contract in SCHEMAS.items():
        row = {}
        for field in contract.schema:
            value = samples.get(field.type, [0.5] * 4 if pa.types.is_list(field.type) else {"bytes": b"", "path": None})
            value = sorted(contract.choices[field.name])[0] if field.name in contract.choices else value
            row[field.name] = None if field.name in contract.nullable else value
        write_table(tmp_path / f"{name}.parquet", name, [row])
        read = read_table(tmp_path / f"{name}.parquet", name)
        for field in contract.schema:
            if field.name in contract.nullable:
                assert read.schema.field(field.name).type == field.type, "an all-null column must keep its type"


def test_dangling_reference(buckets: Path) -> None:
    table = read_table(buckets, "buckets")
    check_references(table, "pair_id", {"p0", "p1", "p2"}, buckets, "pairs")
    with pytest.raises(TableError, match=re.escape(f"{buckets}: column 'pair_id', row 1: 'p1' is not in pairs")):
        check_references(table, "pair_id", pa.chunked_array([["p0"], ["p2"]]), buckets, "pairs")


def shards(path: Path, spec: dict, resume: bool = False, stop_after: int = 2, numbers: range = range(2)) -> list[int]:
    """A stage of two shards; returns the shards it really made. `stop_after` interrupts it."""
    output, made = Output(path, spec, resume), []
    for number in numbers:
        if number == stop_after:
            return made
        name = f"buckets-{number:05d}.parquet"
        if not output.done(name):
            output.write(name, "buckets", [{"pair_id": f"p{number}", "difficulty": "easy", "cosine": 0.1}])
            made.append(number)
    output.finish()
    return made


def test_interrupted_output_is_refused_then_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    shards(tmp_path / "whole", {"lr": 0.1})
    shards(tmp_path / "part", {"lr": 0.1}, stop_after=1)
    with pytest.raises(TableError, match=r"no manifest\.json: the stage .* did not finish"):
        read_output(tmp_path / "part", "buckets")
    assert shards(tmp_path / "part", {"lr": 0.1}, resume=True) == [1]
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "part" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(("spec", "resume"), [({"lr": 0.2}, True), ({"lr": 0.1}, False)])
def test_other_spec_or_no_resume_empties_the_directory(tmp_path: Path, spec: dict, resume: bool) -> None:
    shards(tmp_path / "out", {"lr": 0.1})
    assert shards(tmp_path / "out", spec, resume, numbers=range(1)) == [0]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "buckets-00000.parquet",
        "manifest.json",
        "spec.json",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_truncated_shard_is_made_again(tmp_path: Path) -> None:
    shards(tmp_path / "out", {"lr": 0.1}, stop_after=1)
    shard = tmp_path / "out" / "buckets-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:50])
    assert shards(tmp_path / "out", {"lr": 0.1}, resume=True) == [0, 1]


def test_manifest_lists_files_of_a_folder_and_drops_what_is_not_listed(tmp_path: Path) -> None:
    output = Output(tmp_path / "out", {})
    (tmp_path / "out/seed-0").mkdir()
    (tmp_path / "out/seed-0/config.json").write_text("{}")
    (tmp_path / "out/resume").mkdir()
    (tmp_path / "out/resume/state.safetensors").write_text("x")
    output.add_file("seed-0")
    output.finish()
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert [entry["name"] for entry in manifest["files"]] == ["seed-0/config.json"]
    assert not (tmp_path / "out/resume").exists()


def test_read_output_finds_duplicates_across_shards_and_missing_rows(tmp_path: Path) -> None:
    output = Output(tmp_path / "out", {})
    for number in range(2):
        output.write(f"buckets-{number:05d}.parquet", "buckets", BUCKETS)
    output.finish()
    with pytest.raises(TableError, match="row 3: duplicate key pair_id='p0'"):
        read_output(tmp_path / "out", "buckets")
    write_table(tmp_path / "out/buckets-00001.parquet", "buckets", [{**BUCKETS[0], "pair_id": "new"}])
    with pytest.raises(TableError, match="1 rows, the manifest lists 3"):
        read_output(tmp_path / "out", "buckets")
    (tmp_path / "out/buckets-00001.parquet").unlink()
    with pytest.raises(TableError, match=r"buckets-00001\.parquet: no such file"):
        read_output(tmp_path / "out", "buckets")
    with pytest.raises(TableError, match="no file of table 'targets'"):
        read_output(tmp_path / "out", "targets")


def test_an_empty_shard_is_fine_and_an_empty_whole_is_not(tmp_path: Path) -> None:
    output = Output(tmp_path / "out", {})
    output.write("buckets-00000.parquet", "buckets", [])
    output.write("buckets-00001.parquet", "buckets", BUCKETS)
    output.finish()
    assert read_output(tmp_path / "out", "buckets").num_rows == 3
    empty = Output(tmp_path / "empty", {})
    empty.write("buckets-00000.parquet", "buckets", [])
    empty.finish()
    with pytest.raises(TableError, match="empty"):
        read_output(tmp_path / "empty", "buckets")
