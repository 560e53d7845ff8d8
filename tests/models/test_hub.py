"""nearsafe fetch against a hub on this machine: pinned commits, no pickles, nothing twice, verified, resumed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from ruamel.yaml import YAML

from pipeline.cli import main
from pipeline.errors import NearsafeError
from pipeline.fetching import File, fetch, references, wanted
from pipeline.models import hub
from pipeline.models.clip import load_clip
from pipeline.models.hashing import model_hash
from tests.models.hub_server import Hub, serve
from tests.models.tiny import save_clip, save_diffusion

OLD, NEW = "0" * 39 + "1", "a" * 40
NAME = "openai/clip-tiny"
FOLDER = Path("hub") / NAME


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_clip(folder / "clip")
    save_diffusion(folder / "diffusion")
    return folder


@pytest.fixture
def server(models, tmp_path, monkeypatch):
    """A hub with a CLIP of two commits, asked from an empty folder."""
    monkeypatch.chdir(tmp_path)
    with serve(Hub()) as running:
        running.add(NAME, OLD, models / "clip", **{"notes.txt": b"old"})
        running.add(NAME, NEW, models / "clip", **{
            "pytorch_model.bin": b"pickle", "model.fp16.safetensors": b"half", "open_clip_model.safetensors": b"again",
            "flax_model.msgpack": b"flax", "modeling_own.py": b"code", "README.md": b"card",
        })  # fmt: skip
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield running


def write(revision: str | None = NEW, **sections: object) -> Path:
    values = {"models": {"clip": str(FOLDER)}, "hub": {NAME: revision} if revision else {}, **sections}
    with Path("params.yaml").open("w") as file:
        YAML().dump(values, file)
    return Path("params.yaml")


def run(params: Path) -> list[str]:
    lines: list[str] = []
    fetch(params, Path(), lines.append)
    return lines


def refuses(params: Path) -> str:
    with pytest.raises(NearsafeError) as error:
        run(params)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_pinned_model_arrives_whole_without_pickles_and_loads(server, models):
    with pytest.raises(NearsafeError, match=f"{FOLDER}: no such model folder: `nearsafe fetch` gets {NAME}"):
        load_clip(FOLDER)
    run(write())
    there = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*"))
    own = sorted(path.name for path in (models / "clip").iterdir())
    assert there == sorted([*own, "nearsafe.json"]) and not list(FOLDER.parent.glob(".*"))
    record = json.loads((FOLDER / "nearsafe.json").read_text())
    assert record["id"] == NAME and record["revision"] == NEW and sorted(record["files"]) == own
    assert load_clip(FOLDER).hash == model_hash(models / "clip"), "what fetch notes is no part of the model"


def test_a_second_call_verifies_and_asks_nothing(server):
    run(write())
    server.asked.clear()
    assert "files as fetched" in run(write())[0] and not server.asked
    (FOLDER / "merges.txt").write_text("#version: 0.3\n")
    assert refuses(write()).startswith(f"{FOLDER}/merges.txt: is not the file fetched")
    with pytest.raises(NearsafeError, match=r"merges.txt: is not the file fetched"):
        load_clip(FOLDER)
    (FOLDER / "merges.txt").unlink()
    assert "merges.txt: is gone" in refuses(write())


def test_another_pin_brings_another_revision(server):
    run(write(OLD))
    assert (FOLDER / "notes.txt").read_text() == "old"
    with pytest.raises(NearsafeError, match=f"nearsafe.json: the folder is of revision {OLD}, the pin of {NAME} is"):
        hub.verify(FOLDER, NEW)
    run(write(NEW))
    assert not (FOLDER / "notes.txt").exists() and hub.verify(FOLDER, NEW).revision == NEW


def test_no_pin_names_the_newest_commit_and_fetches_nothing(server):
    assert f"no pin of {NAME}: add `{NAME}: {NEW}`" in refuses(write(None))
    assert not server.got() and not Path("hub").exists()
    for loose in ("main", "v1.0", NEW[:12]):
        assert f"a branch or a tag is no pin, got '{loose}'" in refuses(write(loose))


def test_offline_is_one_error_and_no_request(server, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set: `HF_HUB_OFFLINE=0 nearsafe fetch`" in refuses(write())
    assert not server.asked


def test_what_the_hub_refuses(server):
    server.gated.add("org/gated")
    for name, words in (("org/none", "has no such model"), ("org/gated", "accept its licence on its page")):
        assert words in refuses(write(models={"clip": f"hub/{name}"}, hub={name: NEW}))
    assert f"the hub has no commit {'b' * 40}" in refuses(write("b" * 40))


def test_a_broken_download_continues(server, monkeypatch):
    """With the files that are not whole yet."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    server.cut["model.safetensors"] = 100_000
    assert "the next call continues" in refuses(write())
    assert not FOLDER.exists()
    whole = set(server.got()) - {"model.safetensors"}
    server.cut.clear()
    server.asked.clear()
    run(write())
    assert whole and not whole & set(server.got()) and "model.safetensors" in server.got()
    hub.verify(FOLDER)


