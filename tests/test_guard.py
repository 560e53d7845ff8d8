"""Nothing outlives what started it and was killed: the stage below DVC, and all below a guarded parent."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.guard import guarded

ROOT = Path(__file__).resolve().parents[1]
# A parent that starts a shell, which starts a child that writes its number down and sleeps.
STARTS = """
import pathlib, subprocess, sys
subprocess.Popen(f"{sys.executable} {sys.argv[1]}; true", shell=True, start_new_session=True).wait()
"""
GUARDED = f"from pipeline.guard import guarded\nwith guarded():\n    exec({STARTS!r})\n"
SLEEPS = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[0]).with_suffix(".pid").write_text(str(os.getpid()))
time.sleep(60)
"""
FOLLOWS = f"from pipeline.following import follow_dvc\nfollow_dvc()\n{SLEEPS}"


def start(
    folder: Path, name: str, parent: str, child: str, **env: str
) -> tuple[subprocess.Popen[bytes], psutil.Process]:
    (folder / name).write_text(parent)
    (folder / "child.py").write_text(child)
    process = subprocess.Popen(
        [sys.executable, folder / name, folder / "child.py"], env={**os.environ, "PYTHONPATH": str(ROOT), **env}
    )
    number = folder / "child.pid"
    end = time.monotonic() + 60
    while not (number.exists() and number.read_text()):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    return process, psutil.Process(int(number.read_text()))


def ends(process: psutil.Process) -> bool:
    try:
        process.wait(20)
    except psutil.TimeoutExpired:
        process.kill()
        return False
    return True


@pytest.mark.skipif(sys.platform == "win32", reason="shells and signals of POSIX")
@pytest.mark.parametrize(("name", "parent", "child"), [("dvc", STARTS, FOLLOWS), ("flow.py", GUARDED, SLEEPS)])
def test_children_end_with_a_parent_that_was_killed(tmp_path, name, parent, child):
    process, below = start(tmp_path, name, parent, child, DVC_STAGE="train")
    process.kill()
    process.wait()
    assert ends(below)


def test_a_stage_by_hand_outlives_its_shell_and_a_guard_that_is_done_kills_nothing(tmp_path):
    process, below = start(tmp_path, "shell.py", STARTS, FOLLOWS)
    process.kill()
    process.wait()
    with guarded():
        mark = os.environ["NEARSAFE_GUARD"]
    assert mark and "NEARSAFE_GUARD" not in os.environ
    time.sleep(0.5)
    assert below.is_running() and below.status() != psutil.STATUS_ZOMBIE
    below.kill()


def test_a_stage_whose_dvc_died_before_it_could_look_does_nothing(tmp_path):
    """It is below no DVC and no Python then."""
    script = "import os\nfrom pipeline import errors, following\nfollowing.follow_dvc()\nprint('works')\n"
    (tmp_path / "stage.py").write_text(script)
    orphan = f"sleep 0.3; {sys.executable} {tmp_path}/stage.py > {tmp_path}/said 2>&1; echo ended >> {tmp_path}/said"
    launcher = f"import subprocess; subprocess.Popen(['sh', '-c', {orphan!r}], start_new_session=True)"
    subprocess.run([sys.executable, "-c", launcher], env={**os.environ, "PYTHONPATH": str(ROOT), "DVC_STAGE": "train"})
    end = time.monotonic() + 30
    while "ended" not in (said := (tmp_path / "said").read_text() if (tmp_path / "said").exists() else ""):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert "is gone: run it again" in said and "works" not in said
