"""Every stage of dvc.yaml in one process, in an order drawn with a seed.  python -P tests/faults/chain.py SEED

Called in a clone (`tests.faults.workspace`), with the clone first on the path. What an order may not change is changed
as well: the state of every global generator, and of every stage that ran before in this process.
"""

import random
import re
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML

from pipeline.errors import run
from pipeline.params import load


def commands(root: Path) -> dict[str, tuple[str, list[str], list[str]]]:
    """Stage -> its command, what it reads and what it writes, as dvc.yaml has them."""
    found, params = {}, load(root / "params.yaml")

    def filled(text: str, key: str, item: Any) -> str:
        def value(match: re.Match[str]) -> str:
            node: Any = {**params, "key": key, "item": item}
            for name in match[1].split("."):
                node = node[name]
            return str(node)

        return re.sub(r"\$\{([\w.]+)\}", value, text)

    for name, stage in YAML().load(root / "dvc.yaml")["stages"].items():
        entries = params[stage["foreach"][2:-1]] if "foreach" in stage else {"": None}
        what = stage["do"] if "foreach" in stage else stage
        written = [*what["outs"], *what.get("metrics", [])]
        outs = [next(iter(out)) if isinstance(out, dict) else out for out in written]
        for key, item in entries.items():
            words = [[filled(text, key, item) for text in texts] for texts in (what["deps"], outs)]
            found[f"{name}@{key}" if key else name] = filled(what["cmd"], key, item), *words
    return found


def order(stages: dict[str, tuple[str, list[str], list[str]]], draw: random.Random) -> Iterator[str]:
    """The stages, each after all those whose outputs it reads, otherwise as drawn."""
    left = dict(stages)
    while left:
        wanted = {out for _, _, outs in left.values() for out in outs}
        ready = [
            name
            for name, (_, deps, _) in left.items()
            if not any(f"{out}/".startswith(f"{dep}/") or dep.startswith(f"{out}/") for dep in deps for out in wanted)
        ]
        name = draw.choice(sorted(ready))
        yield name
        del left[name]


def main(seed: int) -> None:
    draw, stages = random.Random(seed), commands(Path())
    for name in order(stages, draw):
        _, module, *words = shlex.split(stages[name][0])[1:]
        random.seed(draw.random())
        np.random.seed(draw.randrange(2**32))
        torch.manual_seed(draw.randrange(2**32))
        print(name, flush=True)
        stage = import_module(module)
        run(stage.main, stage.parser(), words)


if __name__ == "__main__":
    main(int(sys.argv[1]))
