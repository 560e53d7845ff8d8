"""A benchmark that the user brings: taken over as it is, and what later stages do where there is none."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.layout import shard_file, table_file
from pipeline.nsfwcaps_given import take_given
from pipeline.schemas import SCHEMAS
from pipeline.scoring_retrieval import read_quadruples
from pipeline.tables import Output, read_output
from stages.paraphrase import benchmark_captions
from tests.worldlet import make


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("given")).data.world


def test_pairs_of_a_split_are_taken_over(world: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    take_given(world, ["test"], tmp_path / "caps", lines.append)
    pairs = read_output(tmp_path / "caps", "pairs")
    assert pairs.equals(read_output(world, "pairs"))
    assert set(read_output(tmp_path / "caps", "captions")["caption_id"].to_pylist()) == {
        *pairs["safe_caption_id"].to_pylist(), *pairs["unsafe_caption_id"].to_pylist()
    }  # fmt: skip
    assert read_output(tmp_path / "caps", "images").num_rows == 2 * pairs.num_rows
    assert lines == [f"nsfwcaps/test: {pairs.num_rows} given pairs, 0 dropped for age words"]


def test_no_such_pairs_is_a_finished_empty_benchmark(world: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    take_given(world, ["benchmark"], tmp_path / "caps", lines.append)
    assert "the benchmark is empty" in lines[-1]
    assert read_quadruples("nsfwcaps", tmp_path / "caps", "h", split="benchmark").pairs == []
    assert benchmark_captions(tmp_path / "caps", "benchmark") == ({}, [])


def test_without_unsafe_images_only_safe_queries_are_asked(world: Path, tmp_path: Path) -> None:
    pairs = read_output(world, "pairs")
    place = pairs.schema.names.index("unsafe_image_id")
    pairs = pairs.set_column(place, "unsafe_image_id", pa.nulls(pairs.num_rows, pa.string()))
    output = Output(tmp_path / "caps", {"stage": "test"})
    output.write(table_file("pairs"), "pairs", pairs.select(SCHEMAS["pairs"].schema.names))
    output.write(shard_file("captions", 0), "captions", read_output(world, "captions"))
    output.finish()
    found = read_quadruples("nsfwcaps", tmp_path / "caps", "h", split="test")
    assert found.kinds == ("safe",) and len(found.pairs) == pairs.num_rows and found.left_out == 0
    assert read_quadruples("world_pairs", world, "h", split="test").kinds == ("safe", "unsafe")
