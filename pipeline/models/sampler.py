"""Our own sampler loop: classifier-free guidance over any deterministic or seeded diffusers scheduler.

Its images equal those of StableDiffusionPipeline, StableDiffusionXLPipeline and StableDiffusion3Pipeline from the same
latents to 2e-5 of a pixel's range in float32 (tests). Noise belongs to a prompt, not to its place in a batch, so order,
batch size and resume cannot change an image beyond the rounding of batched arithmetic: the same 2e-5.

The loop never waits for a GPU: times and the choice between one and two halves are on the CPU, what is not finite is
looked for once, at the end. Latents and guidance are float32 whatever the denoiser computes in.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from inspect import signature
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.agewords import mentions_age
from pipeline.models.callbacks import Callbacks, Context, UnetHook
from pipeline.models.conditioning import Conditioner, Conditioning
from pipeline.models.diffusion import Diffusion
from pipeline.models.predicting import Predictor, decode

_HERE = Path(__file__).parent
# The code that an image depends on: part of what a resumed run must share with the one it goes on with.
SOURCES = [
    *sorted((_HERE / "families").glob("*.py")),
    *(
        _HERE / f"{name}.py"
        for name in ("callbacks", "clip", "conditioning", "diffusion", "predicting", "schedulers", "slots")
    ),
    Path(__file__),
]


def noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Standard normal latents (B, C, h, w) float32 on the CPU, row b from `seeds[b]` alone.

    The draw is that of diffusers with `generator=torch.Generator("cpu").manual_seed(seed)`, so that published random
    seeds of a prompt set mean what they meant there.
    """
    return torch.cat([torch.randn((1, *shape), generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds])


def generate(
    diffusion: Diffusion,
    tower: Conditioner,
    prompts: Sequence[str],
    seeds: Sequence[int],
    guidance: Sequence[float] | float,
    steps: int,
    callbacks: Sequence[Callbacks] = (),
) -> Tensor:
    """Images (B, 3, H, W) float32 in [0, 1] on the CPU: encode prompts, draw noise, `sample`. A failed one is NaN.

    The one way from a text to an image. Callers admit prompts first (`pipeline.prompts.admit`), which counts what it
    drops; here the age-word filter reads every text once more. Raises ValueError for one that it refuses, and naming
    the callback that gives other than one text per prompt, or rewrites a prompt to one that is refused.
    """
    if any(map(mentions_age, prompts)):
        raise ValueError("the age-word filter refuses a prompt: use pipeline.prompts.admit")
    context = Context(list(prompts), steps, _per_row(guidance, len(prompts)))
    for callback in callbacks:
        context.prompts = _rewritten(callback, context)
    conditional, unconditional = tower.condition(context.prompts), tower.unconditional()
    latents = noise(seeds, diffusion.latent_shape)
    return sample(diffusion, conditional, unconditional, latents, steps, guidance, callbacks, context, seeds)


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
    embedding: Conditioning | Tensor,
    uncond: Conditioning | Tensor,
    latents: Tensor,
    steps: int,
    guidance: Sequence[float] | float,
    callbacks: Sequence[Callbacks] = (),
    context: Context | None = None,
    seeds: Sequence[int] | None = None,
) -> Tensor:
    """Denoise `latents` (B, C, h, w), standard normal, under `embedding` (B rows) and `uncond` (one row).

    A tensor stands for token states alone. Returns images (B, 3, H, W) float32 in [0, 1] on the CPU; rows whose latent
    is not finite come out as NaN, blocked rows black. `guidance` is one number or one per row; where none is above 1
    there is no unconditional half, as in diffusers, and a row at or below 1 in a mixed batch is conditional only.
    `seeds` feed schedulers that add noise. Callbacks may switch gradients on inside.
    """
    device, count = diffusion.device, len(latents)
    context = context or Context([""] * count, steps, _per_row(guidance, count))
    context.embedding, context.pooled = _on(device, embedding)
    context.uncond, context.uncond_pooled = _on(device, uncond)
    for callback in callbacks:
        context.embedding = callback.on_text_hidden(context)
    scheduler = type(diffusion.scheduler).from_config(diffusion.scheduler.config)  # schedulers carry state
    diffusion.family.timesteps(scheduler, steps, tuple(latents.shape[2:]), diffusion.denoiser)
    options = _noise_options(scheduler, seeds)
    # flow matching starts from noise of its own scale, and takes latents as they are
    context.latent = latents.to(device) * getattr(scheduler, "init_noise_sigma", 1.0)
    predictor = Predictor(diffusion, scheduler, callbacks, tuple(n * diffusion.vae_scale for n in latents.shape[2:]))
    with _hooked(diffusion.denoiser, callbacks, context):
        for i, (t, there) in enumerate(zip(scheduler.timesteps, scheduler.timesteps.to(device), strict=True)):
            context.i, context.t = i, t
            predicted = predictor.predict(context, there)
            context.latent = scheduler.step(predicted, t, context.latent, return_dict=False, **options)[0]
            for callback in callbacks:
                context.latent = callback.on_step_end(context)
    return decode(diffusion, context)


@contextmanager
def _hooked(denoiser: nn.Module, callbacks: Sequence[Callbacks], context: Context) -> Iterator[None]:
    """The callbacks' hooks on the denoiser's modules, for as long as the loop runs."""
    handles = []
    try:
        for callback in callbacks:
            for pattern, hook in callback.unet_hooks(context).items():
                names = [(name, module) for name, module in denoiser.named_modules() if fnmatchcase(name, pattern)]
                if not names:
                    raise ValueError(f"{type(callback).__name__}: no module of the U-Net matches {pattern!r}")
                handles += [module.register_forward_hook(_bind(hook, context, name)) for name, module in names]
        yield
    finally:
        for handle in handles:
            handle.remove()


def _bind(hook: UnetHook, context: Context, name: str) -> object:
    return lambda module, inputs, output: hook(context, name, module, inputs, output)


def _on(device: torch.device, given: Conditioning | Tensor) -> tuple[Tensor, Tensor | None]:
    """Token states and pooled embedding, on the denoiser's device."""
    given = given if isinstance(given, Conditioning) else Conditioning(given)
    return given.states.to(device), None if given.pooled is None else given.pooled.to(device)


def _per_row(guidance: Sequence[float] | float, count: int) -> Tensor:
    values = torch.as_tensor(guidance, dtype=torch.float32)
    return values.expand(count).clone()


def _noise_options(scheduler: object, seeds: Sequence[int] | None) -> dict[str, object]:
    """One generator per row for `scheduler.step`, apart from the one that drew the row's first latent."""
    if seeds is None or "generator" not in signature(scheduler.step).parameters:
        return {}
    return {"generator": [torch.Generator("cpu").manual_seed((seed + 1) % 2**63) for seed in seeds]}
