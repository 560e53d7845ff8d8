"""Zero-shot sets: their classes and prompts, and labelled images from every layout that they come in."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import NearsafeError, TableError
from pipeline.scoring_zeroshot import read_tasks
from pipeline.sources.ingest import ingest
from pipeline.sources.protocol import ClassRow, ImageRow
from pipeline.sources.registry import SourcesParams, make_entry
from pipeline.sources.zeroshot.classes import read_classes, shipped
from pipeline.tables import read_output
from tests.sources.pictures_of import labels, picture, records, write_picture

COUNTS = {
    "imagenet": 1000, "caltech101": 100, "oxford_pets": 37, "stanford_cars": 196, "flowers102": 102, "food101": 101,
    "fgvc_aircraft": 100, "sun397": 397, "dtd": 47, "eurosat": 10, "ucf101": 101,
}  # fmt: skip
# One prompt of each set in full, by the specification's template and CoOp's name: label in the files, id, prompt.
PROMPTS = {
    "imagenet": ("n02114367", 269, "a photo of a grey wolf."),
    "caltech101": ("Motorbikes", 2, "a photo of a motorbike."),
    "oxford_pets": ("shiba_inu", 31, "a photo of a shiba inu, a type of pet."),
    "stanford_cars": ("Volvo C30 Hatchback 2012", 192, "a photo of a 2012 Volvo C30 Hatchback."),
    "flowers102": ("50", 49, "a photo of a common dandelion, a type of flower."),
    "food101": ("miso_soup", 64, "a photo of miso soup, a type of food."),
    "fgvc_aircraft": ("DHC-8-100", 60, "a photo of a DHC-8-100, a type of aircraft."),
    "sun397": ("a/apse/indoor", 9, "a photo of a indoor apse."),
    "dtd": ("polka-dotted", 30, "a photo of a polka-dotted texture."),
    "eurosat": ("SeaLake", 9, "a centered satellite photo of Sea or Lake."),
    "ucf101": ("PlayingSitar", 64, "a video of Playing Sitar."),
}


def test_the_eleven_sets_have_all_their_classes(tmp_path):
    assert shipped() == sorted(COUNTS)
    for name, count in COUNTS.items():
        classes = read_classes(name, tmp_path)
        assert len(classes.names) == count and all(classes.names), name
        label, number, prompt = PROMPTS[name]
        assert classes.find(label) == number, name
        assert [template.replace("{}", classes.names[number]) for template in classes.templates] == [prompt]


@pytest.mark.parametrize("name", COUNTS)
def test_every_name_of_a_class_leads_to_it(name, tmp_path):
    classes = read_classes(name, tmp_path)
    doubled = {"missile", "sunglasses"} if name == "imagenet" else set()
    for number, title in enumerate(classes.names):
        assert classes.find(title) == (None if title in doubled else number)
        assert title in doubled or classes.find(title.replace(" ", "_").upper()) == number


def test_other_names_of_the_classes_are_known(tmp_path):
    sun, cars, eurosat, caltech = (
        read_classes(n, tmp_path) for n in ("sun397", "stanford_cars", "eurosat", "caltech101")
    )
    assert sun.find("abbey") == sun.find("/a/abbey") == 0 and sun.find("apartment_building/outdoor") == 8
    assert cars.find("2007 Ford Focus Sedan") == cars.find("Ford Focus Sedan 2007") is not None
    assert eurosat.find("lake or sea") == eurosat.find("SeaLake") == 9
    assert caltech.find("side of a car") == caltech.find("car_side") and caltech.leaves_out("BACKGROUND_Google")


def test_class_folders_give_images_classes_and_labels(tmp_path):
    for number, path in enumerate(
        ("Forest/a.jpg", "Forest/b.JPEG", "SeaLake/c.png", "SeaLake/._c.png", "SeaLake/n.txt")
    ):
        write_picture(tmp_path / "eurosat" / path, number)
    found, drops = records(tmp_path, kind="zero_shot", set="eurosat", images="eurosat")
    assert labels(found) == [("Forest/a.jpg", 1), ("Forest/b.JPEG", 1), ("SeaLake/c.png", 9)] and not drops.total()
    classes = found[0].rows
    assert all(isinstance(row, ClassRow) for row in classes) and len(classes) == 10
    assert classes[9] == ClassRow("eurosat", 9, "Sea or Lake", "a centered satellite photo of Sea or Lake.")
    image = found[1].rows[0]
    assert (image.path, image.split, image.unsafe) == (tmp_path / "eurosat/Forest/a.jpg", "zeroshot/base", False)


def test_unknown_and_unused_classes_are_counted_with_their_place(tmp_path):
    for number, path in enumerate(("ant/a.jpg", "Faces_easy/b.jpg", "antt/c.jpg", "d.jpg")):
        write_picture(tmp_path / "caltech" / path, number)
    found, drops = records(tmp_path, kind="zero_shot", set="caltech101", images="caltech")
    assert [key for key, _ in labels(found)] == ["ant/a.jpg"]
    assert drops.counts == {
        ("left_out", "1"): 1,
        ("broken", "label: not the name of one class of Caltech101"): 1,
        ("broken", "has no label"): 1,
    }
    assert drops.examples["left_out", "1"] == [f"{tmp_path}/caltech: row Faces_easy/b.jpg"]


def test_nested_folders_of_sun397(tmp_path):
    write_picture(tmp_path / "SUN397/a/abbey/x.jpg", 0)
    write_picture(tmp_path / "SUN397/t/theater/indoor_seats/y.jpg", 1)
    found, drops = records(tmp_path, kind="zero_shot", set="sun397", images="SUN397")
    names = read_classes("sun397", tmp_path).names
    assert [names[number] for _, number in labels(found)] == ["abbey", "indoor seats theater"] and not drops.total()


def test_a_split_file_of_coop_chooses_images_and_names_their_classes(tmp_path):
    lists = {
        "train": [["Abyssinian_1.jpg", 0, "abyssinian"]],
        "val": [],
        "test": [["pug_7.jpg", 25, "pug"], ["../../secret.jpg", 0, "pug"], ["shiba_inu_2.jpg", 31, "shiba_inu"], ["x"]],
    }
    (tmp_path / "images").mkdir()
    (tmp_path / "split_zhou_OxfordPets.json").write_text(json.dumps(lists))
    entry = {"kind": "zero_shot", "set": "oxford_pets", "images": "images", "list": "split_zhou_OxfordPets.json"}
    found, drops = records(tmp_path, **entry)
    assert labels(found) == [("pug_7.jpg", 25), ("shiba_inu_2.jpg", 31)]
    assert drops.counts == {
        ("broken", "its path leads out of the folder of the images"): 1,
        ("broken", "expected [path, label, class name]"): 1,
    }
    assert labels(records(tmp_path, **entry, split="train")[0]) == [("Abyssinian_1.jpg", 0)]
    with pytest.raises(TableError, match=r"split_zhou_OxfordPets\.json: no list 'dev': train, val, test"):
        records(tmp_path, **entry, split="dev")


def test_text_lists_of_the_data_sets(tmp_path):
    """Those of FGVC-Aircraft, SUN397, Food-101, UCF101 (videos, ids from 1) and ImageNet's validation images."""
    (tmp_path / "images").mkdir()

    def read(name, text, **options):
        (tmp_path / "list.txt").write_text(text)
        return labels(records(tmp_path, kind="zero_shot", set=name, images="images", list="list.txt", **options)[0])

    assert read("fgvc_aircraft", "0061581 BAE 146-200\n0061582 A380\n") == [("0061581.jpg", 37), ("0061582.jpg", 33)]
    assert read("sun397", "/a/abbey/sun_x.jpg\n") == [("a/abbey/sun_x.jpg", 0)]
    assert read("food101", "apple_pie/1011328\n\n") == [("apple_pie/1011328.jpg", 0)]
    assert read("ucf101", "Archery/v_Archery_g01_c01.avi 3\n") == [("Archery/v_Archery_g01_c01.jpg", 2)]
    assert read("imagenet", "ILSVRC2012_val_00000001.JPEG 65\n", label_is="id") == [
        ("ILSVRC2012_val_00000001.JPEG", 65)
    ]
    with pytest.raises(NearsafeError, match=r"list\.txt: row 0: the label is a number: say `label_is: id`"):
        read("imagenet", "ILSVRC2012_val_00000001.JPEG 65\n")


