"""Ingestion: resumed runs leave the same bytes, memory is bounded, duplicates go, too many broken rows are an error."""

import json
import tracemalloc
from dataclasses import dataclass

import pytest

from pipeline.errors import NearsafeError, TableError
from pipeline.images import decode_image
from pipeline.sources import convert, segments
from pipeline.sources.ingest import ingest
from pipeline.sources.protocol import CaptionRow, ImageRow, LabelRow, PairRow, Place, Record
from pipeline.sources.registry import Entry, SourcesParams
from stages import embed, world
from tests.models.tiny import save_clip
from tests.sources.conftest import dropped, tables
from tests.sources.files import put, visu_hub, visu_images, visu_row

ENTRY = {
    "kind": "visu",
    "texts": "visu",
    "safe_images": "coco",
    "unsafe_images": "unsafe",
    "splits": {"train": "train"},
}
SMALL = {"shard_rows": 8}


def visu_with_drops(tmp_path, count=40):
    rows = visu_hub(tmp_path, count)
    rows[6]["safe"] = "a teenager with a kite"
    rows[20]["nsfw"] = None
    rows[30] = rows[29]
    put(tmp_path / "visu/ViSU-Text_train.json", rows)
    return rows


def content(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


class Crash(BaseException):
    """As a kill would be."""


@pytest.mark.parametrize("at", [1, 25, 62, 70])
def test_a_killed_run_goes_on_and_leaves_the_same_bytes(tmp_path, run, monkeypatch, at):
    visu_with_drops(tmp_path)
    run(visu=ENTRY, knobs=SMALL, out="whole")
    true, calls, crashed = convert.image_cell, [], []

    def failing(row, copy):
        calls.append(row.key)
        if len(calls) >= at and not crashed:  # images are checked in threads
            crashed.append(at)
            raise Crash
        return true(row, copy)

    monkeypatch.setattr(convert, "image_cell", failing)
    with pytest.raises(Crash):
        run(visu=ENTRY, knobs=SMALL, out="cut")
    assert not (tmp_path / "cut/manifest.json").exists()
    before = len(calls)
    run(visu=ENTRY, knobs=SMALL, out="cut")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    assert len(calls) - before <= 74 - at + 16, "images of finished shards are not read again"


def test_a_crash_between_the_shards_and_the_state_is_harmless(tmp_path, run, monkeypatch):
    visu_with_drops(tmp_path)
    run(visu=ENTRY, knobs=SMALL, out="whole")
    true, commits = segments.Seen.commit, []

    def failing(self):
        commits.append(1)
        true(self)
        if len(commits) == 4:
            raise Crash

    monkeypatch.setattr(segments.Seen, "commit", failing)
    with pytest.raises(Crash):
        run(visu=ENTRY, knobs=SMALL, out="cut")
    run(visu=ENTRY, knobs=SMALL, out="cut")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_a_damaged_shard_or_a_changed_file_begins_the_run_anew(tmp_path, run, monkeypatch):
    rows = visu_with_drops(tmp_path)
    true, calls = segments.Segments.commit, []

    def failing(self, entry, progress):
        calls.append(1)
        if len(calls) == 4:
            raise Crash
        true(self, entry, progress)

    for change in ("shard", "file"):
        calls.clear()
        monkeypatch.setattr(segments.Segments, "commit", failing)
        with pytest.raises(Crash):
            run(visu=ENTRY, knobs=SMALL, out=change)
        monkeypatch.undo()
        if change == "shard":
            (tmp_path / change / "captions-00001.parquet").write_bytes(b"PAR1")
        else:
            rows[0]["safe"] = "a yellow kite over a field"
            put(tmp_path / "visu/ViSU-Text_train.json", rows)
        found = run(visu=ENTRY, knobs=SMALL, out=change)
        assert len(found["pairs"]) == 37
    assert "a yellow kite over a field" in {row["text"] for row in found["captions"]}


def test_entries_come_in_order_of_their_names_and_a_shared_caption_is_not_lost(tmp_path, run):
    visu_hub(tmp_path, 3)
    visu_hub(tmp_path / "b", 2)
    second = {**ENTRY, "texts": "b/visu", "safe_images": "b/coco", "unsafe_images": "b/unsafe"}
    one = run(zulu=ENTRY, alpha=second)
    two = run(alpha=second, zulu=ENTRY, out="two")
    assert one == two and [row["source"] for row in one["captions"]] == ["alpha"] * 4 + ["zulu"] * 6


def test_the_order_of_rows_changes_no_row(tmp_path, run):
    rows = visu_hub(tmp_path, 20)
    first = run(visu=ENTRY)
    put(tmp_path / "visu/ViSU-Text_train.json", rows[::-1])
    again = run(visu=ENTRY, out="again")
    for name in ("captions", "images", "pairs", "origins"):
        assert sorted(map(repr, first[name])) == sorted(map(repr, again[name]))


def test_a_duplicate_far_away_is_dropped(tmp_path, run):
    rows = visu_hub(tmp_path, 30)
    put(tmp_path / "visu/ViSU-Text_train.json", [*rows, *rows[:5]])
    found = run(visu=ENTRY, knobs=SMALL)
    assert dropped(found, "visu") == {"duplicate": 5} and len(found["pairs"]) == 30


def test_all_rows_broken_is_one_error_naming_file_column_and_row(tmp_path, run):
    put(tmp_path / "visu/ViSU-Text_train.json", [{"text": "a kite"} for _ in range(9)])
    with pytest.raises(TableError, match=r"ViSU-Text_train\.json: row 0: column 'safe': is missing; 9 of 9 rows"):
        run(visu=ENTRY)
    put(tmp_path / "visu/ViSU-Text_train.json", [visu_row(n) for n in range(5000)])
    with pytest.raises(TableError, match=r"row 0 \(.*coco/train2017/000000000100\.jpg\): image: no such file; 1024 of"):
        run(visu=ENTRY)  # and not all 5,000


def test_nothing_left_and_no_folder_are_errors(tmp_path, run):
    visu_hub(tmp_path, 1)
    put(tmp_path / "visu/ViSU-Text_train.json", [visu_row(0, safe="a toddler")])
    with pytest.raises(NearsafeError, match=r"sources\.entries\.visu: no row is left: 1 age_words dropped"):
        run(visu=ENTRY)
    with pytest.raises(NearsafeError, match=r"sources\.root: .*gone"):
        ingest(SourcesParams(root=tmp_path / "gone"), [], tmp_path / "out", print)


def test_a_cut_file_is_an_error_with_the_rows_before_it_and_none_of_its_text(tmp_path, run):
    rows = visu_hub(tmp_path, 6)
    text = json.dumps(rows)
    (tmp_path / "visu/ViSU-Text_train.json").write_text(text[: text.index(rows[4]["nsfw"]) + 9])
    with pytest.raises(TableError, match="after 4 rows: not readable as JSON") as error:
        run(visu=ENTRY)
    assert "knife" not in str(error.value)


BITMAP = b"BM" + (54 + 3 * 256 * 128).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little") + b"".join(
    number.to_bytes(size, "little") for number, size in ((40, 4), (256, 4), (128, 4), (1, 2), (24, 2))
) + bytes(24)  # fmt: skip


