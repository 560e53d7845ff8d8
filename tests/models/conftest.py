"""Tiny random models, made once."""

from pathlib import Path

import pytest

from pipeline.models.clip import Clip, load_clip
from pipeline.models.conditioning import TextTower
from pipeline.models.diffusion import Diffusion, load_diffusion, text_tower
from tests.models.tiny import save_clip, save_diffusion


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return load_clip(save_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="session")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Diffusion:
    return load_diffusion(save_diffusion(tmp_path_factory.mktemp("diffusion")))


@pytest.fixture(scope="session")
def tower(clip: Clip, diffusion: Diffusion) -> TextTower:
    return text_tower(clip, diffusion, Path("clip"))