def shard(path, names=("Forest", "SeaLake"), labels=(0, 1, 1, 7), column="label", key=b"huggingface"):
    """A Parquet shard as the `datasets` library writes one."""
    cells = [{"bytes": picture(n), "path": None} for n in range(2)] + [
        {"bytes": None, "path": p} for p in ("x.png", "../y")
    ]
    table = pa.table({"image": cells, column: pa.array(labels)})
    info = {"info": {"features": {"image": {"_type": "Image"}, column: {"names": names, "_type": "ClassLabel"}}}}
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table.replace_schema_metadata({key: json.dumps(info).encode()} if names else None), path)


def test_parquet_shards_with_named_labels(tmp_path):
    shard(tmp_path / "eurosat/test-00000-of-00002.parquet")
    shard(tmp_path / "eurosat/test-00001-of-00002.parquet", ("SeaLake", "Forest"), (1, 1, 7, 0))
    found, drops = records(tmp_path, kind="zero_shot", set="eurosat", images="eurosat/test-*.parquet")
    first, second = "test-00000-of-00002.parquet", "test-00001-of-00002.parquet"
    assert labels(found) == [
        (f"{first}:0", 1),
        (f"{first}:1", 9),
        (f"{first}:2", 9),
        (f"{second}:0", 1),
        (f"{second}:1", 1),
    ]
    images = [row for record in found for row in record.rows if isinstance(row, ImageRow)]
    assert images[0].data == picture(0) and images[2].path == tmp_path / "eurosat/x.png"
    assert drops.counts == {
        ("broken", "column 'image': its path leads out of the folder of the file"): 2,
        ("broken", "has no label"): 1,  # 7 has no name
    }


