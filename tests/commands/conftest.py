"""A small DVC repository, for what drives DVC."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dvc_folder import initialise

DvcRepository = Callable[[str], Path]


@pytest.fixture
def dvc_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DvcRepository:
    """A function that makes a repository of the stages given, and goes into it."""

    def make(stages: str) -> Path:
        monkeypatch.chdir(tmp_path)
        initialise(tmp_path)
        (tmp_path / "dvc.yaml").write_text("stages:\n" + textwrap.indent(textwrap.dedent(stages), "  "))
        return tmp_path

    return make
