"""`nearsafe doctor --profile`: the checks of a run that has not been asked for yet; nothing is changed."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from pipeline.doctor import Check, examine, guarded
from pipeline.estimate import examine_run
from pipeline.profiles import overlay, read_profile

# Checks of what is here now, not of what the profile would run.
_NOT_OF_IT = ("browser", "server", "stages")


def examine_profile(root: Path, params: Path, name: str) -> Iterator[Check]:
    """The checks of the clone with the profile laid over its parameter file, then sizes and times.

    Raises NearsafeError for an unknown profile, and for one with an unknown key.
    """
    profile = read_profile(name, root / "profiles")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        file.write_text(overlay(params, profile), encoding="utf-8")
        present = (check for check in examine(root, file) if check.name not in _NOT_OF_IT)
        for check in chain(present, guarded("run", lambda: examine_run(root, file))):
            yield replace(check, text=check.text.replace(str(file), f"{profile.path} over {params}"))
