"""LLaVA 1.5 as it lies on the hub: loads, looks through a defended CLIP ViT-L/14-336, describes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import NearsafeError
from pipeline.models.clip import load_clip
from pipeline.models.llava import describe, load_llava, prompt, with_vision_tower
from tests.models.tiny import save_clip
from tests.models.tiny_llava15 import PATCH, PIXELS, SHARDS, WIDTH, save_llava15
from tests.worldlet import picture

QUERY = "Describe this image."
IMAGES = [Image.fromarray(np.asarray(Image.fromarray(picture(i)).resize((400, 300)))) for i in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_llava15(tmp_path_factory.mktemp("hub") / "llava-1.5-7b-hf")


@pytest.fixture(scope="module")
def llava(folder):
    return load_llava(folder)


def donor(folder, **shape):
    return load_clip(save_clip(folder, **{"width": WIDTH, "layers": 3, "image": PIXELS, "patch": PATCH, **shape}))


def replies(llava, seeds=(0, 1)):
    return describe(llava, IMAGES, QUERY, seeds, temperature=1.0, max_new_tokens=8)


def test_all_shards_are_read_and_the_dialogue_is_llava_1_5s(folder, llava):
    assert len(list(folder.glob("model-*-of-*.safetensors"))) == SHARDS
    assert prompt(llava, QUERY) == "USER: <image>\nDescribe this image. ASSISTANT:"
    assert llava.model.dtype == torch.float32
    inputs = llava.processor(images=IMAGES, text=[prompt(llava, QUERY)] * 2, return_tensors="pt")
    patches = (PIXELS // PATCH) ** 2
    assert ((inputs["input_ids"] == llava.model.config.image_token_id).sum(1) == patches).all()
    assert inputs["pixel_values"].shape == (2, 3, PIXELS, PIXELS)
    assert len(set(replies(llava))) == 2


def test_a_defended_tower_of_336_pixels_is_looked_through(llava, tmp_path):
    clip = donor(tmp_path / "clip", seed=5)
    seen = with_vision_tower(llava, clip)
    pixels = llava.processor.image_processor(IMAGES, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        states = clip.model.vision_model(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        features = torch.stack(list(seen.model.get_image_features(pixels).pooler_output))
        torch.testing.assert_close(features, llava.model.model.multi_modal_projector(states), atol=1e-5, rtol=0)
    assert seen.hash != llava.hash and replies(seen) != replies(llava)


@pytest.mark.parametrize("shape", [{"width": 16}, {"image": 224}, {"layers": 2}])
def test_a_tower_of_another_shape_is_one_error(llava, tmp_path, shape):
    with pytest.raises(NearsafeError, match=r"does not fit the LLaVA: \S+ is .*, expected ") as error:
        with_vision_tower(llava, donor(tmp_path / "clip", **shape))
    assert "\n" not in str(error.value)


def test_half_the_precision_describes_too(folder, tmp_path):
    half = load_llava(folder, dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    seen = with_vision_tower(half, donor(tmp_path / "clip"))
    assert seen.model.model.vision_tower.dtype == torch.bfloat16 and len(replies(seen)) == 2


def test_a_missing_shard_is_named(folder, tmp_path):
    broken = save_llava15(tmp_path / "broken")
    (broken / f"model-00002-of-{SHARDS:05d}.safetensors").unlink()
    with pytest.raises(NearsafeError, match=r"broken: not a loadable LLaVA folder: .*model-00002-of-00003"):
        load_llava(broken)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == SHARDS
