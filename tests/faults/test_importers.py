"""Every importer on hostile files: rows, counted drops or one line; no half output, and nobody's files touched."""

import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import NearsafeError
from pipeline.nsfwcaps_io import COLUMNS
from pipeline.prompt_files import FILES, PromptFile, read_prompt_file
from pipeline.sources.ingest import ingest
from pipeline.sources.labelled.items import Columns, read_items
from pipeline.sources.nesting import MAX_DEPTH
from pipeline.sources.protocol import Drops
from pipeline.sources.readers import cells_as_text, read_rows
from pipeline.sources.registry import SourcesParams, make_entry
from pipeline.tables import read_manifest
from tests.faults.hostile import TEXTS, as_csv, as_json, as_lines, as_parquet, as_tar, damage
from tests.faults.record import record
from tests.sources.conftest import tables
from tests.sources.files import SAFE, UNSAFE, captions_json, copro, picture, visu_images, visu_row

ZERO_SHOT = {"kind": "zero_shot", "set": "classes.yaml"}
LLAVA = {"kind": "llava_images", "image_set": "mine", "unsafe": False}
CLASSES = b"title: t\ntemplates: ['a {}']\nclasses: {dog: dog, cat: cat}\n"
CAPS = [
    dict(zip(COLUMNS, (f"http://x/{n:012d}.jpg", SAFE[n % 5], UNSAFE[n % 5], "weapons"), strict=True))
    for n in range(1, 6)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """The user's pictures, for all kinds."""
    root = tmp_path_factory.mktemp("importers") / "root"
    for number in range(1, 6):
        picture(root / f"img/{number:012d}.jpg", number)
    visu_images(root, range(5))
    for name in ("dog/1", "dog/2", "cat/1"):
        picture(root / f"folders/{name}.png", len(name))
        (root / f"folders/{name}.txt").write_text("a kite")
    (root / "classes.yaml").write_bytes(CLASSES)
    return root


def make(random: Random, kind: str, root: Path, put) -> dict[str, Any]:
    """Write a hostile file with `put(name, bytes)`; the entry that reads it."""
    image = (root / "folders/dog/1.png").read_bytes()
    images = [{"image": {"bytes": image, "path": None}, "label": n % 2, "caption": "a kite"} for n in range(4)]
    facts = json.dumps({"cls": 1, "caption": "a boat"}).encode()
    samples = [{"png": image, "cls": b"1", "txt": b"a kite"}, {"png": image, "json": facts}] * 2
    archive = random.choice(("x.tar", "x.tar.gz"))
    match kind:
        case "visu":
            put("x/ViSU-Text_train.json", as_json(random, [visu_row(n) for n in range(5)]))
            entry = {"kind": "visu", "texts": "x", "safe_images": "coco", "unsafe_images": "unsafe"}
            return entry | {"splits": {"train": "train"}}
        case "copro":
            put("x.json", as_json(random, copro()))
            return {"kind": "copro", "file": "x.json"}
        case "coco":
            put("x.json", as_json(random, captions_json(5, 2)))
            return {"kind": "coco", "captions": "x.json", "images": "img", "prompt_set": "x"}
        case "nocaps":
            put("x.json", as_json(random, captions_json(5, 2)))
            return {"kind": "nocaps", "captions": "x.json", "images": "img"}
        case "nsfwcaps":
            suffix, write = random.choice(
                (("csv", as_csv), ("json", as_json), ("jsonl", as_lines), ("parquet", as_parquet))
            )
            put(f"x.{suffix}", write(random, CAPS))
            return {"kind": "nsfwcaps", "file": f"x.{suffix}", "images": "img", "unsafe_images": "img"}
        case "list":
            lines = b"".join(
                b"%s/%d.png %d\n" % (name, n, at) for at, name in enumerate((b"dog", b"cat")) for n in (1, 2)
            )
            put("x.txt", damage(random, lines))
            return ZERO_SHOT | {"images": "folders", "list": "x.txt"}
        case "split":
            rows = [[f"{name}/{n}.png", at, name] for at, name in enumerate(("dog", "cat")) for n in (1, 2)]
            put("x.json", as_json(random, {"train": [], "test": rows}))
            return ZERO_SHOT | {"images": "folders", "list": "x.json"}
        case "names":
            put("x.txt", damage(random, b"dog\ncat\n"))
            put("x.parquet", as_parquet(random, images))
            return ZERO_SHOT | {"images": "x.parquet", "names": "x.txt"}
        case "classes":
            put("x.yaml", damage(random, CLASSES))
            return ZERO_SHOT | {"set": "x.yaml", "images": "folders"}
        case "folders":
            name = random.choice(TEXTS).replace("/", "_").replace("\0", "") or "_"
            for made in (os.fsencode("x/dog/") + b"\xff.png", f"x/{name[:80]}/1.png".encode("utf-8", "replace")):
                put(os.fsdecode(made), damage(random, image))
            put("x/dog/1.png", image)
            put("x/dog/1.txt", damage(random, b"a kite"))
            return random.choice((ZERO_SHOT | {"images": "x"}, LLAVA | {"images": "x"}))
        case "shards":
            put(archive, as_tar(random, samples, archive.endswith("gz")))
            return random.choice((ZERO_SHOT | {"images": archive, "label_is": "id"}, LLAVA | {"images": archive}))
        case "parquet":
            put("x.parquet", as_parquet(random, images))
            return random.choice(
                (ZERO_SHOT | {"images": "x.parquet", "label_is": "id"}, LLAVA | {"images": "x.parquet"})
            )
        case "pools":
            put(archive, as_tar(random, samples, archive.endswith("gz")))
            return {"kind": "pools", "safe": "folders", "unsafe": archive}
    raise ValueError(kind)


KINDS = (
    "visu",
    "copro",
    "coco",
    "nocaps",
    "nsfwcaps",
    "list",
    "split",
    "names",
    "classes",
    "folders",
    "shards",
    "parquet",
    "pools",
)


def digest(root: Path) -> str:
    names = sorted(os.fsencode(path) for path in root.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(name + Path(os.fsdecode(name)).read_bytes() for name in names)).hexdigest()


def attempt(random: Random, kind: str, base: Path) -> bool:
    """One hostile file through the whole stage. Did it become an output?"""
    written: list[Path] = []

    def put(name: str, data: bytes) -> None:
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        written.append(path)

    out = base.parent / "out"
    try:
        entry = make(random, kind, base, put)
        before = digest(base)
        params = SourcesParams(root=base, entries={"mine": entry}, max_broken=random.choice((0.05, 1.0)))
        try:
            ingest(params, [make_entry("mine", entry)], out, lambda line: None)
        except NearsafeError as error:
            assert len(str(error).splitlines()) == 1 and str(error)
            assert not (out / "manifest.json").exists(), "half an output that says it is whole"
            return False
        finally:
            assert digest(base) == before, "the user's files are read, never written"
            assert sorted(path.name for path in base.parent.iterdir()) in (["out", "root"], ["root"])
        assert tables(out)["filters"] and not (out / ".resume").exists()
        (out / "dropped.txt").exists() and (out / "dropped.txt").read_text(encoding="utf-8")
        return True
    finally:
        for path in written:
            path.unlink()
        for name in ("x", "out"):
            shutil.rmtree(base / name if name == "x" else out, ignore_errors=True)


def fuzz(base: Path, count: int) -> None:
    outcomes = {True: 0, False: 0}

    @settings(max_examples=count, deadline=None, derandomize=True, database=None)
    @given(st.sampled_from(KINDS), st.integers(0, 2**32))
    def run(kind: str, seed: int) -> None:
        outcomes[attempt(Random(seed), kind, base)] += 1

    run()
    assert min(outcomes.values()) > count / 20, "some hostile files are refused, some are read around"
    total = sum(outcomes.values())
    record("importers, fuzzed files", total, total, f"{outcomes[True]} became tables, {outcomes[False]} one line")


def test_hostile_files_are_rows_drops_or_one_line(base):
    fuzz(base, 80)


@pytest.mark.faults
def test_many_hostile_files_are_rows_drops_or_one_line(base):
    fuzz(base, 1000)


def fuzz_prompts(folder: Path, count: int) -> None:
    outcomes = {True: 0, False: 0}

    @settings(max_examples=count, deadline=None, derandomize=True, database=None)
    @given(st.sampled_from(sorted(FILES)), st.sampled_from(("csv", "json", "parquet", "txt")), st.integers(0, 2**32))
    def run(schema: str, suffix: str, seed: int) -> None:
        random, facts = Random(seed), FILES[schema]
        columns = [*facts.texts, *(names[0] for names in (facts.category, facts.seed, facts.guidance) if names)]
        rows = [
            {name: "7" if "s" in name[-5:] and name not in facts.texts else f"a kite {n}" for name in columns}
            for n in range(4)
        ]
        write = {"csv": as_csv, "json": as_json, "parquet": as_parquet}
        data = write[suffix](random, rows) if suffix in write else damage(random, b"a kite\na boat\r\na cup\n")
        file = folder / f"x.{suffix}"
        file.write_bytes(data)
        try:
            found, _ = read_prompt_file("mine", PromptFile(file, schema, True))
        except NearsafeError as error:
            assert len(str(error).splitlines()) == 1
            outcomes[False] += 1
            return
        assert all(
            text.encode() is not None for row in found for text in (row["text"], row["category"] or "", *row["others"])
        )
        outcomes[True] += 1

    run()
    total = sum(outcomes.values())
    record("prompt files, fuzzed", total, total, f"{outcomes[True]} read, {outcomes[False]} refused in one line")


def test_hostile_prompt_files_are_rows_or_one_line(tmp_path):
    fuzz_prompts(tmp_path, 300)


@pytest.mark.faults
def test_many_hostile_prompt_files_are_rows_or_one_line(tmp_path):
    fuzz_prompts(tmp_path, 3000)


@pytest.mark.parametrize(
    "content",
    [rb'[{"prompt": "a \ud800 kite"}]', rb'[{"prompt": "a kite", "note": "\udfff"}]', b"[" * 100_000, b"9" * 5000],
)
def test_a_prompt_file_of_broken_unicode_or_depth_is_one_line_without_its_text(tmp_path, content):
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(NearsafeError, match=r"x\.json: ") as error:
        read_prompt_file("mine", PromptFile(file, "prompt_csv", True))
    assert "kite" not in str(error.value) and "\n" not in str(error.value)


def rows_of(path: Path, content: bytes, part: str | None = None) -> list[dict[str, Any]]:
    path.write_bytes(content)
    return [row for _, row in read_rows(path, Drops(), part)]


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_json_that_nests_too_deep_is_refused_at_once(tmp_path, opening):
    """A parser's time grows with the square of the depth: half a megabyte of brackets would take hours."""
    with pytest.raises(NearsafeError, match=f"more than {MAX_DEPTH} lists and objects"):
        rows_of(tmp_path / "x.json", opening * 200_000)
    with pytest.raises(NearsafeError, match=f"more than {MAX_DEPTH} lists and objects"):
        rows_of(tmp_path / "x.json", b'{"rows": [{"a": ' + opening * 200_000, "rows")


def test_brackets_in_texts_are_not_depth(tmp_path):
    texts = [":[ " * 3000, '\\"[' * 3000, "\\\\", '[" ['] * 400
    assert [
        row["a"] for row in rows_of(tmp_path / "x.json", json.dumps([{"a": text} for text in texts]).encode())
    ] == texts


def test_numbers_of_thousands_of_digits_do_not_end_the_process(tmp_path):
    with pytest.raises(NearsafeError, match="not readable as JSON"):
        rows_of(tmp_path / "x.json", b'[{"a": ' + b"9" * 5000 + b"}]")


def test_a_text_in_a_list_or_an_object_is_read_by_the_age_word_filter():
    cells = {"a": "one", "b": ["two", {"c": "three", "d": [["four"]]}], "e": 5, "f": None, "g": ""}
    assert sorted(cells_as_text(cells)) == ["four", "one", "three", "two"]


def tar_of(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT) as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_a_broken_header_is_not_the_end_of_an_archive(tmp_path, base):
    image = (base / "folders/dog/1.png").read_bytes()
    path = tar_of(tmp_path / "x.tar", [(tarfile.TarInfo(f"{n}.png"), image) for n in range(4)])
    data = bytearray(path.read_bytes())
    second = 512 + -(-len(image) // 512) * 512
    data[second + 150] ^= 1  # of the checksum
    path.write_bytes(data)
    with pytest.raises(NearsafeError, match="after 0 samples: not readable as a tar archive: a broken header"):
        list(read_items(path, Columns(), Drops()))


def test_an_archive_that_unpacks_to_much_is_refused_before_it_is_in_memory(tmp_path):
    long = tarfile.TarInfo("././@LongLink")
    long.type = tarfile.GNUTYPE_LONGNAME
    path = tar_of(tmp_path / "x.tar.gz", [(long, bytes(64 << 20))], "w:gz")
    assert path.stat().st_size < 1 << 20
    with pytest.raises(NearsafeError, match="a name of 64 MiB"):
        list(read_items(path, Columns(), Drops()))


@pytest.mark.parametrize("name", ["../../x.png", "/etc/x.png", "a/../../x.png", "..\\x.png", "x\0.png", "\ud800.png"])
def test_no_name_in_a_file_leads_out_of_its_folder(tmp_path, base, name):
    root = tmp_path / "root"
    shutil.copytree(base / "img", root / "img")
    shutil.copy(base / "img/000000000001.jpg", tmp_path / "x.png")
    found = captions_json(3, 1)
    found["images"][0]["file_name"] = name
    (root / "x.json").write_text(json.dumps(found))
    entry = {"kind": "coco", "captions": "x.json", "images": "img"}
    params = SourcesParams(root=root, entries={"mine": entry}, max_broken=1.0)
    ingest(params, [make_entry("mine", entry)], tmp_path / "out", lambda line: None)
    assert (
        len(tables(tmp_path / "out")["images"]) == 2 and "'images', row 0" in (tmp_path / "out/dropped.txt").read_text()
    )
    assert read_manifest(tmp_path / "out")
