"""CLIP folders of the published shapes and files load; broken or odd ones are refused by name; activations."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import NearsafeError
from pipeline.models import activation
from pipeline.models.activation import disagreement
from pipeline.models.clip import Clip, encode_images, encode_texts, load_clip, tokenize
from tests.models.shapes import SHAPES, WORDS, save_published
from tests.models.tiny import save_clip


@pytest.mark.parametrize("shape", SHAPES)
def test_every_published_shape_loads_and_encodes(shape, tmp_path):
    clip = load_clip(save_published(tmp_path / "clip", shape))
    size, projection, act = SHAPES[shape][5:]
    tokens = tokenize(clip, ["a cup", "ab " * 200])
    assert tokens.ids.shape == (2, 77) and tokens.ids[:, 0].tolist() == [WORDS - 2] * 2
    assert tokens.ids[1, -1] == WORDS - 1, "a long text keeps its end"
    assert encode_texts(clip, ["a cup"]).shape == (1, projection)
    image = torch.zeros(1, 3, 300, 400, dtype=torch.uint8)
    assert clip.image_size == size and encode_images(clip, image).shape == (1, projection)
    layers = [tower.encoder.layers[0].mlp.activation_fn for tower in (clip.model.text_model, clip.model.vision_model)]
    value = torch.linspace(-3, 3, 50)
    expected = value * torch.sigmoid(1.702 * value) if act == "quick_gelu" else torch.nn.functional.gelu(value)
    for layer in layers:
        torch.testing.assert_close(layer(value), expected)


def test_a_folder_of_an_old_transformers_gives_the_same_embeddings(tmp_path):
    """OpenAI's own on the hub: token ids of another model in config.json, position ids among the weights."""
    new = load_clip(save_published(tmp_path / "new", "ViT-B/32"))
    folder = save_published(tmp_path / "old", "ViT-B/32", old=True, _name_or_path="clip-vit-base-patch32/")
    weights = load_file(folder / "model.safetensors")
    for tower, length in (("text", 77), ("vision", 50)):
        weights[f"{tower}_model.embeddings.position_ids"] = torch.arange(length)[None]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    texts = ["a cup", "a red ball in a wide and empty square"]
    assert torch.equal(encode_texts(load_clip(folder), texts), encode_texts(new, texts))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


def edit(folder: Path, name: str = "config.json", **values: object) -> None:
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))


def section(folder: Path, name: str) -> dict:
    return json.loads((folder / "config.json").read_text())[name]


def weigh(folder: Path, name: str, value: torch.Tensor) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


BREAK = {
    "only pickles": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "pytorch_model.bin: is a pickle and is never loaded",
    ),
    "code of its own": (
        lambda folder: edit(folder, auto_map={"AutoModel": "modeling.Own"}),
        "config.json: auto_map: it wants code of its own",
    ),
    "another model": (lambda folder: edit(folder, model_type="siglip"), "model_type 'siglip', expected 'clip'"),
    "another shape": (
        lambda folder: weigh(folder, "text_projection.weight", torch.zeros(24, 8)),
        r"text_projection.weight is \(24, 8\), config.json says \(24, 32\)",
    ),
    "not a number": (
        lambda folder: weigh(folder, "visual_projection.weight", torch.full((24, 32), float("nan"))),
        "visual_projection.weight holds NaN or infinite values",
    ),
    "infinite": (lambda folder: weigh(folder, "logit_scale", torch.tensor(torch.inf)), "logit_scale holds NaN or inf"),
    "an adapter beside": (
        lambda folder: weigh(folder, "text_model.encoder.layers.0.mlp.fc1.lora_A.weight", torch.zeros(2, 32)),
        "lora_A.weight: an adapter that is not merged",
    ),
    "no merges": (
        lambda folder: [(folder / name).unlink(missing_ok=True) for name in ("tokenizer.json", "merges.txt")],
        "vocab.json without merges.txt",
    ),
    "no padding": (
        lambda folder: edit(folder, "tokenizer_config.json", pad_token=None),
        "the tokenizer has no pad_token",
    ),
    "another end": (
        lambda folder: edit(folder, text_config=section(folder, "text_config") | {"eos_token_id": 5}),
        "the tokenizer's end token is 189, the model pools token 5",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", BREAK)
def test_what_is_refused_is_named(folder, tmp_path, how):
    breaks, words = BREAK[how]
    copy = shutil.copytree(folder, tmp_path / "copy")
    if not (copy / "vocab.json").is_file():
        characters = json.loads((copy / "tokenizer.json").read_text())["model"]["vocab"]
        (copy / "vocab.json").write_text(json.dumps(characters))
    breaks(copy)
    with pytest.raises(NearsafeError, match=words) as error:
        load_clip(copy)
    assert str(copy) in str(error.value) and "\n" not in str(error.value)


def config_of(text: int = 768, vision: int = 1024, patch: int = 14, act: str = "quick_gelu", **more: object) -> dict:
    towers = {"text_config": {"hidden_size": text, "hidden_act": act}}
    return towers | {"vision_config": {"hidden_size": vision, "patch_size": patch, "hidden_act": act}} | more


@pytest.mark.parametrize(
    ("folder_name", "config", "words"),
    [
        ("hub/openai/clip-vit-large-patch14", config_of(), None),
        ("hub/openai/clip-vit-large-patch14", config_of(act="gelu"), "OpenAI's weights"),
        ("hub/laion/CLIP-ViT-L-14-laion2B-s32B-b82K", config_of(act="gelu"), None),
        ("hub/laion/CLIP-ViT-B-32-laion2B-s34B-b79K", config_of(512, 768, 32), "trained with gelu"),
        ("hub/aimagelab/safeclip_vit-l_14_336", config_of(act="gelu"), "trained with quick_gelu"),
        ("hub/aimagelab/safeclip_vit-h_14", config_of(1024, 1280, act="gelu"), None),
        ("hub/apple/DFN5B-CLIP-ViT-H-14", config_of(1024, 1280), None),
        ("mine/l14", config_of(act="gelu"), None),
        ("mine/l14", config_of(act="gelu", _name_or_path="openai/clip-vit-large-patch14"), "OpenAI's weights"),
        ("mine/h14", config_of(1024, 1280), "H/14, which OpenAI never released"),
        ("mine/h14", config_of(1024, 1280, act="gelu"), None),
    ],
)
def test_the_activation_against_the_origin(folder_name, config, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = disagreement(Path(folder_name), config)
    assert found is None if words is None else words in found


def test_a_disagreement_is_said_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(activation, "_warned", set())
    copy = shutil.copytree(folder, tmp_path / "copy")
    text, vision = section(copy, "text_config"), section(copy, "vision_config")
    edit(
        copy, _name_or_path="openai/clip-vit-base-patch32",
        text_config=text | {"hidden_act": "gelu"}, vision_config=vision | {"hidden_act": "gelu"},
    )  # fmt: skip
    with pytest.warns(UserWarning, match="hidden_act is gelu, but OpenAI's weights .* trained with quick_gelu"):
        load_clip(copy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(load_clip(copy), Clip)
    edit(copy, vision_config=vision)
    with pytest.warns(UserWarning, match="different activations, gelu and quick_gelu"):
        load_clip(copy)
