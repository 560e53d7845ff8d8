"""An initialised DVC repository, made once a process and copied: each `dvc` command costs over a second."""

import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path


@cache
def _made(git: bool) -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory()
    commands = [["init", "-q", *([] if git else ["--no-scm"])], ["config", "core.analytics", "false"]]
    if git:
        subprocess.run(["git", "init", "-q", "-b", "main"], cwd=folder.name, check=True)
    for arguments in (*commands, ["config", "core.check_update", "false"]):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder.name, check=True)
    return folder


def initialise(root: Path, git: bool = False) -> None:
    """What `dvc init` leaves in a folder, without reports of usage; with `git`, in a new git repository."""
    shutil.copytree(_made(git).name, root, dirs_exist_ok=True)
