"""The sampler loop: equal to diffusers, independent of batches, explicit with its callbacks."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from pipeline.models.callbacks import Context, NoCallbacks, UnetInput
from pipeline.models.families.sdxl import FAMILY as SDXL
from pipeline.models.sampler import generate, noise, sample
from pipeline.models.schedulers import with_scheduler

PROMPTS, SEEDS = ["a cat", "a red dog", "hut"], [3, 2**62, 7]


def with_ddim(diffusion):
    return replace(diffusion, scheduler=DDIMScheduler.from_config(diffusion.scheduler.config, clip_sample=False))


def test_an_exchanged_scheduler_never_clips_latents(diffusion):
    """Stable Diffusion's family would correct that; SDXL's leaves schedulers as they are."""
    found = with_scheduler(replace(diffusion, family=SDXL), "ddim").scheduler
    assert isinstance(found, DDIMScheduler) and found.config.clip_sample is False
    assert found.config.beta_end == diffusion.scheduler.config.beta_end


@pytest.mark.parametrize("scheduler", ["dpm", "ddim"])
@pytest.mark.parametrize("guidance", [5.0, 1.0])
def test_images_equal_those_of_the_diffusers_pipeline(diffusion, tower, scheduler, guidance):
    diffusion = with_ddim(diffusion) if scheduler == "ddim" else diffusion
    pipe = StableDiffusionPipeline(
        vae=diffusion.vae, text_encoder=tower.model, tokenizer=tower.tokenizer, unet=diffusion.denoiser,
        scheduler=type(diffusion.scheduler).from_config(diffusion.scheduler.config), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    latents = noise(SEEDS, diffusion.latent_shape)
    theirs = pipe(
        PROMPTS, num_inference_steps=4, guidance_scale=guidance, latents=latents.clone(), output_type="pt"
    ).images  # fmt: skip
    ours = generate(diffusion, tower, PROMPTS, SEEDS, guidance, steps=4)
    assert ours.shape == (3, 3, 32, 32)
    assert ours.std() > 0.01
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_seed_of_a_prompt_draws_what_diffusers_would_draw():
    alone = torch.randn((1, 4, 8, 8), generator=torch.Generator("cpu").manual_seed(7))
    assert torch.equal(noise(SEEDS, (4, 8, 8))[2:], alone)


def test_an_image_is_the_same_alone_and_in_a_batch(diffusion, tower):
    together = generate(diffusion, tower, PROMPTS, SEEDS, [5.0, 2.0, 1.0], steps=4)
    for row in range(3):
        alone = generate(diffusion, tower, PROMPTS[row : row + 1], SEEDS[row : row + 1], [5.0, 2.0, 1.0][row], steps=4)
        torch.testing.assert_close(together[row : row + 1], alone, atol=2e-5, rtol=0)


def test_two_halves_equal_one_call(diffusion, tower):
    class Halves(NoCallbacks):
        halves = True

    one = generate(diffusion, tower, PROMPTS, SEEDS, 5.0, steps=3)
    two = generate(diffusion, tower, PROMPTS, SEEDS, 5.0, steps=3, callbacks=[Halves()])
    torch.testing.assert_close(one, two, atol=2e-5, rtol=0)


class Recorder(NoCallbacks):
    def __init__(self, halves: bool) -> None:
        self.halves, self.seen, self.hooked, self.ends = halves, [], [], []

    def on_unet_in(self, context: Context, given: UnetInput) -> UnetInput:
        self.seen.append((context.i, int(context.t), context.half, len(given.latent), tuple(context.prompts)))
        return given

    def unet_hooks(self, context: Context) -> dict:
        return {"mid_block.attentions.*.transformer_blocks.0.ff.net.2": self.hook}

    def hook(self, context: Context, name, module, inputs, output) -> None:
        self.hooked.append((context.i, context.half, name, len(output)))

    def on_step_end(self, context: Context) -> torch.Tensor:
        self.ends.append((context.i, context.latent.shape))
        return context.latent


@pytest.mark.parametrize("halves", [False, True])
def test_callbacks_are_told_step_time_half_and_prompts(diffusion, tower, halves):
    recorder = Recorder(halves)
    generate(diffusion, tower, PROMPTS[:2], SEEDS[:2], 5.0, steps=2, callbacks=[recorder])
    order = ["uncond", "cond"] * 2 if halves else ["both"] * 2
    rows = 2 if halves else 4
    assert [entry[2] for entry in recorder.seen] == order
    assert {entry[3] for entry in recorder.seen} == {rows}
    assert {entry[4] for entry in recorder.seen} == {("a cat", "a red dog")}
    assert [entry[0] for entry in recorder.seen] == ([0, 0, 1, 1] if halves else [0, 1])
    assert recorder.seen[0][1] > recorder.seen[-1][1]
    assert [entry[1] for entry in recorder.hooked] == order
    assert [end[0] for end in recorder.ends] == [0, 1]
    assert not any(module._forward_hooks for module in diffusion.denoiser.modules())  # none is left behind


def test_callbacks_change_prompt_embedding_activation_and_latent(diffusion, tower):
    plain = generate(diffusion, tower, ["a cat"], [3], 5.0, steps=2)

    class Rewrite(NoCallbacks):
        def on_prompt(self, context):
            return ["a cat" for _ in context.prompts]

    class Embed(NoCallbacks):
        def on_text_hidden(self, context):
            return tower.encode(["a cat"])

    class Silence(NoCallbacks):
        def unet_hooks(self, context):
            return {"*.attn2": lambda context, name, module, inputs, output: torch.zeros_like(output)}

    class Erase(NoCallbacks):
        def on_step_end(self, context):
            return context.latent * 0

    for callback in (Rewrite(), Embed()):
        changed = generate(diffusion, tower, ["hut"], [3], 5.0, steps=2, callbacks=[callback])
        torch.testing.assert_close(changed, plain, atol=2e-5, rtol=0)
    silent = [generate(diffusion, tower, [p], [3], 5.0, steps=2, callbacks=[Silence()]) for p in ("a cat", "hut")]
    torch.testing.assert_close(*silent, atol=2e-5, rtol=0)
    erased = generate(diffusion, tower, ["a cat"], [3], 5.0, steps=2, callbacks=[Erase()])
    assert not torch.allclose(erased, plain)


class Rewrite(NoCallbacks):
    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def on_prompt(self, context: Context) -> list[str]:
        context.prompts[:] = self.texts  # in place: what was given is gone
        return context.prompts


def test_a_rewritten_prompt_passes_the_age_word_filter_or_is_an_error(diffusion, tower):
    given = {"seeds": SEEDS[:2], "guidance": 5.0, "steps": 1}
    with pytest.raises(ValueError, match="Rewrite: on_prompt gave a text that the age-word filter refuses") as error:
        generate(diffusion, tower, PROMPTS[:2], **given, callbacks=[NoCallbacks(), Rewrite("a cat", "a red k i d")])
    assert "k i d" not in str(error.value)  # the message is kept where texts are not
    generate(diffusion, tower, PROMPTS[:2], **given, callbacks=[Rewrite("a hut", "a red cat")])
    with pytest.raises(ValueError, match="Rewrite: on_prompt gave 1 texts for 2 prompts"):
        generate(diffusion, tower, PROMPTS[:2], **given, callbacks=[Rewrite("a hut")])


def test_tokens_are_cut_and_padded_to_the_longest_text(tower):
    tokens = tower.tokens(["a cat", "", "a " * 99])
    begin, end, pad = (getattr(tower.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad"))
    assert tokens.shape == (3, tower.model.config.max_position_embeddings)
    assert (tokens[:, 0] == begin).all() and tokens[2, -1] == end
    assert tokens[1].tolist() == [begin, end] + [pad] * (tokens.shape[1] - 2)


def test_a_hook_on_no_module_is_an_error(diffusion, tower):
    class Lost(NoCallbacks):
        def unet_hooks(self, context):
            return {"nowhere.*": lambda *arguments: None}

    with pytest.raises(ValueError, match=r"Lost: no module of the U-Net matches 'nowhere\.\*'"):
        generate(diffusion, tower, ["a cat"], [3], 5.0, steps=1, callbacks=[Lost()])


def test_a_blocked_prompt_gives_a_black_image_and_leaves_the_others(diffusion, tower):
    class Block(NoCallbacks):
        def on_text_hidden(self, context):
            context.block(1, "refused")
            return context.embedding

    images = generate(diffusion, tower, PROMPTS, SEEDS, 5.0, steps=2, callbacks=[Block()])
    assert images[1].max() == 0
    torch.testing.assert_close(images[::2], generate(diffusion, tower, PROMPTS, SEEDS, 5.0, steps=2)[::2])


def test_a_latent_that_is_not_finite_spoils_its_own_row_only(diffusion, tower):
    latents = noise(SEEDS, diffusion.latent_shape)
    latents[1] = torch.nan
    images = sample(diffusion, tower.encode(PROMPTS), tower.encode([""]), latents, 2, 5.0)
    assert images[1].isnan().all()
    assert images[[0, 2]].isfinite().all()