def test_numbers_without_names_need_a_word(tmp_path):
    shard(tmp_path / "shards/a.parquet", names=None)
    entry = {"kind": "zero_shot", "set": "eurosat", "images": "shards"}
    with pytest.raises(NearsafeError, match=r"a\.parquet: row 0: the label is a number: say `label_is: id`"):
        records(tmp_path, **entry)
    assert [n for _, n in labels(records(tmp_path, **entry, label_is="id")[0])] == [0, 1, 1]
    shard(tmp_path / "gaps/b.parquet", None, (3.0, None, float("nan"), 0.0))
    assert [n for _, n in labels(records(tmp_path, **{**entry, "images": "gaps"}, label_is="id")[0])] == [3]
    (tmp_path / "classnames.txt").write_text("SeaLake\nriver\n")
    found, _ = records(tmp_path, **entry, names="classnames.txt")
    assert [n for _, n in labels(found)] == [9, 8, 8]
    (tmp_path / "classnames.txt").write_text("SeaLake\nlagoon\n")
    with pytest.raises(NearsafeError, match=r"classnames\.txt: line 1: 'lagoon' is not one class of EuroSAT"):
        records(tmp_path, **entry, names="classnames.txt")


def test_so_many_of_each_class(tmp_path):
    for number in range(6):
        write_picture(tmp_path / f"dtd/{'banded' if number < 4 else 'grid'}/{number}.jpg", number)
    found, drops = records(tmp_path, kind="zero_shot", set="dtd", images="dtd", per_class=2)
    assert [key for key, _ in labels(found)] == ["banded/0.jpg", "banded/1.jpg", "grid/4.jpg", "grid/5.jpg"]
    assert drops.counts == {("per_class", "2"): 2}


OWN = """
title: Garden tools
templates: ["a photo of a {}.", "a {} in the garden."]
classes: {1: rake, 2: spade}
"""


