"""Files that appear whole or not at all, and one line about a disk that does not take them."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import NearsafeError, disk_error


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Around what writes `path`: a full or read-only disk becomes a NearsafeError that names it."""
    try:
        yield
    except NearsafeError:
        raise
    except Exception as error:
        if (told := disk_error(error, path)) is None:
            raise
        raise told from error


@contextmanager
def replacing(path: Path, shared: bool = False) -> Iterator[Path]:
    """A temporary file beside `path` to write (its folder is made), renamed onto `path` when the block ends.

    After an error nothing of it is left, and `path` is as it was. `shared`: several processes may write `path` at once.
    Raises NearsafeError as `writing` does.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp" if shared else f".{path.name}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            discard(temporary)
            raise


def give_usual_modes(folder: Path) -> None:
    """Weights below `folder` get the permissions of other new files: safetensors writes them for their owner alone."""
    probe = folder / ".mode"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for file in folder.rglob("*.safetensors"):
        file.chmod(mode)


def discard(path: Path) -> None:
    """Remove a file or folder that is not wanted, if it is there and can be removed: room on a full disk."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        shutil.rmtree(path, ignore_errors=True)
