"""nearsafe doctor on hub folders and on checkpoints of others: pins, revisions, sizes, hashes."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML
from transformers import CLIPTextModel

from pipeline import doctor_hub, doctor_inputs
from pipeline.cli import main
from pipeline.models import hub
from pipeline.models.hashing import model_hash
from tests.models.tiny import save_clip

NAME, COMMIT = "openai/clip-vit-base-patch32", "c" * 40


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("hub") / NAME


def params(pins: dict[str, str] | None = None, **sections: object) -> Path:
    values = {"models": {"clip": f"hub/{NAME}"}, "hub": {NAME: COMMIT} if pins is None else pins, **sections}
    with Path("params.yaml").open("w") as file:
        YAML().dump(values, file)
    return Path("params.yaml")


def fetched(folder: Path) -> None:
    save_clip(folder)
    files = {path.name: (path.stat().st_size, hub.sha256(path)) for path in folder.iterdir()}
    hub.write_record(hub.Record(folder, NAME, COMMIT, files))


def lines(file: Path) -> list[tuple[str, str]]:
    found = list(doctor_hub.fetched(Path(), file))
    assert all(bool(check.fix) == (check.state != "ok") for check in found)
    return [(check.state, f"{check.text} -> {check.fix}") for check in found]


def test_what_is_missing_and_how_large_it_is(folder):
    (line,) = lines(params())
    assert line[0] == "missing" and "`nearsafe fetch` gets it, about 0.6 GB" in line[1]
    first = next(iter(doctor_inputs.models(Path(), params())))
    assert first.state == "missing" and "`nearsafe fetch` gets it, about 0.6 GB" in first.fix


def test_what_is_there_with_its_revision(folder):
    fetched(folder)
    ((state, text),) = lines(params())
    assert state == "ok" and f"revision {COMMIT[:12]}" in text
    assert [line[0] for line in lines(params({}))] == ["warn", "ok"], "not pinned"
    ((state, text),) = lines(params({NAME: "d" * 40}))
    assert state == "missing" and f"the folder is of revision {COMMIT}, the pin" in text
    (folder / "merges.txt").write_text("")
    ((state, text),) = lines(params())
    assert state == "missing" and "merges.txt: has another size" in text
    ((state, text),) = lines(params({NAME: "main"}))
    assert state == "missing" and "a branch or a tag is no pin" in text


def test_an_activation_that_disagrees_with_the_origin_is_a_warning(folder):
    save_clip(folder)
    config = folder / "config.json"
    config.write_text(config.read_text().replace("quick_gelu", "gelu"))
    found = [check for check in doctor_inputs.models(Path(), params()) if check.name == "model clip"]
    assert [check.state for check in found] == ["ok", "warn"] and "OpenAI's weights" in found[1].text


def test_checkpoints_of_others(folder):
    CLIPTextModel.from_pretrained(save_clip(folder)).save_pretrained("theirs")
    entry = {"method": "imported", "layout": "advunlearn"}
    digest = model_hash(Path("theirs"))
    entries = {
        "new": {**entry, "folder": "theirs"}, "known": {**entry, "folder": "theirs", "hash": digest},
        "changed": {**entry, "folder": "theirs", "hash": "0123"}, "absent": {**entry, "folder": "hub/org/name/part"},
        "des": {"method": "des"},
    }  # fmt: skip
    found = {check.name: check for check in doctor_hub.imported(Path(), entries)}
    states = {name.removeprefix("checkpoint "): check.state for name, check in found.items()}
    assert states == {"new": "warn", "known": "ok", "changed": "missing", "absent": "missing"}
    assert f"write `hash: {digest}`" in found["checkpoint new"].fix
    assert "`nearsafe fetch` gets it" in found["checkpoint absent"].fix


def test_a_run_without_its_model_names_the_command_that_gets_it(dvc_repository, capsys):
    dvc_repository("one:\n  cmd: echo 1 > one.txt\n  outs: [one.txt]\n")
    params()
    with pytest.raises(SystemExit) as end:
        main(["repro"])
    assert end.value.code == 2 and not Path("one.txt").exists()
    assert capsys.readouterr().err.startswith(f"error: hub/{NAME}: no such model folder: `nearsafe fetch` gets {NAME}")
    main(["repro", "one"])
    assert Path("one.txt").exists() and "`nearsafe fetch` gets" in capsys.readouterr().out


def test_a_run_with_another_commit_than_the_pin_is_one_error(dvc_repository, capsys):
    dvc_repository("one:\n  cmd: echo 1 > one.txt\n  outs: [one.txt]\n")
    params()
    folder = Path(hub.ROOT) / NAME
    folder.mkdir(parents=True)
    hub.write_record(hub.Record(folder, NAME, "b" * 40, {}))
    with pytest.raises(SystemExit) as end:
        main(["repro"])
    assert end.value.code == 2 and not Path("one.txt").exists()
    assert f"the folder is of revision {'b' * 40}, the pin of {NAME} is" in capsys.readouterr().err
