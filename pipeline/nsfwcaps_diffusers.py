"""Unsafe images of NSFWCaps by a Stable Diffusion folder, through the project's own sampler loop."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from pipeline.errors import NearsafeError
from pipeline.models.conditioning import Conditioner
from pipeline.models.diffusion import Diffusion, load_diffusion, own_conditioner
from pipeline.models.hashing import model_hash
from pipeline.models.sampler import generate
from pipeline.nsfwcaps_images import Diffusers, admitted_prompts
from pipeline.precision import pick_device
from pipeline.seeds import derive


class DiffusersRenderer:
    """The folder's own denoiser, VAE, scheduler and text encoders; loaded at the first image, float32."""

    def __init__(self, params: Diffusers, seed: int) -> None:
        self.params, self.seed = params, seed
        self.facts = {"model": model_hash(params.folder), "seed": str(seed)}
        self.name = f"{params.folder.name}@{self.facts['model']}, {params.steps} steps, guidance {params.guidance:g}"

    def render(self, captions: Sequence[str], names: Sequence[str]) -> list[np.ndarray]:
        """See `pipeline.nsfwcaps_images.Renderer`. Raises NearsafeError for a caption that is not admitted."""
        texts = admitted_prompts(captions).table["text"].to_pylist()
        images: list[np.ndarray] = []
        for start in range(0, len(texts), self.params.batch_size):
            rows = slice(start, start + self.params.batch_size)
            images += self._batch(texts[rows], names[rows])
        return images

    def _batch(self, texts: list[str], names: Sequence[str]) -> list[np.ndarray]:
        diffusion, towers = self._loaded
        seeds = [derive(self.seed, "render", name) for name in names]
        found = generate(diffusion, towers, texts, seeds, self.params.guidance, self.params.steps)
        for name, image in zip(names, found, strict=True):
            if not torch.isfinite(image).all():
                raise NearsafeError(f"{self.params.folder}: the image of caption {name} is NaN or infinite")
        return list((found.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy())

    @cached_property
    def _loaded(self) -> tuple[Diffusion, Conditioner]:
        diffusion = load_diffusion(self.params.folder, pick_device()[0])
        return diffusion, own_conditioner(diffusion)
