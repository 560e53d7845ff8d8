"""A small repository with real DVC stages: quick commands in place of models."""

import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

# A stage that writes its value below those of what it needs, and when it ran on which device; the value "fail" fails.
STAGE = """
import argparse, os, pathlib, time
options = argparse.ArgumentParser()
options.add_argument("--name"); options.add_argument("--value"); options.add_argument("--out")
options.add_argument("--meet"); options.add_argument("--sleep", type=float, default=0.0); options.add_argument("--deps", nargs="*", default=[])
given = options.parse_args()
log = pathlib.Path("log"); log.mkdir(exist_ok=True)
began = time.time()
if given.name in ("base", "results"): os.environ.pop("MEET", None)
with (log / f"{given.name}.started").open("a") as file: file.write(f"{os.getpid()}\\n")
until = began + float(os.environ.get("MEET", "0"))  # to show that two run at once: wait until the other has begun
while time.time() < until and not (log / f"{given.meet}.started").exists(): time.sleep(0.05)
if until > began and not (log / f"{given.meet}.started").exists(): raise SystemExit("met nobody")
steps = 4
for step in range(steps):
    time.sleep(given.sleep / steps)
    print(f"{given.name}: {step + 1} of {steps} images")
if given.value == "fail": raise SystemExit("this stage fails")
text = given.value + "".join(pathlib.Path(dep).read_text() for dep in given.deps)
pathlib.Path(given.out).parent.mkdir(exist_ok=True)
pathlib.Path(given.out).write_text(text)
with (log / f"{given.name}.txt").open("a") as file:
    file.write(f"{began} {time.time()} {os.environ['CUDA_VISIBLE_DEVICES']}\\n")
"""

PIPELINE = """
stages:
  base:
    cmd: python stage.py --name base --value ${base} --out data/base
    deps: [stage.py]
    params: [base]
    outs: [data/base]
  train:
    foreach: ${methods}
    do:
      cmd: >-
        python stage.py --name train-${key} --value ${item.lr} --sleep ${item.sleep} --meet train-${item.other}
        --deps data/base --out data/train-${key}
      deps: [stage.py, data/base]
      params: ["methods.${key}.lr", "methods.${key}.sleep"]
      outs: ["data/train-${key}"]
      meta: {gpu: true}
  score:
    foreach: ${methods}
    do:
      cmd: >-
        python stage.py --name score-${key} --value ${item.score} --meet score-${item.other}
        --deps data/train-${key} --out data/score-${key}
      deps: [stage.py, "data/train-${key}"]
      params: ["methods.${key}.score"]
      outs: ["data/score-${key}"]
  results:
    cmd: >-
      python stage.py --name results --value r --deps data/score-a data/score-b --out data/results &&
      python write_results.py
    deps: [stage.py, write_results.py, data/score-a, data/score-b]
    outs: [data/results]
    metrics: [results/metrics.json: {cache: false}]
"""

RESULTS = """
import json, pathlib
text = pathlib.Path("data/score-a").read_text()
value = len(text) / 100
number = {"value": value, "ci_low": value - 0.01, "ci_high": value + 0.01, "n": 100}
pathlib.Path("results").mkdir(exist_ok=True)
pathlib.Path("results/metrics.json").write_text(json.dumps({"a": {"seed_0": {"zero_shot": number}}}))
pathlib.Path("results/table.md").write_text("| defence | value |\\n| --- | --- |\\n| a | 1 |\\n")
"""

PARAMS = """
# a comment that must stay
base: b
methods:
  a: {lr: "0.1", score: x, sleep: 0, other: b}
  b: {lr: "0.2", score: y, sleep: 0, other: a}
flows:
  cron: "0 2 * * *"
  timezone: UTC
  nightly: {targets: [], overrides: []}
  cpu_slots: 2
  keep_workspaces: 2
"""


def make(root: Path) -> Path:
    """The repository, committed, with nothing run yet."""
    root.mkdir(parents=True)
    for name, text in (
        ("stage.py", STAGE),
        ("write_results.py", RESULTS),
        ("dvc.yaml", PIPELINE),
        ("params.yaml", PARAMS),
        (".gitignore", "/data/\n/log/\n/.nearsafe/\n/report/\n/results/table.md\n"),
    ):
        (root / name).write_text(text)
    run(root, "git", "init", "-q", "-b", "main")
    run(root, "git", "config", "user.email", "test@localhost")
    run(root, "git", "config", "user.name", "test")
    dvc(root, "init", "-q")
    dvc(root, "config", "core.analytics", "false")
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-q", "-m", "start")
    return root


def run(root: Path, *command: str) -> str:
    """Output of a command that must work."""
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def dvc(root: Path, *arguments: str) -> str:
    """Output of `dvc`."""
    return run(root, sys.executable, "-m", "dvc", *arguments)


def change(root: Path, name: str, value: object) -> None:
    """Set one parameter, at a dotted name."""
    yaml = YAML()
    values = yaml.load((root / "params.yaml").read_text())
    *parents, last = name.split(".")
    section = values
    for parent in parents:
        section = section[parent]
    section[last] = value
    with (root / "params.yaml").open("w") as file:
        yaml.dump(values, file)


def locked(root: Path) -> dict:
    """What dvc.lock says, whatever its order."""
    return YAML(typ="safe").load((root / "dvc.lock").read_text())


def turns(root: Path, stage: str) -> list[tuple[float, float, str]]:
    """When a stage began and ended, and on which device, each time that it ran."""
    file = root / "log" / f"{stage}.txt"
    rows = [line.split(" ") for line in file.read_text().splitlines()] if file.is_file() else []
    return [(float(began), float(ended), device) for began, ended, device in rows]
