"""The dry run: counts of true files, products that add up, nothing said where nothing is known."""

from pathlib import Path

import pytest
import torch

from pipeline.estimate import Part, Stage, examine_run, inputs, sizes, stages
from pipeline.model_shapes import KNOWN, numbers, shape_of
from pipeline.params import load
from pipeline.probes import Probes, Rate
from pipeline.profiles import overlay, read_profile
from pipeline.rehearsal.data import Sizes, make_des
from pipeline.rehearsal.models import make_models
from pipeline.workload import Workload, read_workload

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def laid_over() -> str:
    return overlay(ROOT / "params.yaml", read_profile("paper-des", ROOT / "profiles"))


@pytest.fixture
def des(tmp_path: Path, laid_over: str) -> Path:
    file = tmp_path / "params.yaml"
    file.write_text(laid_over)
    return file


def test_known_shapes_have_the_published_numbers() -> None:
    assert numbers("clip", KNOWN["openai/clip-vit-large-patch14"]) == 427_616_513
    parts = KNOWN["CompVis/stable-diffusion-v1-4"]
    assert numbers("diffusion", {"unet": parts["unet"]}) == 859_520_964
    assert numbers("diffusion", {"vae": parts["vae"]}) == 83_653_863


def test_missing_files_count_as_published(tmp_path: Path, des: Path) -> None:
    work = read_workload(tmp_path, des)
    assert work.train_pairs == 6911
    assert work.asked == 124 + 1000 + 107 + 272 + 931 + 9_969
    assert set(work.absent) == {"copro", "coco", *(f"prompts {name}" for name in load(des)["generate"]["prompt_sets"])}
    assert "coco, copro, prompts" in next(check for check in inputs(work) if check.name == "rows").text


def test_only_the_sizes_that_were_published_count(tmp_path: Path, des: Path) -> None:
    """Of CoPro that is one category, or all of them; in all three lists."""
    text = des.read_text()
    assert "categories: [sexual]" in text
    des.write_text(text.replace("categories: [sexual]", "categories: null"))
    assert read_workload(tmp_path, des).train_pairs == 32_685
    for old, new in (("[sexual]", "[sexual, hate]"), ("ID_test_data: train", "ID_test_data: test")):
        assert text.count(old) == 1
        des.write_text(text.replace(old, new))
        assert "copro" in read_workload(tmp_path, des).unknown


def test_where_nothing_is_known_no_time_is_told(tmp_path: Path, des: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.estimate.stages", lambda *given: [Stage("embed", 1, (Part(5, "captions", None),))])
    (last,) = [check for check in examine_run(tmp_path, des) if check.name == "time"]
    assert last.state == "warn" and last.text.startswith("unknown in all")


def test_files_that_are_there_are_counted(tmp_path: Path, des: Path) -> None:
    make_des(tmp_path / "inputs", sizes=Sizes(copro=12, prompts=3, captions=2))
    values = des.read_text()
    for line in values.splitlines():
        if ", sha256: " in line:
            values = values.replace(line, line.partition(", sha256: ")[0] + "}")
    des.write_text(values)
    work = read_workload(tmp_path, des)
    # Two of twelve pairs are of another category; COCO has two images with two captions each.
    assert (work.train_pairs, work.captions, work.images, work.asked) == (10, 20 + 4, 2, 5 * 3 + 2)
    assert not work.absent and not work.published and not work.unknown


def test_a_stage_is_its_items_times_their_rates() -> None:
    parts = (Part(100, "images", Rate(0.5, "half a second")), Part(10, "captions", Rate(1.0, "one")))
    assert Stage("embed", 3, parts).seconds == 3 * (50 + 10)
    assert (
        Stage("embed", 3, parts).check().text.startswith("about 3 min: 3 x 100 images (half a second) and 10 captions")
    )
    unknown = Stage("reply", 1, (Part(5, "replies", None),))
    assert unknown.seconds is None and unknown.check().text.startswith("unknown: 5 replies")


def test_measured_on_a_folder_of_any_shape(tmp_path: Path, des: Path) -> None:
    """A whole estimate on the rehearsal's small models: every rate is measured but that of replies."""
    make_models(tmp_path / "clip", tmp_path / "sd", None)
    shapes = {
        "clip": shape_of(tmp_path / "clip"),
        "diffusion": shape_of(tmp_path / "sd", ("unet", "vae", "text_encoder")),
    }
    assert shapes["clip"] is not None and shapes["clip"][1] == "its own configuration"
    work = Workload(captions=20, images=0, train_pairs=10, asked=4)
    plain = {kind: found[0] if found else None for kind, found in shapes.items()}
    found = {stage.name: stage for stage in stages(load(des), des, plain, work, budget=60)}
    assert set(found) == {
        "embed",
        "mine_pairs",
        "generate",
        "score",
        *(f"train@{n}" for n in load(des)["defences"] if n != "original"),
    }
    assert all(stage.seconds and stage.seconds > 0 for stage in found.values())
    lines = {check.name: check.text for check in sizes(tmp_path, load(des), {**shapes, "llava": None}, work)}
    assert lines["size llava"].startswith("unknown") and "GiB as float32" in lines["size clip"]


def test_nothing_is_measured_beyond_the_budget() -> None:
    probes = Probes(torch.device("cpu"), budget=0.0)
    shape = KNOWN["openai/clip-vit-large-patch14"]
    assert probes.clip_image(shape) is None and probes.sampler_step(KNOWN["CompVis/stable-diffusion-v1-4"]) is None
