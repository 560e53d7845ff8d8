"""What a run of the pipeline needs, checked one by one: each line says what is there, or how to get it.

A check reports a broken thing and never stops at it. Nothing is downloaded and nothing is changed.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from packaging.requirements import InvalidRequirement, Requirement

from pipeline.child import environment
from pipeline.layout import Data
from pipeline.progress import duration
from pipeline.repro import past_seconds

State = Literal["ok", "warn", "missing"]
OLDEST = (3, 11)
_GIB = 2**30
# Bytes that the default run needs: 0.2 GiB in data/, as much again in DVC's cache for each time that all of it changes.
_RUN_BYTES = _GIB
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_MEASURED = re.compile(r"`dvc\s+repro`[^.;`]*?(\d+(?:\.\d+)?) min")
_PLAN = """\
import json, sys
from pathlib import Path
from pipeline.errors import NearsafeError
from pipeline.flows.graph import make_plan
try:
    plan = make_plan(Path("."))
    print(json.dumps({"stages": plan.stages, "steps": list(plan.steps)}))
except NearsafeError as error:
    print(json.dumps({"error": str(error)}))
"""
_PLAN_SECONDS = 120


@dataclass(frozen=True)
class Check:
    """One line. `fix`: what to do about it, "" where all is well."""

    name: str
    state: State
    text: str
    fix: str = ""


Checks = Iterator[Check]


def examine(root: Path, params: Path) -> Checks:
    """Every check of the clone at `root`, in order, each as soon as it is done. `params`: its parameter file."""
    from pipeline import doctor_inputs

    for name, check in (
        ("python", lambda: _python()),
        ("machine", lambda: _machine()),
        ("packages", lambda: _packages(root / "requirements.lock")),
        ("pins", lambda: _pins(root / "pyproject.toml")),
        ("torch", lambda: _torch()),
        ("git", lambda: _git(root)),
        ("dvc", lambda: _dvc(root)),
        ("disk", lambda: _disk(root)),
        ("parameters", lambda: doctor_inputs.parameters(params)),
        ("models", lambda: doctor_inputs.models(root, params)),
        ("nudenet", lambda: doctor_inputs.nudenet()),
        ("prompt files", lambda: doctor_inputs.prompt_files(params)),
        ("defences", lambda: doctor_inputs.defences(params)),
        ("browser", lambda: _browser()),
        ("server", lambda: _server(root)),
        ("stages", lambda: _stages(root)),
    ):
        yield from guarded(name, check)


def guarded(name: str, check: Callable[[], Checks]) -> Checks:
    """The check's lines; one that fails in a way nobody foresaw is a line, too."""
    try:
        yield from check()
    except Exception as error:
        what = (str(error).strip() or type(error).__name__).splitlines()[0]
        yield Check(
            name, "missing", f"could not be checked: {what}", "see the message; `make env` mends a half install"
        )


def _python() -> Checks:
    text = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < OLDEST:
        yield Check("python", "missing", text, f"install Python {'.'.join(map(str, OLDEST))} or newer, then `make env`")
    else:
        yield Check("python", "ok", text)


def _machine() -> Checks:
    import psutil

    cores, memory = os.cpu_count() or 1, psutil.virtual_memory()
    text = f"{platform.platform()}; {cores} cores, {memory.total / _GIB:.0f} GiB memory"
    yield Check("machine", "ok", f"{text}, {memory.available / _GIB:.0f} GiB of it free")


def _packages(lock: Path) -> Checks:
    pinned = [
        line.split("==") for line in lock.read_text(encoding="utf-8").splitlines() if re.match(r"[\w.-]+==", line)
    ]
    absent, other = [], []
    for name, wanted in pinned:
        found = _version(name)
        if found is None:
            absent.append(f"{name}=={wanted}")
        elif found.partition("+")[0] != wanted:  # 2.13.0+cpu is 2.13.0
            other.append(f"{name} {found} (lock: {wanted})")
    if absent:
        yield Check("packages", "missing", f"not installed: {_some(absent)}", "`make env`")
    if other:
        yield Check("packages", "warn", f"other versions than requirements.lock: {_some(other)}", "`make env`")
    if not absent and not other:
        yield Check("packages", "ok", f"all {len(pinned)} as in requirements.lock")


def _pins(project: Path) -> Checks:
    """Prefect does not start with FastAPI versions outside of a range: what pyproject.toml asks of the two."""
    wanted = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    for requirement in (Requirement(line) for line in wanted if re.match(r"(prefect|fastapi)\b", line)):
        found = _version(requirement.name)
        text = f"{found or 'not installed'}; needed: {requirement.specifier}"
        if found and requirement.specifier.contains(found):
            yield Check(requirement.name, "ok", text)
        else:
            yield Check(requirement.name, "missing", text, "`make env`; without it flows do not start")


