"""Which slot of a diffusers folder a text tower fits, and what is said where it fits none or several."""

import json
import shutil

import pytest
import torch

from pipeline.errors import NearsafeError
from pipeline.models.clip import load_clip
from pipeline.models.diffusion import conditioner, load_diffusion, own_conditioner
from pipeline.models.slots import place_tower, read_slots, slot_tokenizer, tower_in
from tests.models.tiny import save_clip
from tests.models.tiny_families import BIG_G, H14, L14, save_donor, save_family


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("slots")
    return {name: save_family(name, root / name) for name in ("sd2", "sdxl", "sd3_without_t5")}


@pytest.fixture
def copied(made, tmp_path):
    return lambda name: shutil.copytree(made[name], tmp_path / name)


def edit(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_slots_are_those_that_the_folder_holds(made):
    slots = read_slots(made["sdxl"])
    assert {name: (slot.cls, slot.hidden, slot.projection, slot.tokenizer) for name, slot in slots.items()} == {
        "text_encoder": ("CLIPTextModel", 32, None, "tokenizer"),
        "text_encoder_2": ("CLIPTextModelWithProjection", 48, 40, "tokenizer_2"),
    }
    assert list(read_slots(made["sd3_without_t5"])) == ["text_encoder", "text_encoder_2"]


def test_a_width_that_fits_no_slot_is_one_error_with_all_widths(made, tmp_path):
    folder = save_clip(tmp_path / "narrow", width=16)
    with pytest.raises(NearsafeError) as error:
        conditioner(load_clip(folder), load_diffusion(made["sdxl"]), folder)
    said = str(error.value)
    assert "\n" not in said
    for fact in (str(folder), "16 wide", str(made["sdxl"]), "text_encoder (32 wide", "text_encoder_2 (48 wide",
                 "projection 40"):  # fmt: skip
        assert fact in said, fact
    with pytest.raises(NearsafeError, match="narrow: its text tower .* fits no free slot"):
        place_tower(made["sdxl"], folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tower_with_fewer_layers_than_the_slot_is_refused(made, tmp_path):
    folder = save_clip(tmp_path / "short", **{**H14, "layers": 1})
    with pytest.raises(NearsafeError, match=r"48 wide, 2 heads, 1 layers.* fits no free slot"):
        conditioner(load_clip(folder), load_diffusion(made["sd2"]), folder)


def test_the_first_layers_of_a_longer_tower_are_used_and_not_copied(made, tmp_path):
    clip = load_clip(save_donor(tmp_path / "clip", "sd2", "text_encoder"))
    cut = tower_in(read_slots(made["sd2"])["text_encoder"], clip)
    assert (len(cut.encoder.layers), len(clip.model.text_model.encoder.layers)) == (2, 3)
    own = clip.model.text_model
    assert cut.embeddings.token_embedding.weight.data_ptr() == own.embeddings.token_embedding.weight.data_ptr()
    ids = torch.tensor([[188, 5, 189, 0]])
    states = own(ids, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(cut(ids).last_hidden_state, own.final_layer_norm(states))


def test_texts_are_padded_as_the_slots_tokenizer_pads(made, tmp_path):
    clip = load_clip(save_donor(tmp_path / "clip", "sd2", "text_encoder"))
    diffusion = load_diffusion(made["sd2"])
    tokens = conditioner(clip, diffusion, tmp_path / "clip").tokens(["a"])
    assert tokens[0, -1] == clip.tokenizer.convert_tokens_to_ids("!") != clip.tokenizer.pad_token_id


def test_a_tokenizer_of_other_words_is_refused(copied, tmp_path):
    clip, folder = load_clip(save_donor(tmp_path / "clip", "sd2", "text_encoder")), copied("sd2")
    file = folder / "tokenizer" / "tokenizer.json"
    words = json.loads(file.read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["a</w>"], vocabulary["b</w>"] = vocabulary["b</w>"], vocabulary["a</w>"]
    file.write_text(json.dumps(words))
    with pytest.raises(NearsafeError, match="clip: its tokenizer has other words than .*sd2/tokenizer"):
        slot_tokenizer(read_slots(folder)["text_encoder"], clip, tmp_path / "clip", folder)


def test_a_tower_that_fits_two_slots_goes_to_the_one_that_is_left(made, copied, tmp_path):
    folder = copied("sd3_without_t5")
    shutil.rmtree(folder / "text_encoder_2")
    shutil.copytree(folder / "text_encoder", folder / "text_encoder_2")
    clip = save_clip(tmp_path / "clip", **L14)
    with pytest.raises(NearsafeError, match=r"fits more than one slot of .*: text_encoder \(.*text_encoder_2 \("):
        place_tower(folder, clip, tmp_path / "out")
    assert place_tower(folder, clip, tmp_path / "out", {"text_encoder": None}) == "text_encoder_2"


def test_what_generate_towers_names_must_exist_and_fit(made, tmp_path):
    clip, other = save_clip(tmp_path / "clip", **L14), save_clip(tmp_path / "other", **{**BIG_G, "projection": 8})
    diffusion = load_diffusion(made["sdxl"])
    with pytest.raises(NearsafeError, match="no slot 'text_encoder_4' .*slots: text_encoder, text_encoder_2"):
        conditioner(load_clip(clip), diffusion, clip, {"text_encoder_4": other})
    with pytest.raises(NearsafeError, match=r"other: .*projection 8\) fits no free slot .*projection 40"):
        conditioner(load_clip(clip), diffusion, clip, {"text_encoder_2": other})
    with pytest.raises(NearsafeError, match="all are taken"):
        conditioner(load_clip(clip), diffusion, clip, {"text_encoder": clip, "text_encoder_2": None})


def test_a_text_encoder_that_the_index_names_and_the_folder_lacks_is_said(copied):
    folder = copied("sdxl")
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(NearsafeError, match="text_encoder_2: no such text encoder, though model_index.json names it"):
        own_conditioner(load_diffusion(folder))
    edit(folder / "model_index.json", text_encoder_2=[None, None])
    with pytest.raises(NearsafeError, match="sdxl: no text_encoder_2, which SDXL needs"):
        own_conditioner(load_diffusion(folder))


def test_a_text_encoder_of_another_class_is_refused(copied):
    folder = copied("sd2")
    edit(folder / "model_index.json", text_encoder=["transformers", "BertModel"])
    with pytest.raises(NearsafeError, match="text_encoder: class 'BertModel' is not supported"):
        read_slots(folder)


def test_weights_that_are_there_in_half_precision_alone_are_read(made, copied, tmp_path):
    folder = copied("sd2")
    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        (folder / part / f"{name}.safetensors").rename(folder / part / f"{name}.fp16.safetensors")
    whole, half = load_diffusion(made["sd2"]), load_diffusion(folder)
    assert torch.equal(own_conditioner(whole).encode(["a cat"]), own_conditioner(half).encode(["a cat"]))
    place_tower(folder, save_donor(tmp_path / "clip", "sd2", "text_encoder"), tmp_path / "out")
    assert load_diffusion(tmp_path / "out").dtype == torch.float32
    assert [file.name for file in (tmp_path / "out").rglob("*fp16*")] == []


def test_a_denoiser_of_another_family_is_refused(copied):
    folder = copied("sd2")
    edit(folder / "unet" / "config.json", addition_embed_type="image")
    with pytest.raises(NearsafeError, match="'UNet2DConditionModel' with addition_embed_type image is not supported"):
        load_diffusion(folder)
    edit(folder / "unet" / "config.json", _class_name="OwnModel", addition_embed_type=None)
    with pytest.raises(NearsafeError, match="'OwnModel' is not supported; known: SD3Transformer2DModel, UNet2D"):
        load_diffusion(folder)
