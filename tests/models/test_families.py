"""Every diffusion family draws what the plain diffusers pipeline draws, and a defended tower changes both equally."""

from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers.utils import logging
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from pipeline.errors import NearsafeError
from pipeline.models.callbacks import NoCallbacks
from pipeline.models.clip import load_clip
from pipeline.models.diffusion import conditioner, load_diffusion, own_conditioner, settled_precision, text_tower
from pipeline.models.sampler import generate, noise
from pipeline.models.slots import place_tower
from tests.models.tiny_families import H14, PIPELINES, SLOTS, save_donor, save_family

PROMPTS, SEEDS, STEPS = ["a cat", "a red dog", ""], [3, 2**62, 7], 3
TOLERANCE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module", autouse=True)
def silence():
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
    logging.set_verbosity(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {name: save_family(name, root / name) for name in PIPELINES}


@pytest.fixture(scope="module")
def loaded(folders):
    """A family's models, loaded once: nothing below changes them."""
    return cache(lambda name: load_diffusion(folders[name]))


def plain(name: str, folder: Path, guidance: float, **towers):
    """Images (3, 3, H, W) of the plain pipeline, from the noise that our sampler draws."""
    options = {"safety_checker": None, "feature_extractor": None} if name in ("sd1", "sd2") else {}
    if name == "sd3_without_t5":  # plain diffusers wants it said
        options = {"text_encoder_3": None, "tokenizer_3": None}
    pipe = PIPELINES[name].from_pretrained(folder, local_files_only=True, **options, **towers)
    pipe.set_progress_bar_config(disable=True)
    denoiser = pipe.transformer if name.startswith("sd3") else pipe.unet
    size = denoiser.config.sample_size
    latents = noise(SEEDS, (denoiser.config.in_channels, size, size))
    return pipe(PROMPTS, num_inference_steps=STEPS, guidance_scale=guidance, latents=latents, output_type="pt").images


@pytest.mark.parametrize("guidance", [5.0, 1.0])
@pytest.mark.parametrize("name", PIPELINES)
def test_images_equal_those_of_the_plain_pipeline(folders, loaded, name, guidance):
    diffusion = loaded(name)
    ours = generate(diffusion, own_conditioner(diffusion), PROMPTS, SEEDS, guidance, STEPS)
    assert ours.shape == (3, 3, *diffusion.image_size) and ours.std() > 0.01
    torch.testing.assert_close(ours, plain(name, folders[name], guidance), **TOLERANCE)


@pytest.mark.parametrize("name", PIPELINES)
def test_an_image_is_the_same_alone_and_in_a_batch(loaded, name):
    diffusion = loaded(name)
    towers = own_conditioner(diffusion)
    together = generate(diffusion, towers, PROMPTS, SEEDS, [5.0, 2.0, 1.0], STEPS)
    for row, guidance in enumerate([5.0, 2.0, 1.0]):
        alone = generate(diffusion, towers, PROMPTS[row : row + 1], SEEDS[row : row + 1], guidance, STEPS)
        torch.testing.assert_close(together[row : row + 1], alone, **TOLERANCE)


@pytest.mark.parametrize(("name", "slot"), [(name, slot) for name in PIPELINES for slot in SLOTS[name]])
def test_a_defended_tower_in_its_slot_does_what_it_does_in_plain_diffusers(folders, loaded, tmp_path, name, slot):
    donor = save_donor(tmp_path / "clip", name, slot)
    diffusion = loaded(name)
    ours = generate(diffusion, conditioner(load_clip(donor), diffusion, donor), PROMPTS, SEEDS, 5.0, STEPS)
    projects = name.startswith("sd3") or slot == "text_encoder_2"
    cls = CLIPTextModelWithProjection if projects else CLIPTextModel
    cut = {"num_hidden_layers": H14["layers"] - 1} if name == "sd2" else {}
    theirs = plain(name, folders[name], 5.0, **{slot: cls.from_pretrained(donor, **cut)})
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    undefended = generate(diffusion, own_conditioner(diffusion), PROMPTS, SEEDS, 5.0, STEPS)
    assert (ours - undefended).abs().max() > 100 * TOLERANCE["atol"]

    assert place_tower(folders[name], donor, tmp_path / "out") == slot
    torch.testing.assert_close(plain(name, tmp_path / "out", 5.0), ours, **TOLERANCE)
    for part in ("unet", "transformer", "vae"):
        if (folders[name] / part).is_dir():
            weights = f"{part}/diffusion_pytorch_model.safetensors"
            assert (tmp_path / "out" / weights).read_bytes() == (folders[name] / weights).read_bytes()
    assert not [path for path in (tmp_path / "out").iterdir() if path.name in ("safety_checker", "feature_extractor")]


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_another_tower_goes_into_the_slot_that_is_named(folders, loaded, tmp_path, name):
    first, second = (save_donor(tmp_path / slot, name, slot) for slot in SLOTS[name])
    diffusion = loaded(name)
    both = conditioner(load_clip(first), diffusion, first, {"text_encoder_2": second})
    alone, kept = (conditioner(load_clip(first), diffusion, first, given) for given in ({}, {"text_encoder_2": None}))
    assert len({both.hash, alone.hash, kept.hash, load_clip(second).hash}) == 4 and alone.hash == load_clip(first).hash
    images = [generate(diffusion, towers, PROMPTS, SEEDS, 5.0, STEPS) for towers in (both, alone, kept)]
    assert torch.equal(images[1], images[2]) and (images[0] - images[1]).abs().max() > 100 * TOLERANCE["atol"]
    place_tower(folders[name], first, tmp_path / "out", {"text_encoder_2": second})
    torch.testing.assert_close(plain(name, tmp_path / "out", 5.0), images[0], **TOLERANCE)


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_callbacks_see_and_change_all_that_conditions(loaded, name):
    diffusion = loaded(name)
    towers = own_conditioner(diffusion)
    cat = towers.condition(["a cat"])

    class Embed(NoCallbacks):
        def on_text_hidden(self, context):
            assert context.pooled.shape == cat.pooled.shape and context.uncond_pooled.shape == cat.pooled.shape
            context.pooled = cat.pooled
            return cat.states

        def on_unet_in(self, context, given):
            pooled = given.extra.get("pooled_projections", given.extra.get("added_cond_kwargs", {}).get("text_embeds"))
            assert len(pooled) == len(given.latent) == len(given.embedding) == (2 if context.half == "both" else 1)
            return given

    class Halves(Embed):
        halves = True

    wanted = generate(diffusion, towers, ["a cat"], [3], 5.0, STEPS)
    for callback in (Embed(), Halves()):
        torch.testing.assert_close(
            generate(diffusion, towers, ["a hut"], [3], 5.0, STEPS, [callback]), wanted, **TOLERANCE
        )


@pytest.mark.parametrize("name", PIPELINES)
def test_half_the_precision_gives_nearly_the_same_image(folders, name):
    whole, half = (load_diffusion(folders[name], dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    images = [generate(model, own_conditioner(model), PROMPTS, SEEDS, 2.0, STEPS) for model in (whole, half)]
    assert half.dtype == torch.bfloat16 and images[1].dtype == torch.float32
    assert (images[0] - images[1]).abs().mean() < 0.02


def test_the_precision_says_why():
    assert settled_precision("auto", torch.device("cpu")) == ("fp32", "fp32: the default on a CPU")
    assert settled_precision("fp16", torch.device("cuda")) == ("fp16", "fp16: as configured")


def test_a_vae_that_overflows_stays_float32(folders):
    assert load_diffusion(folders["sdxl"], dtype=torch.float16).vae.dtype == torch.float32
    assert load_diffusion(folders["sd1"], dtype=torch.float16).vae.dtype == torch.float16


def test_attacks_on_one_tower_say_that_they_need_one(folders, tmp_path):
    donor, diffusion = save_donor(tmp_path / "clip", "sdxl", "text_encoder"), load_diffusion(folders["sdxl"])
    with pytest.raises(NearsafeError, match=r"sdxl: SDXL is conditioned by text_encoder, text_encoder_2; .* one text"):
        text_tower(load_clip(donor), diffusion, donor)
