"""Loading, tokens, pixels and embeddings of a CLIP folder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from pipeline.errors import NearsafeError
from pipeline.models.clip import Clip, encode_images, encode_texts, load_clip, pixels, to_uint8, tokenize
from pipeline.models.hashing import model_hash, source_hash
from tests.learning import LENGTH, SIDE, captions, save_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture(scope="module")
def clip(folder) -> Clip:
    return load_clip(folder)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_loaded_model_is_fp32_and_in_evaluation_mode(clip, folder):
    assert not clip.model.training and {p.dtype for p in clip.model.parameters()} == {torch.float32}
    assert clip.image_size == SIDE and clip.hash == model_hash(folder)


def test_half_precision_weights_are_widened(folder, tmp_path):
    half = shutil.copytree(folder, tmp_path / "half")
    weights = {name: value.half() for name, value in load_file(half / "model.safetensors").items()}
    save_file(weights, half / "model.safetensors", metadata={"format": "pt"})
    assert {p.dtype for p in load_clip(half).model.parameters()} == {torch.float32}


def test_trimmed_text_equals_text_padded_to_the_full_length(clip):
    """Also: the batch a text shares does not change its embedding."""
    texts = [text for text, _ in captions()]
    found = encode_texts(clip, texts, batch_size=5)
    padded = clip.tokenizer(texts, padding="max_length", max_length=LENGTH, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = clip.model.get_text_features(input_ids=padded).pooler_output
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    tokens = tokenize(clip, texts)
    short = torch.argsort(tokens.lengths)[:2]
    assert tokens.rows(short).shape[1] < tokens.ids.shape[1] <= LENGTH


def test_long_text_is_cut_with_its_end_kept(clip):
    tokens = tokenize(clip, ["a cup in " * 50, "a cup"])
    assert tokens.ids.shape == (2, LENGTH) and tokens.ids[0, -1] == clip.tokenizer.eos_token_id
    assert torch.isfinite(encode_texts(clip, ["a cup in " * 50, ""])).all()


@pytest.mark.parametrize("size", [(SIDE, SIDE), (40, 25), (23, 61), (8, 9)])
def test_pixels_are_those_of_the_transformers_processor(clip, folder, size):
    image = picture(*size)
    expected = CLIPImageProcessorPil.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels([image], clip), expected, atol=1e-5, rtol=0)


def test_uint8_tensors_and_pictures_give_the_same_embedding(clip):
    images = [picture(30, 30, seed) for seed in range(3)]
    stacked = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])
    a, b = encode_images(clip, images, batch_size=2), encode_images(clip, stacked)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a, encode_images(clip, to_uint8(images, SIDE)), atol=1e-5, rtol=1e-5)


def test_pixels_refuse_other_tensors(clip):
    with pytest.raises(ValueError, match="expected images"):
        pixels(torch.zeros(2, 3, SIDE, SIDE), clip)


def test_nothing_to_encode_gives_no_rows(clip):
    assert encode_texts(clip, []).shape == (0, 12) and encode_images(clip, []).shape == (0, 12)


def _broken(folder: Path, path: Path, how: str) -> Path:
    copy = shutil.copytree(folder, path / how)
    if how == "no tokenizer":
        (copy / "tokenizer.json").unlink()
    elif how == "no processor":
        (copy / "preprocessor_config.json").unlink()
    elif how == "no weights":
        (copy / "model.safetensors").unlink()
    elif how == "truncated weights":
        data = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
    elif how == "other weights":
        weights = load_file(copy / "model.safetensors")
        weights.pop("visual_projection.weight")
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    elif how == "broken config":
        (copy / "config.json").write_text("{")
    elif how == "other model":
        (copy / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return copy


@pytest.mark.parametrize(
    "how",
    [
        "no processor",
        "no weights",
        "truncated weights",
        "other weights",
        "broken config",
        "no tokenizer",
        "other model",
    ],
)
def test_a_broken_folder_is_named(folder, tmp_path, how):
    broken = _broken(folder, tmp_path, how)
    with pytest.raises(NearsafeError, match=str(broken)):
        load_clip(broken)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(NearsafeError, match="absent: no such model folder"):
        load_clip(tmp_path / "absent")


def test_the_hash_is_of_content(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert model_hash(copy) == model_hash(folder)
    (copy / "README.md").write_text("a card")
    assert model_hash(copy) == model_hash(folder)
    config = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps({**config, "image_mean": [0.5] * 3}))
    assert model_hash(copy) != model_hash(folder)


def test_the_source_hash_is_of_content(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    before = source_hash([tmp_path / "a.py"])
    (tmp_path / "a.py").write_text("x = 2")
    assert source_hash([tmp_path / "a.py"]) != before


def test_the_text_tower_loads_by_itself(folder, clip):
    tower = CLIPTextModel.from_pretrained(folder)
    ids = tokenize(clip, ["a cup in a field"]).ids
    with torch.no_grad():
        expected = clip.model.text_model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(tower(input_ids=ids).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_layers_that_the_configuration_leaves_out_are_named(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    last = config["vision_config"]["num_hidden_layers"] - 1
    config["vision_config"]["num_hidden_layers"] = last
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match=rf"config.json has no place for vision_model\.encoder\.layers\.{last}\."):
        load_clip(copy)


def test_loading_leaves_the_global_random_state_alone(folder):
    before = torch.get_rng_state()
    load_clip(folder)
    assert torch.equal(torch.get_rng_state(), before)
