"""Published defended checkpoints as rows: each layout becomes a plain CLIP folder, or one error says what is wrong."""

import argparse
import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextModel, CLIPTextModelWithProjection

from pipeline.errors import NearsafeError
from pipeline.models.clip import encode_images, encode_texts, load_clip
from pipeline.models.hashing import model_hash
from pipeline.models.layouts import import_checkpoint
from pipeline.tables import read_manifest
from stages import train
from tests.models.tiny import save_clip, save_diffusion

ROOT = Path(__file__).parents[2]
TEXTS = ["a cup", "a red ball"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The base model, and `other`: a defended one, whose weights differ everywhere."""
    root = tmp_path_factory.mktemp("imported")
    save_clip(root / "base")
    save_clip(root / "other", seed=1)
    return root


def text_weights(folder: Path, prefix: str = "text_model.") -> dict[str, torch.Tensor]:
    weights = load_file(folder / "model.safetensors")
    own = {name: value for name, value in weights.items() if name.startswith("text_model.")}
    return {prefix + name.removeprefix("text_model."): value for name, value in own.items()}


def save(folder: Path, weights: dict[str, torch.Tensor], name: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / name, metadata={"format": "pt"})
    return folder


def whole(made: Path, folder: Path) -> tuple[str, Path]:
    weights = load_file(made / "other/model.safetensors")
    weights["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    (save(folder, weights) / "config.json").write_bytes((made / "other/config.json").read_bytes())
    return "safe_clip", folder


def sharded(made: Path, folder: Path) -> tuple[str, Path]:
    CLIPModel.from_pretrained(made / "other").save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return "safer_clip", folder


def tower(made: Path, folder: Path) -> tuple[str, Path]:
    CLIPTextModel.from_pretrained(made / "other").save_pretrained(folder)
    return "advunlearn", folder


def part(made: Path, folder: Path) -> tuple[str, Path]:
    save_diffusion(folder)
    CLIPTextModel.from_pretrained(made / "other").save_pretrained(folder / "text_encoder")
    return "advunlearn", folder


def projecting(made: Path, folder: Path) -> tuple[str, Path]:
    CLIPTextModelWithProjection.from_pretrained(made / "other").save_pretrained(folder)
    return "des", folder


def bare(made: Path, folder: Path) -> tuple[str, Path]:
    return "des", save(folder, text_weights(made / "other", ""), "checkpoint-1.safetensors")


def parallel(made: Path, folder: Path) -> tuple[str, Path]:
    return "des", save(folder, text_weights(made / "other", "module.text_model."))


@pytest.mark.parametrize("release", [whole, sharded, tower, part, projecting, bare, parallel])
def test_every_layout_becomes_a_plain_clip(release, made, tmp_path):
    layout, folder = release(made, tmp_path / "release")
    moved = import_checkpoint(layout, folder, made / "base", tmp_path / "out")
    found, base, other = (load_clip(path) for path in (tmp_path / "out", made / "base", made / "other"))
    images = torch.arange(2 * 3 * 64 * 64, dtype=torch.int64).reshape(2, 3, 64, 64).remainder(255).to(torch.uint8)
    sees = other if layout in ("safe_clip", "safer_clip") else base
    assert torch.equal(encode_images(found, images), encode_images(sees, images))
    states = [
        clip.model.text_model(input_ids=torch.tensor([[188, 5, 189]])).last_hidden_state for clip in (found, other)
    ]
    assert torch.equal(*states)
    if release in (whole, sharded, projecting):
        assert torch.equal(encode_texts(found, TEXTS), encode_texts(other, TEXTS))
    assert moved["text"] > 0.1 and ("vision" in moved) == (sees is other)
    assert found.tokenizer.get_vocab() == base.tokenizer.get_vocab() and found.mean == base.mean


def _edit(folder: Path, name: str, value: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {name: value}))


def test_what_does_not_fit_is_one_error(made, tmp_path):
    def error(layout: str, folder: Path, words: str) -> None:
        with pytest.raises(NearsafeError, match=words) as found:
            import_checkpoint(layout, folder, made / "base", tmp_path / "out")
        assert "\n" not in str(found.value) and not (tmp_path / "out").exists()

    weights = text_weights(made / "other")
    name = "text_model.final_layer_norm.weight"
    error("des", save(tmp_path / "shape", weights | {name: torch.zeros(16)}), rf"{name} is \(16,\), in .* \(32,\)")
    error("des", save(tmp_path / "gone", {k: v for k, v in weights.items() if k != name}), f"{name} is missing")
    error("des", save(tmp_path / "nan", weights | {name: torch.full((32,), torch.nan)}), f"{name} holds NaN")
    error("advunlearn", made / "other", "logit_scale is no tensor of .*: another layout")
    error("safe_clip", save(tmp_path / "tower", weights), "logit_scale is missing")
    error("des", save(tmp_path / "same", text_weights(made / "base")), "weights of .*base itself")
    half = {name: value.half() for name, value in text_weights(made / "base").items()}
    error("des", save(tmp_path / "same in half precision", half), "weights of .*base itself")
    save_clip(tmp_path / "wide", width=16)
    error("safer_clip", tmp_path / "wide", "in .*: made from another model")
    error("des", tmp_path / "absent", "no such model folder")
    save(tmp_path / "two", weights, "a.safetensors")
    error("des", save(tmp_path / "two", weights, "b.safetensors"), "a.safetensors and b.safetensors: leave the one")

    _, folder = tower(made, tmp_path / "settings")
    _edit(folder, "hidden_act", "gelu")
    error("advunlearn", folder, "text tower: hidden_act is 'gelu', in the base model 'quick_gelu'")
    _edit(folder, "auto_map", {"AutoModel": "own.Own"})
    error("advunlearn", folder, "wants code of its own")


def test_a_pickle_is_never_opened(made, tmp_path):
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "opened",)

    file = tmp_path / "release/checkpoint-1.pt"
    file.parent.mkdir()
    file.write_bytes(pickle.dumps(Trap()))
    for folder in (file, file.parent):
        with pytest.raises(NearsafeError, match=r"checkpoint-1.pt.* is a pickle and is never loaded: .*docs/models.md"):
            import_checkpoint("des", folder, made / "base", tmp_path / "out")
    assert not (tmp_path / "opened").exists()


def run(made: Path, out: Path, folder: Path, **entry: object) -> None:
    params = out.with_suffix(".yaml")
    values = {"method": "imported", "layout": "advunlearn", "folder": folder.as_posix(), **entry}
    params.write_text(json.dumps({"seed": 0, "seeds": [3, 4], "defences": {"theirs": values}}))
    train.main(params, "theirs", *(Path("unused"),) * 4, clip=made / "base", out=out)


def test_the_row_trains_nothing_and_knows_where_it_is_from(made, tmp_path, capsys):
    _, folder = tower(made, tmp_path / "release")
    run(made, tmp_path / "out", folder, hash=model_hash(folder))
    assert "imported from" in capsys.readouterr().out
    assert model_hash(tmp_path / "out/seed-3") == model_hash(tmp_path / "out/seed-4") != model_hash(made / "base")
    inputs = json.loads((tmp_path / "out/spec.json").read_text())["inputs"]
    assert inputs == {"clip": model_hash(made / "base"), "imported": model_hash(folder)}
    assert len(read_manifest(tmp_path / "out")["files"]) >= 4, "two folders and two empty logs"
    with pytest.raises(NearsafeError, match=f"its model hash is {model_hash(folder)}, the entry theirs says 0123"):
        run(made, tmp_path / "again", folder, hash="0123")
    with pytest.raises(NearsafeError, match="layout: expected one of safe_clip, safer_clip, advunlearn, des"):
        run(made, tmp_path / "again", folder, layout="esd")


def test_the_conversion_of_the_documentation(made, tmp_path, monkeypatch):
    """A checkpoint as DES's released code leaves it (des.md section 4), through the snippet of docs/models.md."""
    monkeypatch.chdir(tmp_path)
    state = {"model_state_dict": text_weights(made / "other"), "epoch": 1, "using_text_encoder": True, "is_t5": False}
    torch.save(state | {"args": argparse.Namespace(lr=1e-5)}, "checkpoint-1.pt")
    Path("des").mkdir()
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/models.md").read_text(), re.DOTALL)
    exec(snippet, {})
    assert import_checkpoint("des", Path("des"), made / "base", tmp_path / "out")["text"] > 0.1
