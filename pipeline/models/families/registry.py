"""The families of diffusion models, and which one a folder is of.

One file each says what is a family's own; loader, sampler loop and callbacks are shared.
"""

from pathlib import Path

from pipeline.errors import NearsafeError
from pipeline.models.families.family import Family
from pipeline.models.families.sd3 import FAMILY as SD3
from pipeline.models.families.sdxl import FAMILY as SDXL
from pipeline.models.families.stable_diffusion import FAMILY as STABLE_DIFFUSION
from pipeline.models.folders import read_settings

FAMILIES: tuple[Family, ...] = (SD3, SDXL, STABLE_DIFFUSION)


def family_of(folder: Path) -> Family:
    """The family of a diffusers folder, by its denoiser. Raises NearsafeError naming the file that is missing or odd.

    No class is taken from model_index.json: a folder of U-Net, VAE and scheduler alone is enough.
    """
    for family in FAMILIES:
        file = Path(folder) / family.denoiser / "config.json"
        if file.is_file() and family.owns(read_settings(file)):
            return family
    file = Path(folder) / ("transformer" if (Path(folder) / "transformer").is_dir() else "unet") / "config.json"
    if not file.is_file():
        raise NearsafeError(f"{file}: no such file: not a diffusion folder")
    config, known = read_settings(file), ", ".join(sorted({family.cls.__name__ for family in FAMILIES}))
    odd = "".join(f" with {key} {config[key]}" for key in ("addition_embed_type",) if config.get(key))
    raise NearsafeError(f"{file}: class {config.get('_class_name')!r}{odd} is not supported; known: {known}")
