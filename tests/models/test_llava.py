"""A LLaVA of the true layout: what it is asked, whose eyes it looks through, and that replies stand for themselves."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline.errors import NearsafeError
from pipeline.models.clip import load_clip
from pipeline.models.llava import GumbelNoise, describe, load_llava, prompt, with_vision_tower
from tests.models.tiny import save_clip
from tests.models.tiny_llava import CHAT, save_llava
from tests.worldlet import picture

QUERY = "Describe this image."
IMAGES = [Image.fromarray(picture(i)) for i in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def llava(folder):
    return load_llava(folder)


def replies(llava, images=IMAGES, seeds=(0, 1, 2, 3), **options):
    return describe(llava, images, QUERY, seeds, **{"temperature": 1.0, "max_new_tokens": 12, **options})


def test_a_reply_depends_on_its_own_image_and_seed_alone(llava):
    together = replies(llava)
    assert len(set(together)) == 4
    assert [replies(llava, [image], [seed])[0] for seed, image in enumerate(IMAGES)] == together
    assert replies(llava, IMAGES[::-1], (3, 2, 1, 0)) == together[::-1]
    assert replies(llava, seeds=(4, 5, 6, 7)) != together
    assert replies(llava, [], []) == []


def test_temperature_zero_is_the_models_own_greedy_reply(llava):
    inputs = llava.processor(images=IMAGES, text=[prompt(llava, QUERY)] * 4, return_tensors="pt")
    ids = llava.model.generate(**inputs, max_new_tokens=12, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    expected = [text.strip() for text in llava.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)]
    assert replies(llava, temperature=0) == expected
    assert replies(llava, temperature=0, seeds=(9, 9, 9, 9)) == expected


def test_noise_makes_the_greedy_choice_a_sample_at_the_temperature():
    logits = torch.tensor([1.0, 0.5, 0.0, -1.0, -3.0]).repeat(20_000, 1)
    noise = GumbelNoise([0], 0.7)
    noise.generators = noise.generators * len(logits)  # one stream for all rows: faster than 20,000 generators
    drawn = torch.bincount(noise(torch.empty(0), logits).argmax(1), minlength=5) / len(logits)
    expected = (logits[0] / 0.7).softmax(0)
    assert torch.allclose(drawn, expected, atol=4 * (0.25 / len(logits)) ** 0.5)
    with pytest.raises(ValueError, match="negative"):
        GumbelNoise([0], -0.1)


def test_the_query_goes_by_the_chat_template_or_in_llava_1_5_form(llava, tmp_path):
    assert prompt(llava, QUERY) == "USER: <image>\nDescribe this image. ASSISTANT:"
    templated = load_llava(save_llava(tmp_path / "chat", chat_template=CHAT))
    assert prompt(templated, QUERY) == "[user] <image> Describe this image. [reply]"
    assert len(replies(templated)) == 4


def test_another_tower_is_looked_through_and_the_original_is_not_changed(llava, tmp_path):
    before = replies(llava, temperature=0)
    clip = load_clip(save_clip(tmp_path / "clip", seed=5))
    seen = with_vision_tower(llava, clip)
    pixels = llava.processor.image_processor(IMAGES, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = clip.model.vision_model(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        projected = llava.model.model.multi_modal_projector(expected)
        features = torch.stack(list(seen.model.get_image_features(pixels).pooler_output))
    assert torch.allclose(features, projected, atol=1e-5)
    assert seen.hash != llava.hash
    assert replies(seen, temperature=0) != before
    assert replies(llava, temperature=0) == before


def test_its_own_tower_changes_nothing(llava, tmp_path):
    clip = load_clip(save_clip(tmp_path / "clip"))
    clip.model.vision_model.load_state_dict(llava.model.model.vision_tower.state_dict())
    assert replies(with_vision_tower(llava, clip)) == replies(llava)


def test_a_tower_of_another_shape_is_refused_by_name(llava, tmp_path):
    clip = load_clip(save_clip(tmp_path / "clip", width=16))
    with pytest.raises(NearsafeError, match=r"does not fit the LLaVA: embeddings\.class_embedding is \(16,\)"):
        with_vision_tower(llava, clip)


def test_broken_folders_are_named(folder, tmp_path):
    with pytest.raises(NearsafeError, match="nowhere"):
        load_llava(tmp_path / "nowhere")
    with pytest.raises(NearsafeError, match="model_type 'clip', expected 'llava'"):
        load_llava(save_clip(tmp_path / "clip"))
    broken = save_llava(tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    lost = next(name for name in tensors if "projector" in name)
    save_file({k: v for k, v in tensors.items() if k != lost}, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(NearsafeError, match=r"not those of a whole Llava.*: .*projector"):
        load_llava(broken)
    with pytest.raises(ValueError, match="one seed per image"):
        describe(load_llava(folder), IMAGES, QUERY, [0])


def test_generation_settings_saved_in_the_folder_do_not_change_replies(llava, tmp_path):
    other = save_llava(tmp_path / "tuned")
    file = other / "generation_config.json"
    saved = json.loads(file.read_text())
    file.write_text(json.dumps({**saved, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "suppress_tokens": [7]}))
    tuned = load_llava(other)
    assert replies(tuned) == replies(llava)
    assert replies(tuned, temperature=0) == replies(llava, temperature=0)


def test_the_end_tokens_saved_in_the_folder_are_kept(llava, tmp_path):
    other = save_llava(tmp_path / "ends")
    file = other / "generation_config.json"
    ends = [1, *range(4, 11)]  # the end token, and half of the words
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": ends}))
    words = set(llava.processor.tokenizer.convert_ids_to_tokens(ends))
    cut = replies(load_llava(other))
    assert cut != replies(llava)
    assert all(not words & set(text.split()[:-1]) for text in cut)


def test_code_in_the_folder_is_not_run_even_where_a_person_would_agree(tmp_path, monkeypatch):
    folder = save_llava(tmp_path / "custom")
    run = tmp_path / "run"
    (folder / "custom.py").write_text(f"open({str(run)!r}, 'w').close()\nclass Custom: pass\n")
    config = {"processor_class": "Custom", "auto_map": {"AutoProcessor": "custom.Custom"}}
    (folder / "processor_config.json").write_text(json.dumps(config))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "custom"}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(NearsafeError, match="custom"):
        load_llava(folder)
    assert not run.exists()


def test_large_images_are_resized(llava):
    large = [Image.fromarray(np.asarray(image)).resize((200, 120)) for image in IMAGES]
    assert len(replies(llava, large)) == 4
