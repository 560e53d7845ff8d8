"""Proximal targets of training pairs: which safe caption of the pool is nearest to each unsafe one."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import NearsafeError
from pipeline.mining import nearest
from pipeline.precision import pick_device
from pipeline.tables import read_output
from pipeline.vectors import Vectors

TRAIN_SPLIT = "train"


@dataclass(frozen=True)
class MineParams:
    """`k` targets a pair; `chunk` rows of queries and pool at a time (memory grows with its square, results do not)."""

    k: int
    chunk: int


def pairs_of(pairs: pa.Table, split: str) -> pa.Table:
    """The pairs of a split, in their order; none in a world that is only measured on."""
    return pairs.filter(pc.equal(pairs.column("split"), split))


def training_pairs(world: Path) -> pa.Table:
    """The pairs to train on, in order of their ids. Raises NearsafeError, saying what to do, where there is none."""
    found = pairs_of(read_output(world, "pairs", allow_empty=True), TRAIN_SPLIT)
    if not found.num_rows:
        raise no_training_pairs(world)
    return found.sort_by("pair_id")


def no_training_pairs(world: Path) -> NearsafeError:
    """Why nothing can be trained."""
    return NearsafeError(
        f"{world}: column 'split': no pair of split {TRAIN_SPLIT!r}: add a source that has some (section `sources`), "
        "or keep only original and imported defences (section `defences`): they train nothing"
    )


def mining_pool(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The pool that targets come from: distinct safe captions of (pair id, safe caption id), in order of pair ids.

    Each caption stands for the pair of lowest id that has it.
    """
    pool: dict[str, str] = {}
    for pair, caption in sorted(pairs):
        pool.setdefault(caption, pair)
    return pool


def mine_targets(pairs: pa.Table, text: Vectors, params: MineParams) -> dict[str, np.ndarray | list[str]]:
    """Columns of the targets table: for each training pair its k nearest safe captions, rank 0 nearest.

    The pool is every distinct safe caption of the training split, its own included (safer_clip.md section 3), each
    standing for the pair of lowest id that has it, in order of pair ids: a tie goes to the lowest id. The space is the
    frozen text tower's. No rows where there is no training pair. Raises NearsafeError when the pool is smaller than k.
    """
    pairs = pairs_of(pairs, TRAIN_SPLIT).sort_by("pair_id")
    ids, safe = pairs.column("pair_id").to_pylist(), pairs.column("safe_caption_id").to_pylist()
    pool = mining_pool(zip(ids, safe, strict=True))
    if not ids:
        return {name: [] for name in ("pair_id", "rank", "target_pair_id", "cosine", "cosine_given")}
    if not 1 <= params.k <= len(pool):
        raise NearsafeError(f"mine_pairs.k: expected 1 to {len(pool)}, the safe captions of the pool, got {params.k}")
    unsafe, given = text.of(pairs.column("unsafe_caption_id").to_pylist()), text.of(safe)
    device, _ = pick_device()  # the same result on any
    index, cosine = nearest(unsafe.to(device), text.of(list(pool)).to(device), params.k, chunk=params.chunk)
    owners = np.array(list(pool.values()), dtype=object)
    cosine_given = (unsafe.double() * given.double()).sum(1).float().numpy()
    return {
        "pair_id": [pair for pair in ids for _ in range(params.k)],
        "rank": np.tile(np.arange(params.k, dtype=np.int32), len(ids)),
        "target_pair_id": owners[index.numpy().ravel()].tolist(),
        "cosine": cosine.numpy().ravel(),
        "cosine_given": np.repeat(cosine_given, params.k),
    }
