"""Loading a diffusion folder: what is broken is named."""

import json

import pytest
from diffusers import AutoencoderTiny

from pipeline.errors import NearsafeError
from pipeline.models.clip import load_clip
from pipeline.models.diffusion import load_diffusion, text_tower
from tests.models.tiny import save_clip, save_diffusion


@pytest.fixture
def folder(tmp_path):
    return save_diffusion(tmp_path / "sd")


def test_the_hash_follows_the_weights(folder, tmp_path):
    other = load_diffusion(save_diffusion(tmp_path / "other", seed=1))
    assert load_diffusion(folder).hash == load_diffusion(folder).hash != other.hash
    assert load_diffusion(folder).sampler == "DPMSolverMultistepScheduler"


def test_missing_folder_and_missing_part_are_named(folder, tmp_path):
    with pytest.raises(NearsafeError, match="nowhere"):
        load_diffusion(tmp_path / "nowhere")
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(NearsafeError, match=r"vae/config\.json"):
        load_diffusion(folder)


def test_truncated_weights_are_one_clear_error(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(NearsafeError, match="unet.diffusion_pytorch_model.safetensors: not a whole safetensors file"):
        load_diffusion(folder)


def test_a_vae_of_another_width_is_refused(folder):
    AutoencoderTiny(
        latent_channels=8, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(0, 1), num_decoder_blocks=(1, 1),
    ).save_pretrained(folder / "vae")  # fmt: skip
    with pytest.raises(NearsafeError, match="the VAE has 8 latent channels, the U-Net 4"):
        load_diffusion(folder)


def test_an_unknown_scheduler_is_refused(folder):
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "_class_name": "OwnScheduler"}))
    with pytest.raises(NearsafeError, match="'OwnScheduler' is not supported"):
        load_diffusion(folder)


def test_a_text_tower_of_another_width_is_refused(folder, tmp_path):
    clip = load_clip(save_clip(tmp_path / "clip", width=16))
    with pytest.raises(NearsafeError, match=r"16 wide, .* fits no free slot of .*sd: text_encoder \(32 wide\)"):
        text_tower(clip, load_diffusion(folder), tmp_path / "clip")
