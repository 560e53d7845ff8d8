"""Our own sampler loop: classifier-free guidance over any deterministic or seeded diffusers scheduler.

Its images equal those of `StableDiffusionPipeline` from the same latents (a test). Noise belongs to a prompt, not to
its place in a batch, so order, batch size and resume cannot change an image beyond the rounding of batched arithmetic.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from inspect import signature

import torch
from torch import Tensor, nn

from pipeline.agewords import mentions_age
from pipeline.models.callbacks import Callbacks, Context, UnetHook, UnetInput
from pipeline.models.diffusion import Diffusion, TextTower


def noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Standard normal latents (B, C, h, w) float32 on the CPU, row b from `seeds[b]` alone.

    The draw is that of diffusers with `generator=torch.Generator("cpu").manual_seed(seed)`, so that published random
    seeds of a prompt set mean what they meant there.
    """
    return torch.cat([torch.randn((1, *shape), generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds])


def generate(
    diffusion: Diffusion,
    tower: TextTower,
    prompts: Sequence[str],
    seeds: Sequence[int],
    guidance: Sequence[float] | float,
    steps: int,
    callbacks: Sequence[Callbacks] = (),
) -> Tensor:
    """Images (B, 3, H, W) float32 in [0, 1] on the CPU: encode prompts, draw noise, `sample`. A failed one is NaN.

    Callers admit prompts first (`pipeline.prompts.admit`). Raises ValueError naming the callback that gives other than
    one text per prompt, or rewrites a prompt to one that the age-word filter refuses.
    """
    context = Context(list(prompts), steps, _per_row(guidance, len(prompts)))
    for callback in callbacks:
        context.prompts = _rewritten(callback, context)
    embedding, uncond = tower.encode(context.prompts), tower.encode([""])
    latents = noise(seeds, diffusion.latent_shape)
    return sample(diffusion, embedding, uncond, latents, steps, guidance, callbacks, context, seeds)


def _rewritten(callback: Callbacks, context: Context) -> list[str]:
    """The callback's texts, filtered as those that it was given. The error quotes none of them."""
    given = tuple(context.prompts)  # a callback may change the list in place
    texts, name = list(callback.on_prompt(context)), type(callback).__name__
    if len(texts) != len(given):
        raise ValueError(f"{name}: on_prompt gave {len(texts)} texts for {len(given)} prompts")
    if any(mentions_age(text) for text, old in zip(texts, given, strict=True) if text != old):
        raise ValueError(f"{name}: on_prompt gave a text that the age-word filter refuses")
    return texts


@torch.no_grad()
def sample(
    diffusion: Diffusion,
    embedding: Tensor,
    uncond: Tensor,
    latents: Tensor,
    steps: int,
    guidance: Sequence[float] | float,
    callbacks: Sequence[Callbacks] = (),
    context: Context | None = None,
    seeds: Sequence[int] | None = None,
) -> Tensor:
    """Denoise `latents` (B, C, h, w), standard normal, under `embedding` (B, L, D) and `uncond` (1, L, D).

    Returns images (B, 3, H, W) float32 in [0, 1] on the CPU; rows whose latent is not finite come out as NaN, blocked
    rows black. `guidance` is one number or one per row; where none is above 1 there is no unconditional half, as in
    diffusers, and a row at or below 1 in a mixed batch is conditional only. `seeds` feed schedulers that add noise.
    Callbacks may switch gradients on inside.
    """
    device, count = diffusion.device, len(latents)
    context = context or Context([""] * count, steps, _per_row(guidance, count))
    context.embedding, context.uncond = embedding.to(device), uncond.to(device)
    for callback in callbacks:
        context.embedding = callback.on_text_hidden(context)
    scheduler = type(diffusion.scheduler).from_config(diffusion.scheduler.config)  # schedulers carry state
    scheduler.set_timesteps(steps, device=device)
    options = _noise_options(scheduler, seeds)
    context.latent = latents.to(device) * scheduler.init_noise_sigma
    with _hooked(diffusion.unet, callbacks, context):
        for i, t in enumerate(scheduler.timesteps):
            context.i, context.t = i, t
            predicted = _predict(diffusion.unet, scheduler, context, callbacks)
            context.latent = scheduler.step(predicted, t, context.latent, return_dict=False, **options)[0]
            for callback in callbacks:
                context.latent = callback.on_step_end(context)
    return _decode(diffusion, context)


def _predict(unet: nn.Module, scheduler: object, context: Context, callbacks: Sequence[Callbacks]) -> Tensor:
    """Guided noise prediction (B, C, h, w)."""
    latent = scheduler.scale_model_input(context.latent, context.t)
    scale = context.guidance.to(latent)[:, None, None, None]
    if not (scale > 1).any():
        return _call(unet, context, "cond", latent, context.embedding, callbacks)
    empty = context.uncond.expand(len(latent), -1, -1)
    if any(callback.halves for callback in callbacks):
        without = _call(unet, context, "uncond", latent, empty, callbacks)
        conditional = _call(unet, context, "cond", latent, context.embedding, callbacks)
    else:
        both = torch.cat([empty, context.embedding])
        without, conditional = _call(unet, context, "both", torch.cat([latent, latent]), both, callbacks).chunk(2)
    return without + scale.clamp(min=1) * (conditional - without)


def _call(
    unet: nn.Module, context: Context, half: str, latent: Tensor, embedding: Tensor, callbacks: Sequence[Callbacks]
) -> Tensor:
    context.half = half
    given = UnetInput(latent, embedding)
    for callback in callbacks:
        given = callback.on_unet_in(context, given)
    return unet(given.latent, context.t, encoder_hidden_states=given.embedding, return_dict=False, **given.extra)[0]


def _decode(diffusion: Diffusion, context: Context) -> Tensor:
    latent = context.latent
    finite = torch.isfinite(latent).flatten(1).all(1)
    usable = torch.where(finite[:, None, None, None], latent, 0.0) / diffusion.vae.config.scaling_factor
    images = (diffusion.vae.decode(usable, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)
    for row in context.blocked:
        images[row] = 0
    images[~finite] = torch.nan
    return images.float().cpu()


@contextmanager
def _hooked(unet: nn.Module, callbacks: Sequence[Callbacks], context: Context) -> Iterator[None]:
    """The callbacks' hooks on the U-Net's modules, for as long as the loop runs."""
    handles = []
    try:
        for callback in callbacks:
            for pattern, hook in callback.unet_hooks(context).items():
                names = [(name, module) for name, module in unet.named_modules() if fnmatchcase(name, pattern)]
                if not names:
                    raise ValueError(f"{type(callback).__name__}: no module of the U-Net matches {pattern!r}")
                handles += [module.register_forward_hook(_bind(hook, context, name)) for name, module in names]
        yield
    finally:
        for handle in handles:
            handle.remove()


def _bind(hook: UnetHook, context: Context, name: str) -> object:
    return lambda module, inputs, output: hook(context, name, module, inputs, output)


def _per_row(guidance: Sequence[float] | float, count: int) -> Tensor:
    values = torch.as_tensor(guidance, dtype=torch.float32)
    return values.expand(count).clone()


def _noise_options(scheduler: object, seeds: Sequence[int] | None) -> dict[str, object]:
    """One generator per row for `scheduler.step`, apart from the one that drew the row's first latent."""
    if seeds is None or "generator" not in signature(scheduler.step).parameters:
        return {}
    return {"generator": [torch.Generator("cpu").manual_seed((seed + 1) % 2**63) for seed in seeds]}
