"""The root seed and the training seeds of a run, as every stage that works per training seed reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.params import build, load


@dataclass(frozen=True)
class Seeds:
    """`seed`: root of all randomness; `seeds`: the training seeds, each a checkpoint."""

    seed: int
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: expected one or more different integers, got {list(self.seeds)}")


def read_seeds(params: Path, only: Sequence[int] | None = None) -> Seeds:
    """`seed` and `seeds` of a parameter file; `only` replaces the training seeds. Raises NearsafeError."""
    values = load(params)
    found = {key: values[key] for key in ("seed", "seeds") if key in values}
    return build(Seeds, {**found, "seeds": list(only)} if only else found, str(params))