def _torch() -> Checks:
    import torch

    build = f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}"
    driver = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    if torch.cuda.is_available():
        yield Check("torch", "ok", f"{build}; driver {driver.splitlines()[0] if driver else 'unknown'}")
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            yield Check(f"gpu {number}", "ok", f"{name}, {total / _GIB:.0f} GiB, {free / _GIB:.0f} GiB of it free")
    elif driver:
        fix = "install the CUDA build of the same torch version: https://pytorch.org/get-started"
        yield Check("torch", "warn", f"{build}; the GPU that nvidia-smi shows is not used", fix)
    else:
        yield Check("torch", "ok", f"{build}; no GPU: the CPU with {torch.get_num_threads()} threads")


def _git(root: Path) -> Checks:
    found = _output(["git", "--version"])
    if not found:
        yield Check("git", "missing", "not found or not working", "install git: https://git-scm.com/downloads")
    elif not _output(["git", "rev-parse", "--git-dir"], root):
        yield Check("git", "warn", f"{found}; this folder is no git clone", "experiments and comparisons need one")
    else:
        yield Check("git", "ok", found)


def _dvc(root: Path) -> Checks:
    found = _output([sys.executable, "-m", "dvc", "--version"])
    if not found:
        yield Check("dvc", "missing", "not found or not working", "`make env`")
    elif not (root / ".dvc").is_dir() or not (root / "dvc.yaml").is_file():
        yield Check("dvc", "missing", f"{found}; no .dvc and dvc.yaml here", "call nearsafe in the folder of the clone")
    else:
        yield Check("dvc", "ok", found)


def _disk(root: Path) -> Checks:
    free = shutil.disk_usage(root).free
    taken = {name: _size(root / name) for name in ("data", ".dvc/cache")}
    used = ", ".join(f"{name} {size / _GIB:.1f} GiB" for name, size in taken.items())
    text = f"{free / _GIB:.1f} GiB free; {used}; a whole run adds up to {_RUN_BYTES / _GIB:.0f} GiB"
    if free < _RUN_BYTES:
        yield Check("disk", "missing", text, "free some: `dvc gc -w` drops old versions of outputs from DVC's cache")
    else:
        yield Check("disk", "ok", text)


def _browser() -> Checks:
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found:
        yield Check("browser", "ok", f"{found}, for tests of pages")
    else:
        fix = "`apt-get install chromium`, or another package of it"
        yield Check("browser", "warn", "no chromium: tests that open pages are skipped", fix)


def _server(root: Path) -> Checks:
    from pipeline.flows.home import live_server, read_server

    if server := live_server(root):
        yield Check("server", "ok", f"Prefect's pages: {server.url}, the report: {server.report}")
    elif read_server(root):
        yield Check("server", "ok", "Prefect's pages are not running, the last ones were killed; `make ui` starts them")
    else:
        yield Check("server", "ok", "Prefect's pages are not running; `make ui` starts them")


def _stages(root: Path) -> Checks:
    """What is out of date, and about how long it takes: by the log of runs, else by what docs/benchmarks.md says."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PLAN], cwd=root, env=environment(), capture_output=True, text=True, check=False,
            timeout=_PLAN_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        yield Check("stages", "warn", "DVC did not answer: another command may hold its lock", "try again later")
        return
    plan = json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr.strip().splitlines()[-1]}
    if "error" in plan:
        yield Check("stages", "missing", plan["error"], "mend dvc.yaml or params.yaml; `dvc status` says more")
        return
    steps = plan["steps"]
    if not steps:
        yield Check("stages", "ok", f"all {len(plan['stages'])} are up to date")
        return
    text = f"{len(steps)} of {len(plan['stages'])} are out of date: {_some(steps)}"
    yield Check("stages", "ok", f"{text}; {estimate(root, steps, len(plan['stages']))}; `nearsafe repro` runs them")


def estimate(root: Path, steps: list[str], whole: int) -> str:
    """About how long the stages `steps` take, of `whole` in all, and by what this is said."""
    past = past_seconds(root / Data().root)
    if known := [past[step] for step in steps if step in past]:
        rest = f", {len(steps) - len(known)} of them by the mean of the others" if len(known) < len(steps) else ""
        return f"about {duration(sum(known) / len(known) * len(steps))}, by earlier runs here{rest}"
    file = root / "docs/benchmarks.md"
    measured = _MEASURED.findall(file.read_text(encoding="utf-8")) if file.is_file() else []
    if not measured:
        return "no earlier run says how long that takes"
    return f"all {whole} took {measured[-1]} min on 2 CPU cores (docs/benchmarks.md), here nothing has run yet"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except (PackageNotFoundError, InvalidRequirement):
        return None


def _output(command: list[str], folder: Path | None = None) -> str:
    """What a command prints; "" where it does not exist, fails or hangs."""
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _size(folder: Path) -> int:
    """Bytes below a folder, links not followed."""
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:  # deleted meanwhile
                continue
    return total


def _some(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
