"""A copy of the pipeline in a folder of its own, in which a profile runs through the very same DAG."""

import filecmp
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import NearsafeError
from pipeline.layout import Local
from pipeline.params import load
from pipeline.profiles import check, overlay, read_profile
from pipeline.rehearsal.data import make_des, make_safer_clip
from pipeline.rehearsal.models import make_models

PROFILES = {"paper-safer-clip": make_safer_clip, "paper-des": make_des}
FOLDER = "rehearsal"
_COPIED = ("dvc.yaml", "params.yaml", "pyproject.toml", ".dvcignore", ".dvc/plots", "pipeline", "stages", "profiles")
_IGNORED = ("__pycache__", "runs")
_CONFIG = "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"


def prepare(root: Path, profile: str) -> Path:
    """The workspace of a profile below `root`: code as it is now, the profile at reduced depth, models, data.

    What is there already stays, so that an interrupted rehearsal is continued. Raises NearsafeError.
    """
    if profile not in PROFILES:
        raise NearsafeError(f"no rehearsal of {profile!r}; there are: {', '.join(PROFILES)}")
    place = root / Local().root / FOLDER / profile
    for name in _COPIED:
        _mirror(root / name, place / name)
    _write(place / ".dvc/config", _CONFIG)
    (place / ".dvc/tmp").mkdir(exist_ok=True)
    params = place / "params.yaml"
    less = Path(__file__).with_name(f"{profile}.yaml")
    _write(params, (root / "params.yaml").read_text(encoding="utf-8"))
    for one in (read_profile(profile, place / "profiles"), read_profile(str(less))):
        _write(params, overlay(params, one))
    check(params)
    values = load(params)
    folders = values["models"]
    llava = place / folders["llava"] if values["reply"]["image_sets"] else None
    make_models(place / folders["clip"], place / folders["diffusion"], llava)
    PROFILES[profile](place / values["sources"]["root"])
    return place


def _mirror(source: Path, target: Path) -> None:
    """`target` becomes what `source` is; equal files keep their times, so that DVC need not read them again."""
    if source.is_file():
        if not (target.is_file() and filecmp.cmp(source, target, shallow=False)):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        return
    wanted = dict(_files(source))
    for name, file in wanted.items():
        _mirror(file, target / name)
    for name, file in dict(_files(target)).items():
        if name not in wanted:
            file.unlink()


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted(folder.rglob("*")):
        inner = file.relative_to(folder)
        if file.is_file() and not set(inner.parts) & set(_IGNORED):
            yield inner.as_posix(), file


def _write(file: Path, text: str) -> None:
    """Write a text where it is not there yet, so that its time says when it changed."""
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
