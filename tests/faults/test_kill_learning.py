"""`kill -9` at seeded moments of train and build_nsfwcaps."""

from pathlib import Path

import pytest

from tests.faults import kills

pytestmark = pytest.mark.faults
MODULES = ("train", "build_nsfwcaps")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kills.upstream(tmp_path_factory)


@pytest.mark.parametrize("module", MODULES)
def test_a_killed_stage_ends_as_if_it_had_not_been(whole: Path, tmp_path: Path, module: str) -> None:
    kills.check_all(whole, tmp_path, module)
