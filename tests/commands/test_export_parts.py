"""nearsafe export --part: each part loads with plain libraries, in a process that cannot import this project."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file
from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from pipeline.cli import main
from pipeline.errors import NearsafeError
from pipeline.layout import Data, table_file
from pipeline.models.adapters import Lora, attach, merge
from pipeline.models.clip import load_clip
from pipeline.models.export import export_clip
from pipeline.models.hashing import model_hash
from pipeline.models.recovery import recover
from pipeline.tables import Output
from tests.conftest import score_row
from tests.models.tiny import save_clip, save_diffusion

LORA = Lora(4, 8.0, 0.0, ("k_proj", "v_proj", "fc1", "patch_embedding"))
ALONE = "import sys\nfor name in ('pipeline', 'stages', 'tests'): sys.modules[name] = None\n"


def tuned(base: Path, out: Path, scale: float = 0.1) -> Path:
    """A merged checkpoint as training makes it: adapters with random B on both towers of `base`."""
    generator = torch.Generator().manual_seed(1)
    adapted = attach(load_clip(base).model, LORA, generator, ("text", "vision"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.copy_(scale * torch.randn(weight.shape, generator=generator))
    export_clip(merge(adapted), base, out)
    return out


def finish(defence: str, method: str, base: Path, make: Callable[[Path], object], lora: dict | None) -> None:
    """A checkpoint with spec and manifest, and a score of it."""
    data, train = Data(), {"lora": lora, "lr": 1e-3}
    spec = {"stage": "train", "defence": defence, "method": method, "inputs": {"clip": model_hash(base)}}
    own = {"params": {"layout": "advunlearn", "folder": "hub/org/theirs"}} if method == "imported" else {"train": train}
    output = Output(data.checkpoints(defence), spec | own)
    make(data.checkpoints(defence) / "seed-0")
    output.add_file("seed-0")
    output.finish()
    digest = model_hash(data.checkpoints(defence) / "seed-0")
    scores = Output(data.scores(defence), {"defence": defence})
    row = score_row(defence, "zeroshot/base", "mean", "accuracy", 0.9, ci_method="bootstrap", model_hash=digest)
    scores.write(table_file("scores"), "scores", [row])
    scores.finish()


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """Tiny models; `lora` is a merged adapter, `full` a full fine-tune, `theirs` imported."""
    root = tmp_path_factory.mktemp("clone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        base = save_clip(Path("models/clip"))
        save_diffusion(Path("models/diffusion"))
        weights = {name: 1.0 for name in (
            "text_preserve_uni", "text_redirect_uni", "image_preserve_uni", "image_redirect_uni",
            "text_preserve_cross", "text_redirect_cross", "image_preserve_cross", "image_redirect_cross",
        )}  # fmt: skip
        defences = {
            "original": {"method": "original"},
            "lora": {"method": "safe_clip", "nce_scale": 10.0, "weights": weights},
            "full": {"method": "des", "concept": "a knife", "alpha": 58},
            "theirs": {"method": "imported", "layout": "advunlearn", "folder": "hub/org/theirs"},
        }
        values = {
            "seed": 0, "seeds": [0], "models": {"clip": "models/clip", "diffusion": "models/diffusion"},
            "generate": {"steps": 2, "guidance": 5.0}, "defences": defences,
        }  # fmt: skip
        with Path("params.yaml").open("w") as file:
            YAML().dump(values, file)
        make = {
            "original": partial(shutil.copytree, base), "lora": partial(tuned, base),
            "full": partial(save_clip, seed=1), "theirs": partial(save_clip, seed=2),
        }  # fmt: skip
        lora = {"r": LORA.r, "alpha": LORA.alpha, "dropout": LORA.dropout, "targets": list(LORA.targets)}
        for defence, entry in defences.items():
            finish(defence, entry["method"], base, make[defence], lora if defence == "lora" else None)
    return root


@pytest.fixture(autouse=True)
def inside(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clone)


def refuses(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["export", *words])
    assert end.value.code == 2
    return capsys.readouterr().err


def alone(folder: Path, code: str) -> None:
    """Run code in a fresh process that finds no file of this project, in the folder of an export."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-I", "-W", "error::UserWarning", "-c", ALONE + code]
    done = subprocess.run(
        command, cwd=folder, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_part_loads_without_this_project(clone):
    main(["export", "lora", "--to", "out/all", *(f"--part={part}" for part in
                                                ("pipeline", "adapter", "clip", "text", "vision"))])  # fmt: skip
    out = clone / "out/all"
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "adapter", "clip", "pipeline", "text", "vision"]
    assert not [path for path in out.rglob("*") if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    shutil.copytree("models", out / "models")
    snippets = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    assert len(snippets) == 5
    keep = """
from safetensors.torch import save_file
import numpy
merged = {f"merged.{name}": value.contiguous() for name, value in clip.state_dict().items()}
save_file({"states": states.contiguous(), "seen": seen.contiguous(), "ids": tokens["input_ids"], **merged}, "found")
numpy.save("image.npy", numpy.array(image))
"""
    alone(out, "\n".join(snippets) + keep)  # one process: importing torch takes longest
    found = load_file(out / "found")
    scored = load_clip(Data().checkpoints("lora") / "seed-0")
    with torch.no_grad():
        states = scored.model.text_model(input_ids=found["ids"]).last_hidden_state
    assert torch.equal(found["states"], states) and found["seen"].shape == (1, 32)
    for name, value in scored.model.state_dict().items():
        torch.testing.assert_close(found[f"merged.{name}"], value, atol=3e-7, rtol=0)
    assert np.load(out / "image.npy").std() > 0


def test_towers_keep_their_projections(clone):
    main(["export", "lora", "--to", "out/towers", "--part", "text", "--part", "vision"])
    out = clone / "out/towers"
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "text", "vision"]
    clip = load_clip(Data().checkpoints("lora") / "seed-0")
    text = CLIPTextModelWithProjection.from_pretrained(out / "text")
    vision = CLIPVisionModelWithProjection.from_pretrained(out / "vision")
    image, ids = torch.randn(1, 3, 64, 64), torch.tensor([[188, 5, 6, 189]])
    with torch.no_grad():
        torch.testing.assert_close(text(ids).text_embeds, clip.model.get_text_features(ids).pooler_output)
        torch.testing.assert_close(vision(image).image_embeds, clip.model.get_image_features(image).pooler_output)
    names = load_file(out / "text/model.safetensors")
    assert all(name.startswith(("text_model.", "text_projection.")) for name in names), "as every version reads them"
    card = (out / "README.md").read_text()
    assert clip.hash in card and "`clip/`" not in card and "`text/`" in card