def test_a_set_of_ones_own(tmp_path):
    (tmp_path / "tools.yaml").write_text(OWN)
    write_picture(tmp_path / "tools/2/a.jpg", 0)
    write_picture(tmp_path / "tools/rake/b.jpg", 1)
    found, _ = records(tmp_path, kind="zero_shot", set="tools.yaml", images="tools", shift="validation")
    assert labels(found) == [("2/a.jpg", 1), ("rake/b.jpg", 0)]
    assert [row.prompt for row in found[0].rows[2:]] == ["a photo of a spade.", "a spade in the garden."]
    assert found[1].rows[0].split == "zeroshot/validation"
    for text, message in (
        (OWN.replace("a photo of a {}.", "a photo"), "templates: expected one or more, each with one"),
        (OWN.replace(", 2: spade", ""), "classes: expected two or more"),
        (OWN + "aliases: {shovel: 3}\n", "aliases: '3' is no key of classes"),
    ):
        (tmp_path / "tools.yaml").write_text(text)
        with pytest.raises(NearsafeError, match=rf"tools\.yaml: {message}"):
            records(tmp_path, kind="zero_shot", set="tools.yaml", images="tools")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set": "mnist"}, "set: expected one of caltech101, dtd, .*, or a .yaml file of classes; got 'mnist'"),
        ({"images": "nowhere"}, "nowhere: no such folder or file; paths of a source count from sources.root"),
        ({"images": "no-*.tar"}, r"no-\*\.tar: no file matches"),
        ({"images": "list.txt"}, "list.txt: expected a folder, or a file that ends in .parquet, .tar"),
        ({"per_class": 0}, "per_class: expected at least 1"),
        ({"templates": ["a {} and a {}"]}, "templates: expected one or more, each with one"),
        ({"names": "n.txt", "label_is": "id"}, "names: label_is: id needs no names"),
        ({"shift": "prompt"}, "shift: expected one of base, shifted"),
        ({"list": "none.txt", "images": "."}, "none.txt: cannot be read: No such file"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, changes, message):
    (tmp_path / "list.txt").write_text("")
    with pytest.raises(NearsafeError, match=message):
        records(tmp_path, **{"kind": "zero_shot", "set": "dtd", "images": "dtd", **changes})


def test_two_tasks_become_the_tables_that_scoring_reads(tmp_path):
    """Broken files are counted, and images stay where they are unless `copy` says otherwise."""
    for number, path in enumerate(("dtd/banded/a.jpg", "dtd/grid/b.jpg", "dtd/grid/c.jpg", "eurosat/River/d.png")):
        write_picture(tmp_path / "files" / path, number)
    whole = (tmp_path / "files/dtd/grid/c.jpg").read_bytes()
    (tmp_path / "files/dtd/grid/c.jpg").write_bytes(whole[: len(whole) // 2])
    entries = [
        make_entry(name, {"kind": "zero_shot", "set": name, "images": name, "copy": name == "eurosat"})
        for name in ("dtd", "eurosat")
    ]
    out = tmp_path / "data/world"
    ingest(SourcesParams(tmp_path / "files", max_broken=0.5), entries, out, lambda line: None)
    tasks = read_tasks(out)
    assert {task: len(found) for task, found in tasks.classes.items()} == {"dtd": 47, "eurosat": 10}
    assert {task: sorted(known.values()) for task, known in tasks.labels["base"].items()} == {
        "dtd": [0, 16],
        "eurosat": [8],
    }
    images = read_output(out, "images").to_pylist()
    assert {row["split"] for row in images} == {"zeroshot/base"} and len(images) == 3
    folder = tmp_path / "files/dtd"
    assert {row["image"]["path"] for row in images} == {f"{folder}/banded/a.jpg", f"{folder}/grid/b.jpg", None}
    broken = [row for row in read_output(out, "filters").to_pylist() if row["filter"] == "broken"]
    assert {row["set"]: row["n_dropped"] for row in broken} == {"dtd": 1, "eurosat": 0}
    assert "grid/c.jpg" in (out / "dropped.txt").read_text()
