"""Short measured runs on random weights of a model's true shape: what one item of each stage costs on this machine.

Weights do not change how long a product takes. Every probe runs once to warm up where it is quick, then until it has
taken a second or has run three times; it is left out once the budget is used up.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.model_shapes import Config, build
from pipeline.models.adapters import Lora

_TOKENS = 20  # of a caption: captions are trimmed to the longest of a batch
_LAYERS = (1, 3)  # depths that a training step is measured at on a CPU; the rest follows by the number of layers


@dataclass(frozen=True)
class Rate:
    """Seconds for one item, and how that was found."""

    seconds: float
    how: str


@dataclass
class Probes:
    """Measures on one device, `budget` seconds in all."""

    device: torch.device
    budget: float = 60.0
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds of the budget that are not used yet."""
        return self.budget - (time.monotonic() - self.started)

    def clip_image(self, shape: Config) -> Rate | None:
        """One image through the vision tower."""
        vision = shape["vision_config"]
        if self.left <= 0:
            return None
        model, size, count = self._clip(shape), vision.get("image_size", 224), 8 if self._cuda else 2
        pixels = torch.zeros(count, 3, size, size, device=self.device)
        seconds = self._time(lambda: model.get_image_features(pixel_values=pixels))
        return Rate(seconds / count, f"{count} images of {size} pixels in one forward took {_ms(seconds)}")

    def clip_text(self, shape: Config) -> Rate | None:
        """One caption through the text tower."""
        if self.left <= 0:
            return None
        model, count = self._clip(shape), 32
        ids = torch.ones(count, _TOKENS, dtype=torch.int64, device=self.device)
        seconds = self._time(lambda: model.get_text_features(input_ids=ids))
        return Rate(seconds / count, f"{count} captions of {_TOKENS} tokens in one forward took {_ms(seconds)}")

    def train_pair(self, shape: Config, lora: Lora | None, batch: int, dtype: torch.dtype) -> Rate | None:
        """One pair of a training step of both towers: two captions, two images, forward, backward and optimiser."""

        def step(model: nn.Module, count: int) -> Callable[[], None]:
            size = shape["vision_config"].get("image_size", 224)
            ids = torch.ones(2 * count, _TOKENS, dtype=torch.int64, device=self.device)
            pixels = torch.zeros(2 * count, 3, size, size, device=self.device)
            return self._step(
                model, lora, ("text", "vision"), dtype, lambda tuned: _features(tuned, ids) + _features(tuned, pixels)
            )

        return self._by_layers(shape, step, batch, ("text_config", "vision_config"))

    def train_tokens(self, shape: Config, lora: Lora | None, batch: int, dtype: torch.dtype) -> Rate | None:
        """One prompt pair of a step on token states: two texts padded to the tower's longest."""
        longest = shape["text_config"].get("max_position_embeddings", 77)

        def step(model: nn.Module, count: int) -> Callable[[], None]:
            ids = torch.ones(2 * count, longest, dtype=torch.int64, device=self.device)
            return self._step(model, lora, ("text",), dtype, lambda tuned: _states(tuned, ids).mean())

        return self._by_layers(shape, step, batch, ("text_config",))

    def sampler_step(self, shape: Config) -> Rate | None:
        """One step of one image: the U-Net on the conditional and the unconditional half."""
        if self.left <= 0 or "unet" not in shape or shape["unet"].get("addition_embed_type"):
            return None  # SDXL's takes more than states
        (unet,) = self._made("diffusion", {"unet": shape["unet"]})
        size, width = shape["unet"].get("sample_size", 64), shape["unet"].get("cross_attention_dim", 768)
        size = size if isinstance(size, int) else size[0]
        latent = torch.zeros(1, shape["unet"].get("in_channels", 4), size, size, device=self.device)
        states = torch.zeros(1, 77, width, device=self.device)
        seconds = self._time(lambda: unet(latent, 500, states))
        return Rate(2 * seconds, f"one U-Net call on a latent of {size} took {_ms(seconds)}, a step has two")

    def decode(self, shape: Config) -> Rate | None:
        """One image out of the VAE, measured at half its size where that saves time."""
        if self.left <= 0 or "vae" not in shape or "unet" not in shape:
            return None
        (vae,) = self._made("diffusion", {"vae": shape["vae"]})
        size = shape["unet"].get("sample_size", 64)
        size = size if isinstance(size, int) else size[0]
        part = 1 if self._cuda else 2
        latent = torch.zeros(1, shape["vae"].get("latent_channels", 4), size // part, size // part, device=self.device)
        seconds = self._time(lambda: vae.decode(latent).sample)
        how = f"the VAE on a latent of {size // part} took {_ms(seconds)}"
        return Rate(seconds * part**2, how if part == 1 else f"{how}, times {part**2} by its pixels")

    def detect(self) -> Rate | None:
        """One image of 512 pixels through NudeNet."""
        if self.left <= 0:
            return None
        from PIL import Image

        from pipeline.detectors.nudenet import NudeNet

        detector, images = NudeNet(), [Image.new("RGB", (512, 512), "grey")] * 4
        seconds = self._time(lambda: detector.detect(images))
        return Rate(seconds / 4, f"4 images through NudeNet took {_ms(seconds)}")

    def product(self, width: int) -> Rate | None:
        """One multiply-add of a matrix product of this width: mining."""
        if self.left <= 0:
            return None
        rows = 2048
        a, b = torch.rand(rows, width), torch.rand(width, rows)
        seconds = self._time(lambda: a @ b)
        return Rate(seconds / rows**2, f"a product {rows} x {width} x {rows} took {_ms(seconds)}")

    @property
    def _cuda(self) -> bool:
        return self.device.type == "cuda"

    def _clip(self, shape: Config) -> nn.Module:
        return self._made("clip", shape)[0].eval()

    def _made(self, kind: str, shape: Config) -> list[Any]:
        """Parts of a model with small constant weights, on the device: quick, and finite whatever the depth."""
        with torch.device("meta"):
            parts = build(kind, shape)
        made = []
        for part in parts:
            part = part.to_empty(device=self.device)
            for tensor in part.parameters():
                tensor.data.fill_(0.02 if tensor.ndim > 1 else 1.0)
            for name, tensor in part.named_buffers():
                tensor.data.copy_(
                    torch.arange(tensor.numel(), device=self.device).reshape(tensor.shape)
                ) if name.endswith("position_ids") else tensor.data.fill_(0)
            made.append(part.eval())
        return made

    def _by_layers(
        self, shape: Config, step: Callable[[nn.Module, int], Callable[[], None]], batch: int, towers: tuple[str, ...]
    ) -> Rate | None:
        """A step at full depth and the true batch on a GPU; on a CPU two depths and few pairs, and a straight line."""
        if self.left <= 0:
            return None
        if self._cuda:
            seconds = self._time(step(self._clip(shape), batch), grad=True)
            return Rate(seconds / batch, f"a step of {batch} pairs took {_ms(seconds)}")
        count, depths, took = min(batch, 2), _LAYERS, []
        for depth in depths:
            cut = {**shape, **{name: {**shape[name], "num_hidden_layers": depth} for name in towers}}
            rest = {name: {**shape[name], "num_hidden_layers": 1} for name in ("text_config", "vision_config")}
            took.append(
                self._time(step(self._clip({**rest, **cut} if towers != tuple(rest) else cut), count), grad=True)
            )
        per_layer = (took[1] - took[0]) / (depths[1] - depths[0])
        layers = max(shape[name].get("num_hidden_layers", 12) for name in towers)
        seconds = took[0] + per_layer * (layers - depths[0])
        how = f"steps of {count} pairs took {_ms(took[0])} and {_ms(took[1])} at {depths[0]} and {depths[1]} layers"
        return Rate(seconds / count, f"{how}, {layers} layers by a straight line")

    def _step(
        self, model: nn.Module, lora: Lora | None, towers: tuple[str, ...], dtype: torch.dtype,
        loss: Callable[[nn.Module], Tensor],
    ) -> Callable[[], None]:  # fmt: skip
        """A training step: the parameters that training tunes, autocast as in training, a stand-in for the losses."""
        from pipeline.models.adapters import trainable
        from pipeline.models.finetune import tune

        tuned = tune(model, lora, torch.Generator().manual_seed(0), towers).model
        tuned.train()
        optimizer = torch.optim.Adam(trainable(tuned).values(), lr=1e-4)

        def run() -> None:
            with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                value = loss(tuned)
            optimizer.zero_grad()
            value.float().backward()
            optimizer.step()

        return run

    def _time(self, work: Callable[[], Any], grad: bool = False) -> float:
        """Seconds of one run, the fastest of those that fit into a second, at least one and at most three."""
        with torch.set_grad_enabled(grad):
            took = [self._once(work)]
            if took[0] < 2:  # the first one also warmed up
                took = [self._once(work)]
            while len(took) < 3 and sum(took) < 1 and self.left > 0:
                took.append(self._once(work))
        return min(took)

    def _once(self, work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start


def _features(model: nn.Module, inputs: Tensor) -> Tensor:
    from pipeline.models.adapters import features

    given = {"ids": inputs} if inputs.dtype == torch.int64 else {"pixel_values": inputs}
    return features(model, **given).mean()


def _states(model: nn.Module, ids: Tensor) -> Tensor:
    from pipeline.token_set import text_model

    return text_model(model)(input_ids=ids).last_hidden_state


def _ms(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
