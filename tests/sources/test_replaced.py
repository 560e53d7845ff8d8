"""Pictures that stay files: a replaced one is noticed by all made of it; links are followed; order is ours."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import NearsafeError
from pipeline.image_cache import ImageCache, load_images
from pipeline.models.clip import load_clip
from pipeline.shards import output_hash
from pipeline.sources.convert import Converter
from pipeline.sources.protocol import Drops, ImageRow, Place, Record
from pipeline.sources.registry import Entry
from pipeline.sources.seen import Seen
from pipeline.sources.segments import fingerprint
from pipeline.tables import read_output
from stages import embed, world
from tests.models.tiny import save_clip
from tests.sources.files import picture, visu_hub
from tests.sources.test_ingest import ENTRY, SMALL, content

FOLDERS = {"kind": "llava_images", "image_set": "mine", "images": "mine", "unsafe": False}


def vectors(embeddings: Path) -> dict[str, list[float]]:
    table = read_output(embeddings, "embeddings")
    return dict(zip(table["item_id"].to_pylist(), table["vector"].to_pylist(), strict=True))


@pytest.mark.parametrize("copy", [False, True])
def test_a_picture_replaced_under_its_name_is_embedded_and_cached_anew(tmp_path, monkeypatch, copy):
    monkeypatch.chdir(tmp_path)
    visu_hub(tmp_path / "files", 4)
    clip, params = save_clip(tmp_path / "clip"), tmp_path / "params.yaml"
    entry = {**ENTRY, "copy": copy}
    params.write_text(
        json.dumps({"embed": {"batch_size": 4}, "sources": {"root": "files", "entries": {"visu": entry}}})
    )

    def make() -> tuple[str, dict[str, list[float]], dict[str, np.ndarray]]:
        world.main(params, tmp_path / "world")
        embed.main(params, tmp_path / "world", clip, tmp_path / "embeddings")
        ids = sorted(read_output(tmp_path / "world", "images")["image_id"].to_pylist())
        pixels, mapped = load_images(ids, tmp_path / "world", load_clip(clip), ImageCache(tmp_path / "cache", 0))
        assert mapped
        return output_hash(tmp_path / "world"), vectors(tmp_path / "embeddings"), dict(zip(ids, pixels, strict=True))

    first, again = make(), make()
    assert again[0] == first[0], "the same files, the same bytes"
    file = tmp_path / "files/coco/train2017/000000000102.jpg"
    times = file.stat()
    picture(file, 99)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    changed = make()
    assert changed[0] != first[0] and (tmp_path / "world/images.sha256").exists() != copy
    others = {item for item in first[1] if changed[1][item] != first[1][item]}
    assert len(others) == 1 and others == {item for item in first[2] if (changed[2][item] != first[2][item]).any()}


def test_a_resumed_run_has_the_digest_of_a_whole_one(tmp_path, run, monkeypatch):
    from pipeline.sources import segments

    visu_hub(tmp_path, 20)
    run(visu=ENTRY, knobs=SMALL, out="whole")
    true, calls = segments.Segments.commit, []

    def failing(self, entry, progress):
        calls.append(1)
        true(self, entry, progress)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(segments.Segments, "commit", failing)
    with pytest.raises(KeyboardInterrupt):
        run(visu=ENTRY, knobs=SMALL, out="cut")
    run(visu=ENTRY, knobs=SMALL, out="cut")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["[]", "{", '{"inputs": 1}', "index"])
def test_a_damaged_state_begins_the_run_anew(tmp_path, run, monkeypatch, damage):
    from pipeline.sources import segments

    visu_hub(tmp_path, 20)
    whole = run(visu=ENTRY, knobs=SMALL)
    true = segments.Segments.commit

    def failing(self, entry, progress):
        true(self, entry, progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(segments.Segments, "commit", failing)
    with pytest.raises(KeyboardInterrupt):
        run(visu=ENTRY, knobs=SMALL, out="cut")
    monkeypatch.undo()
    resume = tmp_path / "cut/.resume"
    if damage == "index":
        for file in resume.glob("seen.sqlite*"):
            file.write_bytes(b"no index, " * 900)
    else:
        (resume / "state.json").write_text(damage)
    assert run(visu=ENTRY, knobs=SMALL, out="cut") == whole


def test_links_to_files_and_folders_are_read_and_watched(tmp_path, run):
    far = tmp_path.parent / f"{tmp_path.name}-far"
    for number in range(3):
        picture(far / f"{number}.png", number)
    picture(tmp_path / "mine/own.png", 9)
    (tmp_path / "mine/linked").symlink_to(far)
    (tmp_path / "mine/one.png").symlink_to(far / "0.png")
    assert len(run(mine=FOLDERS)["images"]) == 5
    before = fingerprint(tmp_path / "mine", tmp_path / "out", "")
    picture(far / "2.png", 50)
    assert fingerprint(tmp_path / "mine", tmp_path / "out", "") != before
    (far / "back").symlink_to(tmp_path / "mine")
    assert fingerprint(tmp_path / "mine", tmp_path / "out", "") != before, "a loop ends"
    with pytest.raises(NearsafeError, match="a link leads to a folder that was read already"):
        run(mine=FOLDERS, out="loop")
    shutil.rmtree(far)


def test_a_link_that_leads_nowhere_is_one_line_that_names_it(tmp_path, run):
    picture(tmp_path / "mine/own.png")
    for target in ("gone.png", "self.png"):
        (tmp_path / "mine/self.png").symlink_to(target)
        with pytest.raises(NearsafeError, match=rf"mine/self\.png: a link to {target}, which cannot be read") as error:
            run(mine=FOLDERS)
        assert "\n" not in str(error.value) and not (tmp_path / "world").exists()
        (tmp_path / "mine/self.png").unlink()


def test_the_order_in_which_a_file_system_lists_changes_no_byte(tmp_path, run, monkeypatch):
    for number in range(6):
        picture(tmp_path / f"mine/{'ab'[number % 2]}/{number}.png", number)
    for name in ("one", "two"):
        shutil.make_archive(str(tmp_path / f"shards/{name}"), "tar", tmp_path / "mine/a")
    entries = {"mine": FOLDERS, "shards": {**FOLDERS, "image_set": "other", "images": "shards"}}
    (tmp_path / "early").mkdir()
    run(out="early/world", **entries)
    listdir, scandir = os.listdir, os.scandir

    class Backwards:
        def __init__(self, path="."):
            with scandir(path) as found:
                self.found = iter(sorted(found, key=lambda entry: entry.name, reverse=True))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.close()

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.found)

        def close(self):
            self.found = iter(())

    monkeypatch.setattr(os, "listdir", lambda *path: sorted(listdir(*path), reverse=True))
    monkeypatch.setattr(os, "scandir", Backwards)
    run(out="early/again", **entries)
    monkeypatch.undo()
    assert content(tmp_path / "early/again") == content(tmp_path / "early/world")


def test_of_two_images_with_one_key_the_first_is_kept_in_any_batch(tmp_path):
    """Keys meet where two rows name the same image: the first row that can be kept is, and no later file."""
    one, two = picture(tmp_path / "one.png", 1), picture(tmp_path / "two.png", 2)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"none")

    def kept(paths: list[Path], batch: int) -> tuple[list[str], int]:
        drops, seen = Drops(), Seen(tmp_path / f"seen-{len(paths)}-{batch}-{paths[0].stem}", 0)
        converter = Converter(Entry("e", "e", None), seen, drops)
        records = [Record(Place(tmp_path, n), (ImageRow("k", False, "s", path),)) for n, path in enumerate(paths)]
        parts = [converter.convert(records[at : at + batch]) for at in range(0, len(records), batch)]
        seen.close()
        rows = [row for part in parts for made in part for table, row in made if table == "images"]
        return [Path(row["image"]["path"]).stem for row in rows], drops.total("broken")

    for batch in (1, 2, 3):
        assert kept([one, two, broken], batch) == (["one"], 0)
        assert kept([broken, two, one], batch) == (["two"], 1)
