"""What an inference-time defence may do inside the sampler loop: hooks that get an explicit context, never count calls.

The hook points H1 to H8 are those of `other_systems.md` §0.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor, nn

Half = Literal["both", "cond", "uncond"]


@dataclass
class Context:
    """Where the loop stands. B prompts; `latent` (B, C, h, w), `embedding` (B, L, D) and `uncond` (1, L, D) float32.

    `i` counts steps from 0 of `steps`, `t` is the scheduler's time, on the CPU; -1 and None before the first step.
    `half` says what the U-Net is run on: "both" in one call with rows [uncond, cond] (2B), or one half at a time (B)
    where a callback asks for `halves`. Without guidance it is always "cond". `pooled` (B, P) and `uncond_pooled` (1, P)
    are None except in SDXL and Stable Diffusion 3, whose transformer is "the U-Net" here.
    """

    prompts: list[str]
    steps: int
    guidance: Tensor  # (B,) float32
    i: int = -1
    t: Tensor | None = None
    half: Half = "both"
    latent: Tensor | None = None
    embedding: Tensor | None = None
    uncond: Tensor | None = None
    pooled: Tensor | None = None
    uncond_pooled: Tensor | None = None
    blocked: dict[int, str] = field(default_factory=dict)

    def block(self, row: int, reason: str) -> None:
        """Refuse prompt `row`: its image comes out black, as with the safety checker of diffusers."""
        self.blocked[row] = reason


@dataclass
class UnetInput:
    """Input of one U-Net call: (rows, C, h, w), (rows, L, D), rows as `Context.half` says; `extra` goes by keyword.

    In `extra` are also the pooled embeddings: `added_cond_kwargs` (SDXL), `pooled_projections` (Stable Diffusion 3).
    """

    latent: Tensor
    embedding: Tensor
    extra: dict[str, object] = field(default_factory=dict)


class UnetHook(Protocol):
    """Forward hook on one module of the U-Net; a tensor that it returns takes the place of the module's output."""

    def __call__(self, context: Context, name: str, module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
        """`name` is the module's name in the U-Net, `inputs` its positional arguments."""


class Callbacks(Protocol):
    """The protocol; `NoCallbacks` does nothing at every hook, so a method overrides only those it needs."""

    halves: bool

    def on_prompt(self, context: Context) -> list[str]:
        """H1: the prompts to encode, one for each given; may block."""

    def on_text_hidden(self, context: Context) -> Tensor:
        """H2, H3: the prompt embedding (B, L, D) to use; may block, and may set `context.pooled`."""

    def on_unet_in(self, context: Context, given: UnetInput) -> UnetInput:
        """H3, H7, H8: the input of each U-Net call."""

    def unet_hooks(self, context: Context) -> Mapping[str, UnetHook]:
        """H4 to H6: module name pattern (fnmatch) -> hook; set before the first step, removed after the last."""

    def on_step_end(self, context: Context) -> Tensor:
        """H8: the latent (B, C, h, w) to go on with."""


class NoCallbacks:
    """Nothing at every hook."""

    halves = False

    def on_prompt(self, context: Context) -> list[str]:
        """The prompts as they are."""
        return context.prompts

    def on_text_hidden(self, context: Context) -> Tensor:
        """The embedding as it is."""
        return context.embedding

    def on_unet_in(self, context: Context, given: UnetInput) -> UnetInput:
        """The input as it is."""
        return given

    def unet_hooks(self, context: Context) -> Mapping[str, UnetHook]:
        """No hooks."""
        return {}

    def on_step_end(self, context: Context) -> Tensor:
        """The latent as it is."""
        return context.latent