def test_the_adapter_is_of_the_configured_rank_and_names_its_base(clone):
    main(["export", "lora", "--to", "out/adapter", "--part", "adapter"])
    folder = clone / "out/adapter/adapter"
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 8.0, "models/clip")
    weights = load_file(folder / "adapter_model.safetensors")
    assert {min(w.flatten(1).shape) for w in weights.values()} == {4}
    assert "found again as the difference" in (folder.parent / "README.md").read_text()


@pytest.mark.parametrize(("defence", "words"), [
    ("full", "every parameter was tuned"), ("original", "nothing was trained"), ("theirs", "nothing was trained"),
])  # fmt: skip
def test_what_has_no_adapter_says_so(defence, words, clone, capsys):
    said = refuses(capsys, defence, "--to", "out/none", "--part", "adapter", "--part", "clip")
    assert words in said and "--part clip, text or vision" in said
    assert not Path("out/none").exists()


def test_an_adapter_needs_the_base_model_that_was_tuned(clone, capsys):
    file = Path("models/clip/config.json")
    before = file.read_text()
    file.write_text(before.replace('"initializer_factor": 1.0', '"initializer_factor": 1.5'))
    try:
        assert "lora was tuned from" in refuses(capsys, "lora", "--to", "out/none", "--part", "adapter")
    finally:
        file.write_text(before)


@pytest.mark.parametrize("rank", [1, 3])
def test_a_change_that_is_of_another_rank_is_refused(rank, clone, tmp_path):
    base, merged = Path("models/clip"), Data().checkpoints("lora") / "seed-0"
    lora = Lora(rank, 8.0, 0.0, LORA.targets)
    with pytest.raises(NearsafeError, match=f"the change of this weight is not of rank {rank}"):
        recover(load_clip(merged).model, load_clip(base).model, lora, ("text", "vision"), "base", tmp_path)


def test_a_change_beside_the_adapters_is_refused(clone, tmp_path):
    base, merged = (load_clip(folder).model for folder in (Path("models/clip"), Data().checkpoints("lora") / "seed-0"))
    narrow = Lora(4, 8.0, 0.0, ("k_proj", "v_proj", "fc1"))
    with pytest.raises(NearsafeError, match=r"patch_embedding.weight: differs .* no adapter is on it"):
        recover(merged, base, narrow, ("text", "vision"), "base", tmp_path)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 10.0])
def test_small_and_large_adapters_come_back_within_rounding(scale, clone, tmp_path):
    merged = load_clip(tuned(Path("models/clip"), tmp_path / "merged", scale)).model
    found = recover(merged, load_clip(Path("models/clip")).model, LORA, ("text", "vision"), "base", tmp_path / "out")
    assert found.modules == 2 * 2 * 3 + 1 and found.residual < 0.5


def test_the_card_of_an_imported_model_says_whose_it_is(clone):
    main(["export", "theirs", "--to", "out/theirs", "--no-diffusion"])
    card = Path("out/theirs/README.md").read_text()
    assert "published weights of others: `org/theirs`" in card and "not made here" in card
    assert "The vision tower is the undefended one" in card and "made safer by" not in card
