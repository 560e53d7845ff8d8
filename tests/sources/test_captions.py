"""COCO, NoCaps, CoPro and NSFWCaps: published columns to tables, what is dropped, whatever the order of the file."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import NearsafeError, TableError
from pipeline.nsfwcaps_io import COLUMNS
from tests.sources.conftest import dropped
from tests.sources.files import SAFE, UNSAFE, captions_json, copro, picture, put

COCO = {"kind": "coco", "captions": "captions.json", "images": "val", "prompt_set": "coco_val"}


def coco_files(tmp_path, count=4):
    for number in range(1, count + 1):
        picture(tmp_path / f"val/{number:012d}.jpg", number)
    return captions_json(count)


def test_coco_images_keep_their_ids_and_match_captions_and_prompts(tmp_path, run):
    put(tmp_path / "captions.json", coco_files(tmp_path))
    found = run(coco=COCO)
    assert [row["text"] for row in found["captions"]] == [f"{SAFE[n % 5]}, words 0 {n}" for n in range(1, 5)]
    origin = {row["item_id"]: row["origin"] for row in found["origins"]}
    texts = {row["caption_id"]: row["text"] for row in found["captions"]}
    prompts = {origin[row["prompt_id"]]: row["text"] for row in found["prompts"]}
    for image in found["images"]:
        assert image["image"]["path"].endswith(f"{int(origin[image['image_id']]):012d}.jpg")
        assert texts[image["caption_id"]] == prompts[origin[image["image_id"]]]
    assert len(prompts) == 4 and {row["prompt_set"] for row in found["prompts"]} == {"coco_val"}


def test_an_age_word_in_any_caption_drops_the_image(tmp_path, run):
    content = coco_files(tmp_path)
    content["annotations"][-1]["caption"] = "a boy with a kite"  # the fifth caption of the last image
    put(tmp_path / "captions.json", content)
    found = run(coco=COCO)
    assert dropped(found, "coco") == {"age_words": 1}
    assert [len(found[name]) for name in ("images", "captions", "prompts")] == [3, 3, 3]


def test_all_captions_and_no_images(tmp_path, run):
    put(tmp_path / "captions.json", captions_json(3))
    found = run(coco={"kind": "coco", "captions": "captions.json", "per_image": None})
    assert len(found["captions"]) == 15 and "images" not in found and "prompts" not in found


def test_the_order_of_the_file_does_not_matter(tmp_path, run):
    content = coco_files(tmp_path, 12)
    put(tmp_path / "captions.json", content)
    first = run(coco=COCO)
    for rows in (content["images"], content["annotations"]):
        random.Random(0).shuffle(rows)
    put(tmp_path / "captions.json", content)
    assert run(coco=COCO, out="again") == first


def test_broken_annotations_are_located(tmp_path, run):
    content = coco_files(tmp_path, 4)
    content["annotations"][2]["caption"] = None
    content["annotations"][3]["image_id"] = 77
    content["images"].append("no object")
    put(tmp_path / "captions.json", content)
    found = run(coco=COCO, knobs={"max_broken": 0.5})
    assert dropped(found, "coco") == {"broken": 3} and len(found["images"]) == 4
    report = (tmp_path / "world/dropped.txt").read_text()
    assert "'annotations', row 2" in report and "'annotations', row 3" in report and "'images', row 4" in report


def test_nocaps_images_are_shared_out_by_their_ids(tmp_path, run):
    put(tmp_path / "captions.json", captions_json(60, each=2))
    entry = {"kind": "nocaps", "captions": "captions.json", "splits": {"benchmark": 2, "validation": 1}}
    found = run(nocaps=entry)
    split = {row["text"]: row["split"] for row in found["captions"]}
    assert 25 < sum(name == "benchmark" for name in split.values()) < 55 and set(split.values()) == {*entry["splits"]}
    put(tmp_path / "captions.json", captions_json(30, each=2))
    fewer = run(nocaps=entry, out="fewer")
    assert all(split[row["text"]] == row["split"] for row in fewer["captions"])


def test_copro_pairs_by_list_and_category(tmp_path, run):
    put(tmp_path / "copro.json", copro())
    found = run(copro={"kind": "copro", "file": "copro.json", "categories": ["violence"]})
    assert [pair["split"] for pair in found["pairs"]] == ["train"] * 5 + ["test"] * 7
    assert dropped(found, "copro") == {"category": 5}
    texts = {row["caption_id"]: row["text"] for row in found["captions"]}
    first = found["pairs"][0]
    assert (texts[first["safe_caption_id"]], texts[first["unsafe_caption_id"]]) == (f"{SAFE[0]} 0", f"{UNSAFE[0]} 0")
    assert first["category"] == "violence" and first["safe_image_id"] is None
    whole = run(copro={"kind": "copro", "file": "copro.json", "splits": {"OOD_test_data": "train"}}, out="whole")
    assert [pair["split"] for pair in whole["pairs"]] == ["train"] * 3
    with pytest.raises(TableError, match=r"no list 'ID_trian_data'"):
        run(copro={"kind": "copro", "file": "copro.json", "splits": {"ID_trian_data": "train"}}, out="wrong")


def test_copro_reads_the_concept_for_ages_too(tmp_path, run):
    content = copro()
    content["ID_train_data"][1]["concept"] = "juvenile"
    put(tmp_path / "copro.json", content)
    assert dropped(run(copro={"kind": "copro", "file": "copro.json"}), "copro") == {"age_words": 1}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_nsfwcaps_finds_images_by_the_file_name_of_the_address(tmp_path, run, suffix):
    rows = [(f"https://example.org/val/{n}%20a.jpg", SAFE[n], UNSAFE[n], "weapons") for n in range(4)]
    rows[3] = (None, *rows[3][1:])
    table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)})
    if suffix == "parquet":
        pq.write_table(table, tmp_path / "nsfwcaps.parquet")
    else:
        import pyarrow.csv

        pyarrow.csv.write_csv(table, tmp_path / "nsfwcaps.csv")
    for n in range(3):
        picture(tmp_path / f"nocaps/{n} a.jpg", n)
        picture(tmp_path / f"unsafe/{n} a.png", n + 9)
    entry = {"kind": "nsfwcaps", "file": f"nsfwcaps.{suffix}"}
    found = run(nsfwcaps=entry)
    assert len(found["pairs"]) == 4 and "images" not in found, "nothing is fetched"
    entry |= {"images": "nocaps", "unsafe_images": "unsafe"}
    found = run(nsfwcaps=entry, knobs={"max_broken": 0.3}, out="images")
    assert len(found["pairs"]) == 3 and dropped(found, "nsfwcaps") == {"broken": 1}
    paths = {row["image_id"]: row["image"]["path"] for row in found["images"]}
    assert {paths[pair["unsafe_image_id"]][-15:] for pair in found["pairs"]} == {f"/unsafe/{n} a.png" for n in range(3)}
    assert {pair["split"] for pair in found["pairs"]} == {"benchmark"}


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"kind": "cocoa"}, r"sources\.entries\.x\.kind: unknown kind of source 'cocoa'; known: .*coco, copro"),
        ({"kind": "coco"}, r"x\.captions: missing"),
        ({"kind": "coco", "captions": "a.json", "per_image": 0}, "per_image"),
        ({"kind": "coco", "captions": "a.json", "copy": 1}, r"x\.copy"),
        ({"kind": "visu", "texts": "v", "splits": {"trian": "train"}}, "splits"),
        ({"kind": "nocaps", "captions": "a.json", "splits": {"a": 0}}, "splits"),
        ({"kind": "copro", "file": "a.json", "splits": {}}, "splits"),
        ({"kind": "coco", "captions": "gone.json"}, r"gone\.json: no such file"),
        ({"kind": "nsfwcaps", "file": "a.xlsx"}, r"a\.xlsx: expected a file that ends in"),
    ],
)
def test_a_wrong_entry_is_one_error(run, entry, named):
    with pytest.raises(NearsafeError, match=named):
        run(x=entry)
