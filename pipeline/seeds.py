"""Randomness derived from names, never drawn in sequence: order, batches and resume points cannot change a result."""

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(root: int, *names: str) -> int:
    """A 63-bit seed for `names` under the root seed: the same names give the same seed on every machine."""
    digest = hashlib.sha256(json.dumps([root, *names], ensure_ascii=False).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(root: int, *names: str) -> "torch.Generator":
    """A CPU generator seeded by `derive`; draw on the CPU and move, so that a device cannot change the numbers."""
    import torch  # takes seconds; most stages that derive seeds need none of it

    return torch.Generator(device="cpu").manual_seed(derive(root, *names))


def rng(root: int, *names: str) -> np.random.Generator:
    """A NumPy generator (PCG64) seeded by `derive`."""
    return np.random.default_rng(derive(root, *names))