@dataclass(frozen=True)
class Many:
    """Images of 98 kB each, as an archive would give them."""

    count: int

    def rows(self, root, drops):
        for n in range(self.count):
            data = BITMAP + n.to_bytes(4, "little") + bytes(3 * 256 * 128 - 4)
            image = ImageRow(f"i{n}", False, "train", data=data)
            yield Record(Place(root / "many.tar", n), (image, LabelRow(f"i{n}", "colour", n % 3)))


def test_memory_is_that_of_a_shard(tmp_path):
    tracemalloc.start()
    try:
        entry = Entry("many", "many", Many(1500), copy=True)
        ingest(SourcesParams(root=tmp_path, shard_rows=100), [entry], tmp_path / "out", lambda line: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40e6, "1,500 images of 98 kB are 147 MB"
    found = tables(tmp_path / "out")
    assert len(found["labels"]) == len(found["images"]) == 1500
    assert decode_image(found["images"][7]["image"], "").size == (256, 128)


def test_a_row_that_names_an_unknown_item_is_refused(tmp_path):
    @dataclass(frozen=True)
    class Dangling:
        def rows(self, root, drops):
            caption = CaptionRow("a", "a kite", False, "train", "a")
            yield Record(Place(root / "x", 0), (caption, PairRow("a", "b", "weapons", "train")))

    with pytest.raises(NearsafeError, match=r"x: row 0: source 'd' \(kind d\) names an unknown caption"):
        ingest(SourcesParams(root=tmp_path), [Entry("d", "d", Dangling())], tmp_path / "out", print)


def test_the_stage_and_the_embedding_of_its_images(tmp_path, monkeypatch):
    """Paths in the tables are those of `sources.root` as it is written: stages run in the same folder."""
    monkeypatch.chdir(tmp_path)
    visu_hub(tmp_path / "files", 4)
    visu_images(tmp_path / "files", range(4))
    params = tmp_path / "params.yaml"
    params.write_text(
        json.dumps({"embed": {"batch_size": 4}, "sources": {"root": "files", "entries": {"visu": ENTRY}}})
    )
    world.main(params, tmp_path / "world")
    found = tables(tmp_path / "world")
    assert found["images"][0]["image"]["path"] == "files/coco/train2017/000000000100.jpg"
    embed.main(params, tmp_path / "world", save_clip(tmp_path / "clip"), tmp_path / "embeddings")
    assert len(tables(tmp_path / "embeddings")["embeddings"]) == 16
