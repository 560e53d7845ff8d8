"""nearsafe doctor: says what is missing and how to get it, whatever is broken."""

import json
import os
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import doctor, doctor_inputs
from pipeline.cli import main
from pipeline.doctor import Check, estimate, examine, guarded
from pipeline.flows.home import Process, Server, write_server
from pipeline.runs import RunRecord
from tests.models.tiny import save_clip, save_diffusion

ROOT = Path(__file__).parents[2]


def write_params(folder: Path, **sections: object) -> Path:
    file = folder / "params.yaml"
    with file.open("w") as stream:
        YAML().dump(sections, stream)
    return file


def by_state(checks) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"ok": [], "warn": [], "missing": []}
    for check in checks:
        found[check.state].append(f"{check.name}: {check.text}")
        assert bool(check.fix) == (check.state != "ok"), f"{check.name}: what is not ok says how to mend it"
    return found


def test_the_shipped_inputs_are_complete(monkeypatch):
    monkeypatch.chdir(ROOT)
    params = Path("params.yaml")
    for check in (
        doctor_inputs.parameters(params), doctor_inputs.models(Path(), params), doctor_inputs.nudenet(),
        doctor_inputs.prompt_files(params), doctor_inputs.defences(params), doctor._pins(ROOT / "pyproject.toml"),
    ):  # fmt: skip
        found = by_state(check)
        assert found["ok"] and not found["warn"] and not found["missing"]


def test_an_empty_folder_gets_lines_and_status_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--json"])
    assert end.value.code == 1
    checks = json.loads(capsys.readouterr().out)
    missing = {check["name"]: check for check in checks if check["state"] == "missing"}
    assert {"packages", "dvc", "parameters", "model clip", "prompt files", "defences", "stages"} <= missing.keys()
    assert "requirements.lock" in missing["packages"]["text"]
    assert "call nearsafe in the folder of the clone" in missing["dvc"]["fix"]
    assert all(check["fix"] for check in missing.values())


def test_the_lines_of_a_terminal(tmp_path, monkeypatch, capsys):
    lines = [Check("torch", "ok", "2.13.0"), Check("disk", "missing", "0 GiB free", "free some")]
    monkeypatch.setattr(doctor, "examine", lambda root, params: iter(lines))
    with pytest.raises(SystemExit) as end:
        main(["doctor"])
    assert end.value.code == 1
    assert capsys.readouterr().out.splitlines() == [
        f"ok      {'torch':<24}2.13.0",
        f"missing {'disk':<24}0 GiB free",
        f"{'':<32}-> free some",
        "",
        "2 checks: 1 missing, nothing to look at",
    ]
    monkeypatch.setattr(doctor, "examine", lambda root, params: iter(lines[:1]))
    main(["doctor"])
    assert "1 checks: nothing missing" in capsys.readouterr().out


def test_a_check_that_breaks_is_a_line():
    def broken():
        yield Check("a", "ok", "fine")
        raise RuntimeError("libcuda is of another driver\nmore")

    good, bad = guarded("gpu", broken)
    assert good.state == "ok"
    assert (bad.name, bad.state, bad.text) == ("gpu", "missing", "could not be checked: libcuda is of another driver")


@pytest.fixture
def own_models(tmp_path):
    """Tiny models where the shipped ones would be, and their section."""
    save_clip(tmp_path / "clip")
    save_diffusion(tmp_path / "diffusion")
    weights = ROOT / "pipeline/world/weights"
    for name in ("llava", "detector", "text_detector"):
        shutil.copytree(weights / name, tmp_path / name)
    names = ("clip", "diffusion", "llava", "detector", "text_detector")
    return tmp_path, write_params(tmp_path, models={name: name for name in names})


def models(setup) -> dict[str, list[str]]:
    return by_state(doctor_inputs.models(*setup))


def test_own_models_are_described(own_models):
    found = models(own_models)
    assert len(found["ok"]) == 5 and not found["warn"] and not found["missing"]
    assert "model clip: clip: CLIPModel, activation quick_gelu" in found["ok"][0]


def test_broken_models_are_named(own_models):
    folder, params = own_models
    unet = folder / "diffusion/unet/diffusion_pytorch_model.safetensors"
    unet.write_bytes(unet.read_bytes()[:5000])
    (folder / "detector/model.safetensors").unlink()
    (folder / "text_detector/config.json").write_text("{")
    shutil.rmtree(folder / "llava")
    os.replace(folder / "clip/config.json", folder / "clip/kept")
    (folder / "clip/config.json").write_text('{"model_type": "bert"}')
    found = models((folder, params))
    said = " ".join(found["missing"])
    for part in ("not a whole safetensors file", "it holds no .safetensors", "not a readable configuration",
                 "no such model folder", "model_type 'bert', expected 'clip'"):  # fmt: skip
        assert part in said, part
    (folder / "clip/pytorch_model.bin").touch()
    assert "pytorch_model.bin: is a pickle" in " ".join(models((folder, params))["missing"])


