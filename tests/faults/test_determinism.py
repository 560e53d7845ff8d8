"""Same seed, same machine: every stage of dvc.yaml leaves the same bytes, twice, in any order.

How many workers: `test_order.py` and `tests/test_compute.py`. A stop in between: `test_kill_*.py`.
"""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.child import environment
from tests.faults import workspace
from tests.faults.chain import commands, order
from tests.faults.record import record

CHAIN = Path(__file__).with_name("chain.py")
DEFENCES = ("nearsafe", "des")
FOLDERS = ("data", "results", "report")
VARIES = "results/results.duckdb"  # views without a row, left out of DVC too: see dvc.yaml


def clone(root: Path) -> Path:
    workspace.make(root)
    yaml = YAML()
    whole, params = yaml.load(workspace.ROOT / "params.yaml"), yaml.load(root / "params.yaml")
    params["defences"] = {name: whole["defences"][name] for name in DEFENCES}
    yaml.dump(params, root / "params.yaml")
    return root


def start(root: Path, seed: int) -> subprocess.Popen:
    """Every stage in an order of its own; strings hash otherwise, and it is elsewhere in the world."""
    env = {
        **environment(), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(seed),
        "TZ": ("UTC", "Asia/Tokyo")[seed % 2], "LC_ALL": ("C.UTF-8", "C")[seed % 2],
    }  # fmt: skip
    with workspace.said(root).open("w") as out:
        return subprocess.Popen(
            [sys.executable, "-P", str(CHAIN), str(seed)], cwd=root, env=env, stdout=out, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip


def made(root: Path) -> dict[str, str]:
    """Hash of every file that the stages left."""
    found = {f"{folder}/{name}": digest for folder in FOLDERS for name, digest in workspace.tree(root / folder).items()}
    return {name: digest for name, digest in found.items() if name != VARIES}


@pytest.mark.faults
def test_every_stage_leaves_the_same_bytes_twice_in_any_order(tmp_path):
    roots = [clone(tmp_path / name) for name in ("one", "two")]
    running = [start(root, seed) for seed, root in enumerate(roots)]
    for root, process in zip(roots, running, strict=True):
        assert process.wait() == 0, workspace.said(root).read_text()[-3000:]
    stages = commands(roots[0])
    ran = [[line for line in workspace.said(root).read_text().splitlines() if line in stages] for root in roots]
    assert ran[0] != ran[1] and sorted(ran[0]) == sorted(ran[1]) == sorted(stages), "another order"
    one, two = map(made, roots)
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    for name, (_, _, outs) in stages.items():
        assert all((roots[0] / out).exists() for out in outs), name
    assert {f"data/checkpoints/{name}/seed-0/model.safetensors" for name in DEFENCES} <= one.keys()
    record(
        "every stage twice, in another order, process and locale", len(ran[0]), len(ran[0]), f"{len(one)} files equal"
    )


@pytest.mark.faults
def test_orders_keep_to_what_a_stage_reads():
    stages = commands(workspace.ROOT)
    for seed in range(20):
        there: set[str] = set()
        for name in order(stages, random.Random(seed)):
            made = {out for _, _, outs in stages.values() for out in outs}
            needed = {out for out in made for dep in stages[name][1] if out == dep or out.startswith(f"{dep}/")}
            assert needed <= there, name
            there |= set(stages[name][2])
    assert {"world", "train@des", "report"} <= stages.keys()
