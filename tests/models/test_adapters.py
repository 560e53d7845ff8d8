"""Adapters: nothing changes at first, only they are trained, merging keeps the output; the exported folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextModel

from pipeline.errors import NearsafeError
from pipeline.models.adapters import Lora, attach, features, merge, trainable
from pipeline.models.clip import load_clip, pixels, tokenize
from pipeline.models.export import copy_clip, export_clip
from pipeline.models.hashing import model_hash
from tests.learning import SIDE, save_clip

LORA = Lora(r=3, alpha=6, dropout=0.1, targets=("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "patch_embedding"))
BOTH = ("text", "vision")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_clip(tmp_path_factory.mktemp("adapters") / "clip")


@pytest.fixture
def clip(folder):
    return load_clip(folder)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def outputs(model, clip) -> tuple[torch.Tensor, torch.Tensor]:
    """Text and image embeddings in evaluation mode."""
    ids = tokenize(clip, ["a cup in a field", "a bomb in the old harbour"]).ids
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, SIDE, SIDE), dtype=np.uint8))
    model.eval()
    with torch.no_grad():
        return features(model, ids=ids), features(model, pixel_values=pixels(images, clip))


def disturb(adapted) -> None:
    for index, (name, parameter) in enumerate(trainable(adapted).items()):
        if "lora_B" in name:
            parameter.data.normal_(std=0.3, generator=generator(index))


def test_fresh_adapters_change_nothing_and_disabled_ones_are_the_pretrained_model(clip):
    before = outputs(clip.model, clip)
    adapted = attach(clip.model, LORA, generator(), BOTH)
    for a, b in zip(outputs(adapted, clip), before, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    disturb(adapted)
    for a, b in zip(outputs(adapted, clip), before, strict=True):
        assert not torch.allclose(a, b, atol=1e-2)
    with adapted.disable_adapter():
        for a, b in zip(outputs(adapted, clip), before, strict=True):
            assert torch.equal(a, b)


def test_merged_equals_active(clip):
    adapted = attach(clip.model, LORA, generator(), BOTH)
    disturb(adapted)
    active = outputs(adapted, clip)
    for a, b in zip(outputs(merge(adapted), clip), active, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_only_adapters_of_the_named_towers_are_trained(clip):
    adapted = attach(clip.model, LORA, generator(), ("vision",))
    names = list(trainable(adapted))
    assert names and all("lora_" in name and "vision_model" in name for name in names)
    assert any("patch_embedding" in name for name in names)


def test_adapters_depend_on_the_generator_alone(folder):
    models = [load_clip(folder).model for _ in range(3)]
    torch.manual_seed(1)
    one = trainable(attach(models[0], LORA, generator(7), BOTH))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    two = trainable(attach(models[1], LORA, generator(7), BOTH))
    other = trainable(attach(models[2], LORA, generator(8), BOTH))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


def test_parameter_count(clip):
    """r * (in + out) for each linear module: text has 2 layers of q, k, v, out (24, 24) and fc1 (24, 48)."""
    names = LORA.targets[:-1]
    adapted = attach(clip.model, Lora(3, 6, 0.0, names), generator(), ("text",))
    assert sum(p.numel() for p in trainable(adapted).values()) == 2 * 3 * (4 * 48 + 72)


def test_parameter_counts_of_safe_clip_on_vit_l_14():
    """The published adapters: text 2,359,296 and vision 6,317,248 parameters (safe_clip.md section 2)."""
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    config = CLIPConfig(text_config=text, vision_config={**vision, "patch_size": 14}, projection_dim=768)
    with torch.device("meta"):
        model = CLIPModel(config)
    lora = Lora(16, 1, 0.1, ("k_proj", "v_proj", "out_proj", "fc1", "fc2", "patch_embedding"))
    counted = trainable(attach(model, lora, generator(), BOTH))
    counts = [sum(p.numel() for n, p in counted.items() if tower in n) for tower in ("text_model", "vision_model")]
    assert counts == [2_359_296, 6_317_248]


def test_targets_that_do_not_exist_or_cannot_be_adapted(clip):
    with pytest.raises(NearsafeError, match="no module called 'qproj' in the text and vision tower"):
        attach(clip.model, Lora(2, 2, 0, ("q_proj", "qproj")), generator(), BOTH)
    with pytest.raises(NearsafeError, match="no module called 'patch_embedding' in the text tower"):
        attach(clip.model, Lora(2, 2, 0, ("patch_embedding",)), generator(), ("text",))
    with pytest.raises(NearsafeError, match="neither a linear nor a convolution"):
        attach(clip.model, Lora(2, 2, 0, ("layer_norm1",)), generator(), BOTH)
    with pytest.raises(ValueError, match="lora needs r"):
        Lora(0, 1, 0.0, ("q_proj",))


def test_the_exported_folder_loads_with_plain_transformers(clip, folder, tmp_path):
    adapted = attach(clip.model, LORA, generator(), BOTH)
    disturb(adapted)
    merged = merge(adapted)
    expected = outputs(merged, clip)
    export_clip(merged, folder, tmp_path / "out")
    plain = CLIPModel.from_pretrained(tmp_path / "out")
    for a, b in zip(outputs(plain, clip), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    again = load_clip(tmp_path / "out")
    assert again.tokenizer("a cup")["input_ids"] == clip.tokenizer("a cup")["input_ids"] and again.mean == clip.mean
    ids = tokenize(clip, ["a cup in a field"]).ids
    with torch.no_grad():
        tower = CLIPTextModel.from_pretrained(tmp_path / "out")(input_ids=ids).last_hidden_state
        torch.testing.assert_close(tower, merged.text_model(input_ids=ids).last_hidden_state, atol=1e-5, rtol=1e-5)
    text = "".join(file.read_text() for file in (tmp_path / "out").glob("*.json"))
    assert str(tmp_path) not in text and "lora" not in text
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_copied_folder_has_the_hash_of_the_base(folder, tmp_path):
    copy_clip(folder, tmp_path / "out")
    assert model_hash(tmp_path / "out") == model_hash(folder)
    with pytest.raises(NearsafeError, match="not a model folder"):
        copy_clip(tmp_path / "absent", tmp_path / "other")
