"""What a family of diffusion models says of itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import SchedulerMixin
from torch import Tensor, nn

from pipeline.models.conditioning import Conditioner, Encoder

# Of each slot what it holds, the folder, the denoiser and the hash -> the family's conditioner.
Join = Callable[[Mapping[str, Encoder], Path, nn.Module, str], Conditioner]


def as_it_is(scheduler: SchedulerMixin) -> SchedulerMixin:
    """The scheduler as its folder has it."""
    return scheduler


def plain_timesteps(scheduler: SchedulerMixin, steps: int, size: tuple[int, int], denoiser: nn.Module) -> None:
    """Times that depend on the number of steps alone. On the CPU: the loop never waits for the GPU to read them."""
    scheduler.set_timesteps(steps, device="cpu")


@dataclass(frozen=True)
class Family:
    """`denoiser` is the subfolder of class `cls`; `owns` tells by its configuration whether a folder is of this family.

    `slots` are the text encoders that the family knows, those in `optional` may be missing. `extra` gives what the
    denoiser takes beside latent, time and token states: from the image's (height, width) in pixels and the pooled
    embedding (rows, P). `settle` corrects a scheduler as the plain pipeline does, `timesteps` sets its times for
    latents (h, w) and a denoiser.
    """

    name: str
    denoiser: str
    cls: type[nn.Module]
    slots: tuple[str, ...]
    owns: Callable[[Mapping[str, Any]], bool]
    join: Join
    extra: Callable[[tuple[int, int], Tensor | None], dict[str, object]]
    optional: tuple[str, ...] = ()
    settle: Callable[[SchedulerMixin], SchedulerMixin] = as_it_is
    timesteps: Callable[[SchedulerMixin, int, tuple[int, int], nn.Module], None] = plain_timesteps
