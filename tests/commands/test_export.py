"""nearsafe export: folders that plain libraries load, with the images and numbers of the project's own path."""

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from transformers import CLIPModel

from pipeline.cli import main
from pipeline.layout import Data, table_file
from pipeline.models.clip import load_clip
from pipeline.models.diffusion import load_diffusion, text_tower
from pipeline.models.hashing import model_hash
from pipeline.models.sampler import generate
from pipeline.tables import Output
from tests.conftest import score_row
from tests.models.tiny import save_clip, save_diffusion

TRAINED = {"seed": 0, "params": {"alpha": 58.0, "concept": "a knife | a bomb"}, "train": {"epochs": 4, "lora": None},
           "inputs": {"clip": "c0ffee", "world": "beef"}, "libraries": {"torch": "2.13.0"}, "code": "abc"}  # fmt: skip


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tiny models, and checkpoints and scores of `original` and `des`."""
    monkeypatch.chdir(tmp_path)
    base = save_clip(tmp_path / "models/clip")
    save_diffusion(tmp_path / "models/diffusion")
    values = {
        "seed": 0, "seeds": [0, 1], "models": {"clip": "models/clip", "diffusion": "models/diffusion"},
        "generate": {"steps": 2, "guidance": 5.0},
        "defences": {"original": {"method": "original"}, "des": {"method": "des", "concept": "a knife", "alpha": 58}},
    }  # fmt: skip
    with Path("params.yaml").open("w") as file:
        YAML().dump(values, file)
    data = Data()
    for defence, number, accuracy in (("original", 0, 0.9721), ("des", 1, 0.8844)):
        output = Output(data.checkpoints(defence), TRAINED | {"defence": defence})
        save_clip(data.checkpoints(defence) / "seed-0", seed=number)
        output.add_file("seed-0")
        output.finish()
        score(defence, model_hash(data.checkpoints(defence) / "seed-0"), accuracy)
    assert model_hash(base) == model_hash(data.checkpoints("original") / "seed-0")
    return tmp_path


def score(defence: str, digest: str, accuracy: float) -> None:
    output = Output(Data().scores(defence), {"defence": defence})
    rows = [
        score_row(defence, "zeroshot/base", "mean", "accuracy", accuracy, ci_method="bootstrap", model_hash=digest),
        score_row(
            defence, "generation/world_unsafe", "world", "asr", accuracy - 0.5, n=77, detector="world", rule="hazard",
            model_hash=digest,
        ),
    ]  # fmt: skip
    output.write(table_file("scores"), "scores", rows)
    output.finish()


def refuses(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["export", *words])
    assert end.value.code == 2
    return capsys.readouterr().err


def snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def test_the_pipeline_draws_what_the_project_draws(clone, capsys):
    main(["export", "des", "--to", "out/des"])
    digest = model_hash(Data().checkpoints("des") / "seed-0")
    assert digest in capsys.readouterr().out
    out = clone / "out/des"
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "clip", "pipeline"]
    assert model_hash(out / "clip") == digest
    assert not [path for path in out.rglob("*") if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    for part in ("unet", "vae"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        assert (out / "pipeline" / name).read_bytes() == (clone / "models/diffusion" / name).read_bytes()

    loading, drawing = snippets((out / "README.md").read_text())
    found: dict = {}
    with contextlib.chdir(out):
        exec(loading, found)
        exec(drawing, found)
    assert found["features"].shape == (1, 24)

    diffusion = load_diffusion(clone / "models/diffusion")
    tower = text_tower(load_clip(Data().checkpoints("des") / "seed-0"), diffusion, Path())
    own = generate(diffusion, tower, ["a small red cat in the forest"], [0], 5.0, steps=2)
    theirs = torch.from_numpy(np.array(found["image"])).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(theirs, own, atol=0.5 / 255 + 1e-4, rtol=0)
    undefended = text_tower(load_clip(clone / "models/clip"), diffusion, Path())
    base = generate(diffusion, undefended, ["a small red cat in the forest"], [0], 5.0, steps=2)
    assert (base - own).abs().max() > 2 / 255, "the towers of the test must draw differently"


def test_the_card_says_what_was_measured_and_how_it_was_made(clone):
    main(["export", "des", "--to", "out", "--no-diffusion"])
    assert sorted(path.name for path in Path("out").iterdir()) == ["README.md", "clip"]
    card = Path("out/README.md").read_text()
    front = YAML(typ="safe").load(card.split("---")[1])
    assert front == {
        "license": "other", "license_name": "that-of-the-base-model", "base_model": "models/clip",
        "library_name": "transformers", "tags": ["nearsafe", "des", "clip", "safety"],
    }  # fmt: skip
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in card.splitlines() if line[:1] == "|"]
    accuracy = next(row for row in rows if row[0] == "zero-shot")
    assert accuracy[1:5] == ["0.884 [0.834, 0.934]", "0.972 [0.922, 1.000]", "100", "bootstrap"]
    asr = next(row for row in rows if row[0] == "ASR")
    assert asr[1].startswith("0.384") and asr[3:] == ["77", "wilson", "generation/world_unsafe; world; hazard"]
    for fact in ("NeurIPS 2025, arXiv 2501.18877", "world `beef`", "`abc`", "torch 2.13.0", "alpha: 58.0",
                 "concept: a knife | a bomb", "tuned the text tower", "vision tower is the undefended"):  # fmt: skip
        assert fact in card, fact
    assert str(clone) not in card
    CLIPModel.from_pretrained("out/clip", local_files_only=True)


def test_the_undefended_model_is_called_that(clone):
    main(["export", "original", "--to", "out", "--no-diffusion"])
    card = Path("out/README.md").read_text()
    assert "**The undefended model**" in card and "made safer by" not in card


def test_a_folder_in_use_is_left_alone(clone, capsys):
    out = clone / "out"
    out.mkdir()
    (out / "README.md").write_text("mine")
    assert "is not empty" in refuses(capsys, "des", "--to", "out", "--no-diffusion")
    (out / "thesis.tex").write_text("mine")
    assert "'thesis.tex', which is no part of an export" in refuses(capsys, "des", "--to", "out", "--force")
    assert (out / "README.md").read_text() == "mine"
    (out / "thesis.tex").unlink()
    main(["export", "des", "--to", "out", "--no-diffusion", "--force"])
    assert "# des, training seed 0" in (out / "README.md").read_text()
    assert not list(clone.glob(".out*"))


def test_what_cannot_be_exported_is_said_and_leaves_nothing(clone, capsys):
    assert "unknown defence 'dse'; known: original, des" in refuses(capsys, "dse", "--to", "out")
    assert "no checkpoint of des with training seed 3; there are 0" in refuses(
        capsys, "des", "--to", "out", "--seed", "3"
    )
    weights = Data().checkpoints("des") / "seed-0/model.safetensors"
    weights.write_bytes(Path("models/clip/model.safetensors").read_bytes())
    assert "`nearsafe repro score@des` scores it" in refuses(capsys, "des", "--to", "out")
    score("des", model_hash(weights.parent), 0.5)
    made = Data().generations("des")
    made.mkdir(parents=True)
    (made / "spec.json").write_text('{"inputs": {"diffusion": "another"}}')
    assert "images were made and scored with another" in refuses(capsys, "des", "--to", "out")
    inputs = {"diffusion": model_hash(Path("models/diffusion")), "text_encoder_2": "another tower"}
    (made / "spec.json").write_text(json.dumps({"inputs": inputs}))
    said = refuses(capsys, "des", "--to", "out")
    assert "generate.towers.text_encoder_2: this tower is the diffusion folder's own" in said
    assert "made and scored with another tower" in said
    assert not Path("out").exists() and not list(clone.glob(".out*"))


def test_a_defence_outside_of_the_weights_is_not_exported(clone, capsys, monkeypatch):
    from dataclasses import replace

    from pipeline import exporting

    read = exporting.read_defence
    monkeypatch.setattr(exporting, "read_defence", lambda *given: replace(read(*given), kind="inference"))
    assert "acts inside the sampler" in refuses(capsys, "des", "--to", "out")
