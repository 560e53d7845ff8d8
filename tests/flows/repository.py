"""A small repository with real DVC stages: quick commands in place of models."""

import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from tests.dvc_folder import initialise

# A stage writes its value and those of what it needs; the value "fail" fails. It logs the device of every run. Where
# the environment has MEET (seconds), it waits until the stage `--meet` has begun, and fails if that never does.
STAGE = """
import argparse, os, pathlib, time
options = argparse.ArgumentParser()
for name in ("--name", "--value", "--out", "--meet"): options.add_argument(name)
options.add_argument("--sleep", type=float, default=0.0)
options.add_argument("--deps", nargs="*", default=[])
given = options.parse_args()
log = pathlib.Path("log")
log.mkdir(exist_ok=True)
(log / f"{given.name}.started").write_text(str(os.getpid()))
until = time.monotonic() + float(os.environ.get("MEET", "0"))
while "MEET" in os.environ and given.meet and not (log / f"{given.meet}.started").exists():
    if time.monotonic() > until: raise SystemExit(f"{given.meet} does not run at the same time")
    time.sleep(0.05)
for step in range(4):
    time.sleep(given.sleep / 4)
    print(f"{given.name}: {step + 1} of 4 images")
if given.value == "fail": raise SystemExit("this stage fails")
pathlib.Path(given.out).parent.mkdir(exist_ok=True)
pathlib.Path(given.out).write_text(given.value + "".join(pathlib.Path(dep).read_text() for dep in given.deps))
with (log / f"{given.name}.txt").open("a") as file:
    print(os.environ.get("CUDA_VISIBLE_DEVICES", "all"), file=file)
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
    initialise(root, git=True)
    run(root, "git", "config", "user.email", "test@localhost")
    run(root, "git", "config", "user.name", "test")
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


def devices(root: Path, stage: str) -> list[str]:
    """The devices of a stage, one for each time that it ran."""
    file = root / "log" / f"{stage.replace('@', '-')}.txt"
    return file.read_text().splitlines() if file.is_file() else []
