"""Embeddings by item id, from the tables of the `embed` stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from pipeline.errors import NearsafeError, TableError
from pipeline.tables import read_output


@dataclass(frozen=True)
class Vectors:
    """Embeddings of one modality: rows of `values` (N, D) float32, normalised, by item id."""

    row: dict[str, int]
    values: Tensor
    model_hash: str
    path: Path

    def of(self, ids: Sequence[str]) -> Tensor:
        """Embeddings (len(ids), D). Raises TableError naming the first id that has none."""
        try:
            return self.values[torch.tensor([self.row[item] for item in ids], dtype=torch.int64)]
        except KeyError as error:
            raise TableError(f"{self.path}: no embedding of item {error.args[0]!r}: is it stale?") from None


def read_vectors(path: Path) -> tuple[Vectors, Vectors]:
    """Text and image embeddings of an `embed` output. Raises TableError as `read_output` does."""
    table = read_output(path, "embeddings")
    model_hash = (table.schema.metadata or {}).get(b"model_hash", b"").decode()
    return _modality(table, "text", model_hash, path), _modality(table, "image", model_hash, path)


def normalise(vectors: Tensor, ids: Sequence[str], where: str) -> Tensor:
    """Rows of unit length (N, D) float32. Raises NearsafeError naming `where` and the first item that has none."""
    lengths = vectors.double().norm(dim=1)
    bad = torch.nonzero(~torch.isfinite(lengths) | (lengths == 0)).flatten()
    if len(bad):
        raise NearsafeError(f"{where}: the embedding of item {ids[int(bad[0])]!r} is NaN, infinite or zero")
    return (vectors.double() / lengths[:, None]).float()


def _modality(table: pa.Table, modality: str, model_hash: str, path: Path) -> Vectors:
    found = table.filter(pc.equal(table.column("modality"), modality))
    ids = found.column("item_id").to_pylist()
    column = found.column("vector").combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(ids), -1 if ids else 0)
    tensor = torch.from_numpy(np.array(values, dtype=np.float32))
    return Vectors({item: i for i, item in enumerate(ids)}, tensor, model_hash, Path(path))