def test_a_file_that_arrives_altered_is_refused(server):
    data = server.repositories[NAME][NEW]["config.json"]
    server.altered["config.json"] = data.replace(b"quick_gelu", b"quick_gulf")
    assert "config.json: arrived with another size or hash" in refuses(write())
    server.altered.clear()
    run(write())


def test_a_diffusion_repository_brings_its_parts_once(server, models):
    index = {
        "_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderTiny"], "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "image_encoder": [None, None],
    }  # fmt: skip
    more = {
        "model_index.json": json.dumps(index).encode(), "v1-5-pruned.safetensors": b"all of it again",
        "unet/diffusion_pytorch_model.fp16.safetensors": b"half", "unet/diffusion_pytorch_model.bin": b"pickle",
        "safety_checker/model.safetensors": b"checker", "vae_encoder/model.safetensors": b"not in the index",
    }  # fmt: skip
    server.add("org/sd", NEW, models / "diffusion", **more)
    run(write(models={"diffusion": "hub/org/sd"}, hub={"org/sd": NEW}))
    there = {path.relative_to("hub/org/sd").as_posix() for path in Path("hub/org/sd").rglob("*") if path.is_file()}
    own = {path.relative_to(models / "diffusion").as_posix() for path in (models / "diffusion").rglob("*.*")}
    assert there == own | {"model_index.json", "nearsafe.json"}


def test_shards_stay_and_their_other_precisions_go():
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
             "model.fp16-00001-of-00001.safetensors", "model.safetensors.index.fp16.json"]  # fmt: skip
    assert [file.name for file in wanted(File(name, 1, None, None) for name in names)] == names[:3]
    only_half = [File("model.fp16.safetensors", 1, None, None)]
    assert wanted(only_half) == only_half


def test_every_folder_of_the_file_counts(tmp_path):
    values = {
        "models": {"clip": "hub/a/b", "llava": "pipeline/world/weights/llava"},
        "defences": {"x": {"method": "imported", "folder": "hub/c/d/text_encoder"}},
        "generate": {"towers": [{"two": "hub/a/b"}]}, "concept": "a hub of wheels",
    }  # fmt: skip
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(values, file)
    assert references(tmp_path / "params.yaml") == ["a/b", "c/d"]


def test_a_part_of_a_fetched_folder_is_verified_too(server, models):
    server.add("org/sd", NEW, models / "diffusion")
    run(write(models={"diffusion": "hub/org/sd"}, hub={"org/sd": NEW}))
    assert model_hash(Path("hub/org/sd/vae")) == model_hash(models / "diffusion/vae")
    (Path("hub/org/sd/vae") / "more.json").write_text("{}")
    with pytest.raises(NearsafeError, match=r"vae/more.json: was not fetched"):
        model_hash(Path("hub/org/sd/vae"))
    model_hash(Path("hub/org/sd/unet"))


def test_a_folder_put_there_by_hand_is_left_alone(server, models):
    shutil.copytree(models / "clip", FOLDER)
    assert "put there by hand" in run(write())[0]
    assert load_clip(FOLDER).hash == model_hash(models / "clip")


def test_the_command(server, capsys):
    """As a process of its own, with the variables that users set."""
    write()
    command = [sys.executable, "-m", "pipeline.cli", "fetch"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    offline = subprocess.run(command, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert offline.returncode == 2 and offline.stderr.startswith(f"error: {NAME} is not here and HF_HUB_OFFLINE is set")
    online = subprocess.run(command, env=environment | {"HF_HUB_OFFLINE": "0"}, capture_output=True, text=True)
    assert online.returncode == 0, online.stderr
    assert online.stdout.splitlines()[-1] == f"{FOLDER}: fetched"
    main(["fetch"])
    assert "as fetched at" in capsys.readouterr().out
