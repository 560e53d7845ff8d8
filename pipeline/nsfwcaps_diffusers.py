"""Unsafe images of NSFWCaps by a Stable Diffusion folder, through the project's own sampler loop."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTokenizer

from pipeline.errors import NearsafeError
from pipeline.models.diffusion import Diffusion, TextTower, load_diffusion
from pipeline.models.hashing import model_hash
from pipeline.models.quiet import quiet
from pipeline.models.sampler import generate
from pipeline.nsfwcaps_images import Diffusers, admitted_prompts
from pipeline.precision import pick_device
from pipeline.seeds import derive


class DiffusersRenderer:
    """The folder's U-Net, VAE, scheduler, text encoder and tokenizer; loaded at the first image, float32."""

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
        diffusion, tower = self._loaded
        seeds = [derive(self.seed, "render", name) for name in names]
        found = generate(diffusion, tower, texts, seeds, self.params.guidance, self.params.steps)
        for name, image in zip(names, found, strict=True):
            if not torch.isfinite(image).all():
                raise NearsafeError(f"{self.params.folder}: the image of caption {name} is NaN or infinite")
        return list((found.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy())

    @cached_property
    def _loaded(self) -> tuple[Diffusion, TextTower]:
        folder = self.params.folder
        diffusion = load_diffusion(folder, pick_device()[0])
        try:
            with quiet():
                model = CLIPTextModel.from_pretrained(
                    folder / "text_encoder", dtype=torch.float32, local_files_only=True, use_safetensors=True
                )
            tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise NearsafeError(f"{folder}: no loadable text_encoder and tokenizer: {reason}") from error
        width, expected = model.config.hidden_size, diffusion.unet.config.cross_attention_dim
        if width != expected:
            raise NearsafeError(f"{folder}: token states are {width} wide, the U-Net expects {expected}")
        return diffusion, TextTower(model.to(diffusion.device).eval(), tokenizer, self.facts["model"])
