"""Images in folders and archives, with captions or not: LLaVA's images, retrieval pools, and hostile archives."""

import io
import os
import tarfile
from enum import Enum

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import NearsafeError, TableError
from pipeline.replies import ReplyParams, admit_images
from pipeline.scoring_pools import SPLITS
from pipeline.sources.ingest import ingest
from pipeline.sources.protocol import CaptionRow, ImageRow
from pipeline.sources.registry import SourcesParams, make_entry
from pipeline.tables import read_output
from tests.sources.pictures_of import labels, picture, records, write_picture


class Kind(Enum):
    """Members that are no files."""

    LINK = tarfile.SYMTYPE
    DEVICE = tarfile.CHRTYPE


def archive(path, members):
    """A tar file of (name, content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, Kind):
                member.type, member.linkname = content.value, "/etc/hostname"
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def images_and_captions(found):
    rows = [row for record in found for row in record.rows]
    captions = {row.key: row.text for row in rows if isinstance(row, CaptionRow)}
    return [(row.key, row.split, row.unsafe, captions.get(row.caption)) for row in rows if isinstance(row, ImageRow)]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_an_archive_of_samples(tmp_path, suffix):
    members = [
        ("0000.jpg", picture(0, kind="JPEG")), ("0000.cls", b"1\n"), ("0001.png", picture(1)), ("0001.cls", b"River"),
        ("0002.webp", picture(2)), ("0002.json", b'{"label": "SeaLake"}'), ("Forest/x.1.png", picture(3)),
    ]  # fmt: skip
    archive(tmp_path / f"shards/eurosat-0.{suffix}", members)
    (tmp_path / "classnames.txt").write_text("Forest\nHighway\n")
    entry = {"kind": "zero_shot", "set": "eurosat", "images": f"shards/eurosat-*.{suffix}", "names": "classnames.txt"}
    found, drops = records(tmp_path, **entry)
    name = f"eurosat-0.{suffix}"
    assert labels(found) == [(f"{name}:0000", 3), (f"{name}:0001", 8), (f"{name}:0002", 9), (f"{name}:Forest/x", 1)]
    assert found[1].rows[0].data == picture(0, kind="JPEG") and not drops.total()


class Bomb:
    """What a pickle would run."""

    def __reduce__(self):
        return os.system, ("touch unpickled",)


def test_a_hostile_archive_is_harmless(tmp_path, monkeypatch):
    """Names that climb out, links, devices, pickles, and a text that claims to be huge: nothing is unpacked or run."""
    import pickle

    monkeypatch.chdir(tmp_path)
    members = [
        ("../../up.png", picture(0)), ("/abs.png", picture(1)), ("a.png", Kind.LINK), ("b.png", Kind.DEVICE),
        ("c.pyd", pickle.dumps(Bomb())), ("c.cls", pickle.dumps(Bomb())), ("c.png", picture(2)),
        ("d.png", picture(3)), ("d.txt", b"x" * (1 << 21)), ("e.png", b""), ("f.json", b"[" * 100_000),
        ("f.png", picture(4)),
    ]  # fmt: skip
    archive(tmp_path / "files/x.tar", members)
    found, drops = records(tmp_path / "files", kind="llava_images", image_set="x", images="x.tar", unsafe=False)
    assert [key for key, *_ in images_and_captions(found)] == [
        "x.tar:../../up", "x.tar:/abs", "x.tar:c", "x.tar:d"
    ]  # fmt: skip
    assert drops.counts == {
        ("broken", "member .png is no file"): 2,
        ("broken", "member .txt has 2 MiB"): 1,
        ("broken", "the image is empty"): 1,
        ("broken", "member .json is not readable"): 1,
    }
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["files", "x.tar"]
    assert not (tmp_path.parent / "up.png").exists()


def test_a_cut_archive_names_what_was_read(tmp_path):
    file = archive(tmp_path / "x.tar", [(f"{n}.png", picture(n)) for n in range(4)])
    file.write_bytes(file.read_bytes()[:-15_000])
    with pytest.raises(TableError, match=r"x\.tar: after 0 samples: not readable as a tar archive: its end is missing"):
        records(tmp_path, kind="llava_images", image_set="x", images="x.tar", unsafe=True)
    file = archive(tmp_path / "z.tar.gz", [(f"{n}.png", picture(n)) for n in range(4)])
    file.write_bytes(file.read_bytes()[:-6_000])
    with pytest.raises(TableError, match=r"z\.tar\.gz: after [123] samples: not readable as a tar archive"):
        records(tmp_path, kind="llava_images", image_set="x", images="z.tar.gz", unsafe=True)
    (tmp_path / "y.tar").write_bytes(b"no archive")
    with pytest.raises(TableError, match=r"y\.tar: after 0 samples"):
        records(tmp_path, kind="llava_images", image_set="x", images="y.tar", unsafe=True)


def test_captions_stand_beside_images(tmp_path):
    write_picture(tmp_path / "shown/a.jpg", 0)
    (tmp_path / "shown/a.txt").write_text("a robot with a mug\n")
    write_picture(tmp_path / "shown/b.jpg", 1)
    write_picture(tmp_path / "shown/c.jpg", 2)
    (tmp_path / "shown/c.txt").write_bytes(b"\xff\xfe")
    table = pa.table({"picture": [picture(3), picture(4)], "text": ["a dog with a kite", None]})
    pq.write_table(table, tmp_path / "shown.parquet")
    options = {"kind": "llava_images", "image_set": "shown", "unsafe": False}
    found, drops = records(tmp_path, **options, images="shown")
    split = "reply/shown"
    assert images_and_captions(found) == [("a.jpg", split, False, "a robot with a mug"), ("b.jpg", split, False, None)]
    assert drops.counts == {("broken", "column 'caption': is no valid Unicode text"): 1}
    columns = {"image_column": "picture", "caption_column": "text"}
    found, _ = records(tmp_path, **options, images="shown.parquet", **columns)
    assert [caption for *_, caption in images_and_captions(found)] == ["a dog with a kite", None]
    with pytest.raises(TableError, match=r"shown\.parquet: no column 'image'; found picture, text"):
        records(tmp_path, **options, images="shown.parquet")
    with pytest.raises(NearsafeError, match="image_set: .x/../y.: a name has a-z"):
        records(tmp_path, **{**options, "image_set": "x/../y"}, images="shown")


def test_a_link_into_itself_ends(tmp_path):
    write_picture(tmp_path / "shown/inner/a.jpg", 0)
    (tmp_path / "shown/inner/again").symlink_to(tmp_path / "shown")
    with pytest.raises(NearsafeError, match="a link leads to a folder that was read already"):
        records(tmp_path, kind="llava_images", image_set="x", images="shown", unsafe=False)


def test_reply_and_pools_find_their_images(tmp_path):
    """In the splits that the reply stage and the pools read; an age word in a caption or a folder drops its image."""
    for number in range(3):
        write_picture(tmp_path / f"files/hazards/{number}.jpg", number, unsafe=True)
        write_picture(tmp_path / f"files/safe/{number}.jpg", number + 10)
        (tmp_path / f"files/safe/{number}.txt").write_text(f"a robot with a mug, number {number + 30}")
    (tmp_path / "files/hazards/0.txt").write_text("a child with a mug")
    write_picture(tmp_path / "files/hazards/students/9.jpg", 9, unsafe=True)
    entries = [
        make_entry("shown", {"kind": "llava_images", "image_set": "hazards", "images": "hazards", "unsafe": True}),
        make_entry("third", {"kind": "pools", "unsafe": "hazards", "safe": "safe"}),
    ]
    out = tmp_path / "data/world"
    ingest(SourcesParams(tmp_path / "files"), entries, out, lambda line: None)
    images = read_output(out, "images").to_pylist()
    assert {(row["source"], row["split"], row["unsafe"]) for row in images} == {
        ("shown", "reply/hazards", True), ("third", SPLITS["unsafe"], True), ("third", SPLITS["safe"], False)
    }  # fmt: skip
    assert [sum(row["split"] == split for row in images) for split in ("reply/hazards", *SPLITS.values())] == [2, 2, 3]
    captions = read_output(out, "captions").to_pylist()
    assert {(row["split"], row["unsafe"]) for row in captions} == {("pool/safe", False)} and len(captions) == 3
    dropped = {(r["set"], r["filter"]): r["n_dropped"] for r in read_output(out, "filters").to_pylist()}
    assert dropped["shown", "age_words"] == dropped["third", "age_words"] == 2
    assert len(admit_images(out, ReplyParams({"hazards": "reply/hazards"})).rows) == 2
