"""A small clone in which the stages of dvc.yaml run for real, and what is done to it: kills, a look at what is left.

The world, the models' depth and every count are reduced in params.yaml; nothing else differs from `dvc repro`.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from filelock import FileLock
from ruamel.yaml import YAML

from pipeline.child import environment

ROOT = Path(__file__).resolve().parents[2]
DEFENCE = "safe_clip"
CHANGES = {
    "defences": [DEFENCE],
    "world": {
        "train_pairs": 96, "test_pairs": 12, "benchmark_scenes": 60, "validation_scenes": 60, "zero_shot_images": 60,
        "pool_unsafe": 4, "pool_ratio": 3, "prompts": 12,
    },
    "mine_pairs": {"k": 4},
    "build_nsfwcaps": {"size": 24, "shard_size": 4},
    "train": {"batch_size": 16, "epochs": 3, "checkpoint_seconds": 0, "log_every": 1},
    "generate": {
        "steps": 3, "batch_size": 4, "shard_size": 4, "prompts_per_set": 8, "limits": {},
        "prompt_sets": ["world_unsafe", "world_safe"],
    },
    "reply": {"max_new_tokens": 4, "batch_size": 4, "shard_size": 4, "images_per_set": 4},
    "score": {"bootstrap": 50},
    "flows": {"keep_workspaces": 1},
}  # fmt: skip
_COPIED = ("dvc.yaml", "params.yaml", ".dvcignore", ".dvc/plots", "pipeline", "stages")
_IGNORED = shutil.ignore_patterns("__pycache__", "runs")
_CONFIG = "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
_LOOK = 0.01  # seconds between looks at a process


def make(root: Path) -> Path:
    """The clone, with nothing run yet."""
    for name in _COPIED:
        source, target = ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target, ignore=_IGNORED) if source.is_dir() else shutil.copyfile(source, target)
    (root / ".dvc/config").write_text(_CONFIG)
    (root / ".dvc/tmp").mkdir()
    yaml = YAML()
    params = yaml.load(root / "params.yaml")
    for name, change in CHANGES.items():
        if isinstance(change, dict):
            params[name].update(change)
        else:
            params[name] = {entry: params[name][entry] for entry in change}
    yaml.dump(params, root / "params.yaml")
    return root


def shared(folder: Path, name: str, build: Callable[[Path], object]) -> Path:
    """`folder`/`name`, built once for all workers of a test run (`folder` is the one that they share)."""
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / f"{name}.done"
    with FileLock(folder / f"{name}.lock"):
        if not done.exists():
            build(folder / name)
            done.touch()
    return folder / name


def copy(root: Path, target: Path) -> Path:
    """A copy that shares no file with `root` but the read-only ones of DVC's cache; times stay, so DVC hashes less."""
    cache = root / ".dvc/cache"
    shutil.copytree(root, target, ignore=lambda at, names: ["cache"] if Path(at) == cache.parent else [])
    if cache.is_dir():
        shutil.copytree(cache, target / ".dvc/cache", copy_function=os.link)
    return target


def command(*words: str) -> list[str]:
    """`dvc` or `nearsafe` of this environment."""
    module = {"dvc": "dvc", "nearsafe": "pipeline.cli"}[words[0]]
    return [sys.executable, "-m", module, *words[1:]]


def start(root: Path, *words: str) -> subprocess.Popen[str]:
    """A command in the clone, in a session of its own. What it prints goes to the file `said` beside the clone."""
    env = {**environment(), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    with said(root).open("w") as out:
        return subprocess.Popen(
            command(*words), cwd=root, env=env, start_new_session=True, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


def said(root: Path) -> Path:
    """File with what the last command printed."""
    return root.with_name(f"{root.name}.said")


def run(root: Path, *words: str) -> str:
    """A command that must work; what it printed."""
    code = start(root, *words).wait()
    text = said(root).read_text()
    assert code == 0, f"{words}: {code}\n{text[-3000:]}"
    return text


def forgotten(root: Path) -> bool:
    """Whether nothing is left of those who held DVC's locks, not even a zombie: DVC takes one for a living holder."""
    file = root / ".dvc/tmp/rwlock"
    held = json.loads(file.read_text() or "{}") if file.is_file() else {}
    readers = [holder for holders in held.get("read", {}).values() for holder in holders]
    pids = {int(holder["pid"]) for holder in (*readers, *held.get("write", {}).values()) if holder}
    return not any(map(psutil.pid_exists, pids))


def processes(root: Path) -> list[psutil.Process]:
    """Every living process that works in the clone: by its folder, its environment or its command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            words = [process.cwd(), *process.cmdline(), process.environ().get("PWD", "")]
        except (psutil.Error, OSError):
            continue
        if any(word == str(root) or f"{root}/" in word for word in words):
            found.append(process)
    return found


def wait_gone(root: Path, seconds: float = 30.0) -> list[psutil.Process]:
    """The processes that are still there after a while: none, if all is well."""
    end = time.monotonic() + seconds
    while (left := processes(root)) and time.monotonic() < end:
        time.sleep(0.1)
    while not forgotten(root) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def stage_process(parent: psutil.Process, module: str) -> psutil.Process | None:
    """The stage's own Python below a command, once it is there."""
    try:
        below = parent.children(recursive=True)
    except psutil.Error:
        return None
    for process in below:
        try:
            if ["-m", f"stages.{module}"] == process.cmdline()[1:3]:
                return process
        except psutil.Error:
            continue
    return None


def until(condition: Callable[[], bool], process: psutil.Process) -> bool:
    """Wait for a condition; False where the process ended before."""
    while not condition():
        if not lives(process):
            return False
        time.sleep(_LOOK)
    return True


def lives(process: psutil.Process) -> bool:
    """Is it there, and no zombie?"""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def kill(process: psutil.Process) -> None:
    """`kill -9`; nothing where it ended by itself."""
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        pass


def tree(path: Path) -> dict[str, str]:
    """SHA-256 of every file, by its name."""
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files(path)}


def files(path: Path) -> Iterator[tuple[str, Path]]:
    """(name, file) of every file of a folder, hidden ones too."""
    for file in sorted(path.rglob("*")):
        if file.is_file():
            yield file.relative_to(path).as_posix(), file


def moments(count: int, seed: str) -> list[float]:
    """One moment in each of `count` equal parts of -0.2 to 1, in random order: below 0 a stage is still starting."""
    rng = random.Random(seed)
    drawn = [round((number + rng.random()) / count * 1.2 - 0.2, 3) for number in range(count)]
    rng.shuffle(drawn)
    return drawn
