"""Another scheduler than the one that a diffusion folder names, with the folder's own noise schedule."""

from dataclasses import replace
from typing import Literal, get_args

from diffusers.schedulers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
)

from pipeline.errors import NearsafeError
from pipeline.models.diffusion import Diffusion

Name = Literal["ddim", "dpm", "euler", "lms", "pndm"]
_CLASSES = {
    "ddim": DDIMScheduler,
    "dpm": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "lms": LMSDiscreteScheduler,
    "pndm": PNDMScheduler,
}


def with_scheduler(diffusion: Diffusion, name: Name | None) -> Diffusion:
    """The same model sampled by another scheduler; `None` leaves the folder's own.

    Predicted latents are never clipped to [-1, 1], which DDIM's class does unless told otherwise: latents are larger.
    diffusers' pipelines say so too, Stable Diffusion's in code, SDXL's in the scheduler configuration that it ships.
    Raises NearsafeError for a model whose own scheduler is none of these: its noise schedule is of another kind.
    """
    if name is None:
        return diffusion
    if not isinstance(diffusion.scheduler, tuple(_CLASSES.values())):
        raise NearsafeError(
            f"generate.scheduler: {diffusion.sampler} cannot be exchanged; known: {', '.join(get_args(Name))}"
        )
    options = {"clip_sample": False} if name == "ddim" else {}
    other = _CLASSES[name].from_config(diffusion.scheduler.config, **options)
    return replace(diffusion, scheduler=diffusion.family.settle(other))