def test_models_that_do_not_fit(own_models):
    folder, params = own_models
    save_clip(folder / "clip", width=16)
    assert "fits no free slot of" in models((folder, params))["missing"][0]


def test_another_activation_is_pointed_out(own_models):
    folder, params = own_models
    file = folder / "clip/config.json"
    file.write_text(file.read_text().replace("quick_gelu", "gelu"))
    assert "activation gelu, right for LAION's weights and wrong for OpenAI's" in models((folder, params))["ok"][0]


def test_prompt_files_are_read_and_hashed(tmp_path):
    good = tmp_path / "own.csv"
    good.write_text("prompt\na hut\n")
    entry = {"schema": "prompt_csv", "unsafe": False}
    files = {
        "good": {"path": str(good), **entry},
        "changed": {"path": str(good), "sha256": "0" * 12, **entry},
        "absent": {"path": str(tmp_path / "none.csv"), **entry},
    }
    found = by_state(doctor_inputs.prompt_files(write_params(tmp_path, prompts={"files": files})))
    assert "1 rows, sha256 " in found["ok"][0]
    assert "expected 000000000000" in found["missing"][0] and "cannot be read" in found["missing"][1]


def test_defences_that_do_not_parse(tmp_path):
    entries = {"original": {"method": "original"}, "odd": {"method": "des", "alhpa": 3}, "new": {"method": "none_such"}}
    found = by_state(doctor_inputs.defences(write_params(tmp_path, defences=entries)))
    assert found["ok"] == ["defences: original"]
    assert "alhpa" in found["missing"][0] and "none_such" in found["missing"][1]


def test_packages_against_the_lock(tmp_path):
    lock = tmp_path / "requirements.lock"
    lock.write_text("# comment\npytest==0.0.1\nno-such-package==1.0\nruff==0.17.5\n")
    found = by_state(doctor._packages(lock))
    assert found["missing"] == ["packages: not installed: no-such-package==1.0"]
    assert "pytest" in found["warn"][0] and "(lock: 0.0.1)" in found["warn"][0]
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\ndependencies = ["prefect==1.0", "fastapi>=99"]\n')
    assert len(by_state(doctor._pins(project))["missing"]) == 2


def test_how_long_is_said_with_its_source(tmp_path):
    assert estimate(tmp_path, ["a"], 3) == "no earlier run says how long that takes"
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/benchmarks.md").write_text((ROOT / "docs/benchmarks.md").read_text())
    assert " min on 2 CPU cores (docs/benchmarks.md)" in estimate(tmp_path, ["a"], 3)
    record = RunRecord.start(tmp_path / "data", "repro")
    record.stage("a", "ran", 100.0)
    record.stage("b", "ran", 200.0)
    record.stage("c", "failed", 1.0)
    record.finish("failed")
    assert estimate(tmp_path, ["a", "b"], 3) == "about 5 min, by earlier runs here"
    assert estimate(tmp_path, ["a", "c"], 3) == "about 3 min, by earlier runs here, 1 of them by the mean of the others"


def test_stages_that_are_out_of_date(dvc_repository):
    root = dvc_repository("one:\n  cmd: echo 1 > one.txt\n  outs: [one.txt]\n")
    (line,) = doctor._stages(root)
    assert line.text.startswith("1 of 1 are out of date: one;")
    (root / "dvc.yaml").write_text("stages: 3\n")
    (line,) = doctor._stages(root)
    assert line.state == "missing" and "dvc.yaml" in line.text


def test_a_server_that_was_killed_is_no_server(tmp_path):
    assert "are not running;" in next(doctor._server(tmp_path)).text
    own = Process.of(os.getpid())
    write_server(tmp_path, Server("http://127.0.0.1:1", "http://127.0.0.1:2", (own,)))
    assert "http://127.0.0.1:1" in next(doctor._server(tmp_path)).text
    write_server(tmp_path, Server("http://127.0.0.1:1", "http://127.0.0.1:2", (Process(own.pid, 1.0),)))
    assert "the last ones were killed" in next(doctor._server(tmp_path)).text


def test_every_check_is_named_once_at_least(monkeypatch, tmp_path):
    """A whole examination of nothing ends, in the order of the list."""
    monkeypatch.setattr(doctor, "_stages", lambda root: iter([Check("stages", "ok", "")]))
    names = [check.name for check in examine(tmp_path, tmp_path / "params.yaml")]
    assert names[0] == "python" and names[-1] == "stages" and {"machine", "torch", "disk", "browser"} <= set(names)
