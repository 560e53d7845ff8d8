"""ViSU: both layouts make the same tables; tags, ages, missing and foreign images are dropped and counted."""

import json
import zlib

import pytest

from pipeline.errors import NearsafeError
from pipeline.sources.visu import RELEASED
from tests.sources.conftest import dropped
from tests.sources.files import put, visu_hub, visu_images, visu_row

ENTRY = {
    "kind": "visu",
    "texts": "visu",
    "safe_images": "coco",
    "unsafe_images": "unsafe",
    "splits": {"train": "train"},
}


def bomb(side: int) -> bytes:
    """A PNG file of a few bytes that says it is a picture of side x side pixels."""
    chunks = [(b"IHDR", side.to_bytes(4) * 2 + b"\x08\x02\0\0\0"), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    made = (len(d).to_bytes(4) + kind + d + zlib.crc32(kind + d).to_bytes(4) for kind, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def test_a_quadruple_becomes_two_captions_two_images_and_a_pair(tmp_path, run):
    rows = visu_hub(tmp_path, 3)
    found = run(visu=ENTRY)
    captions = {row["caption_id"]: row for row in found["captions"]}
    images = {row["image_id"]: row for row in found["images"]}
    assert (len(captions), len(images), len(found["pairs"])) == (6, 6, 3)
    by_text = {captions[pair["unsafe_caption_id"]]["text"]: pair for pair in found["pairs"]}
    pair = by_text[rows[1]["nsfw"]]
    assert captions[pair["safe_caption_id"]]["text"] == rows[1]["safe"]
    assert pair["category"] == "bodily fluids" and pair["split"] == "train"
    assert images[pair["safe_image_id"]]["image"] == {
        "bytes": None,
        "path": (tmp_path / "coco/train2017/000000000101.jpg").as_posix(),
    }
    assert images[pair["unsafe_image_id"]]["image"]["path"].endswith("unsafe/1.png")
    assert images[pair["unsafe_image_id"]]["unsafe"] and images[pair["unsafe_image_id"]]["caption_id"] is not None
    assert {row["family"] for row in found["captions"] if row["text"] in (rows[1]["safe"], rows[1]["nsfw"])} == {
        captions[pair["safe_caption_id"]]["family"]
    }
    origins = {row["item_id"]: row["origin"] for row in found["origins"]}
    assert origins[pair["safe_image_id"]] == origins[pair["safe_caption_id"]] == "101"
    assert dropped(found, "visu") == {}


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_released_layout_makes_the_same_pairs(tmp_path, run, wrapped):
    rows = visu_hub(tmp_path, 4)
    hub = run(visu=ENTRY)
    (tmp_path / "visu/ViSU-Text_train.json").unlink()
    columns = ("coco_id", "safe", "nsfw", "tag")
    data = {str(n): {**{c: row[c] for c in columns}, "nsfw_im_path": f"{n}.png"} for n, row in enumerate(rows)}
    put(tmp_path / "visu" / RELEASED["train"], {"info": {"version": 1}, "data": data} if wrapped else data)
    released = run(visu=ENTRY, out="released")
    assert released["pairs"] == hub["pairs"] and released["captions"] == hub["captions"]


def test_json_lines_are_read_too(tmp_path, run):
    rows = visu_hub(tmp_path, 3)
    (tmp_path / "visu/ViSU-Text_train.json").write_text("\n".join(map(json.dumps, rows)))
    assert len(run(visu=ENTRY)["pairs"]) == 3


def test_minors_ages_and_broken_rows_are_counted_and_located(tmp_path, run):
    rows = [visu_row(n) for n in range(40)]
    rows[3]["tag"] = "child abuse"
    rows[5]["safe"] = "a student with a kite"
    rows[6]["nsfw"] = "a 9 year old boat"
    rows[8]["nsfw"] = ""
    rows[9]["coco_id"] = "no number"
    rows[10]["safe"] = 5
    rows[12] = dict(rows[11])
    put(tmp_path / "visu/ViSU-Text_train.json", rows)
    visu_images(tmp_path, range(40))
    (tmp_path / "unsafe/14.png").unlink()
    cut = tmp_path / "coco/train2017/000000000115.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    (tmp_path / "unsafe/16.png").write_bytes(bomb(20_000))
    found = run(visu=ENTRY, knobs={"max_broken": 0.2})
    assert dropped(found, "visu") == {"tag": 1, "age_words": 2, "broken": 6, "duplicate": 1}
    assert len(found["pairs"]) == 40 - 10
    counts = [row for row in found["filters"] if row["set"] == "visu"]
    assert counts[0]["n_before"] == 40 and counts[-1]["n_after"] == 30
    report = (tmp_path / "world/dropped.txt").read_text()
    assert "ViSU-Text_train.json: row 8" in report and "column 'nsfw': is empty" in report
    assert "row 14" in report and "no such file" in report and "row 15" in report
    assert "row 16" in report and "more pixels" in report
    assert "student" not in report, "no text of the file is quoted"


def test_without_images_there_are_pairs_of_captions(tmp_path, run):
    visu_hub(tmp_path, 2)
    found = run(visu={"kind": "visu", "texts": "visu", "splits": {"train": "train"}})
    assert "images" not in found and len(found["pairs"]) == 2
    assert found["pairs"][0]["safe_image_id"] is None


def test_a_coco_image_in_two_splits_stays_in_the_first(tmp_path, run):
    visu_hub(tmp_path, 3)
    put(tmp_path / "visu/ViSU-Text_test.json", [visu_row(7, coco_id=101), visu_row(8)])
    visu_images(tmp_path, [7, 8], "val2017")
    found = run(visu={**ENTRY, "splits": {"train": "train", "test": "test"}})
    assert dropped(found, "visu") == {"split_overlap": 1}
    assert [pair["split"] for pair in found["pairs"]] == ["train"] * 3 + ["test"]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hosts", "c:\\x.png"])
def test_a_path_out_of_the_folder_is_refused(tmp_path, run, name):
    visu_hub(tmp_path, 1)
    (tmp_path / "visu/ViSU-Text_train.json").unlink()
    put(tmp_path / "visu" / RELEASED["train"], {"0": {**visu_row(0), "nsfw_im_path": name}})
    with pytest.raises(NearsafeError, match=r"row 0: column 'nsfw_im_path': expected a path inside.*1 of 1 rows"):
        run(visu=ENTRY)


def test_no_texts_is_an_error_that_says_what_is_expected(tmp_path, run):
    (tmp_path / "visu").mkdir()
    with pytest.raises(NearsafeError, match=r"ViSU-Text_train\.json or train/visu_dpo"):
        run(visu=ENTRY)
