"""The hash of named tensors: what a file that holds them must still have when it is read again."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def tensors_hash(tensors: Iterable[tuple[str, Tensor]], *texts: str) -> str:
    """SHA-256, 64 hexadecimal digits, of names, dtypes, shapes and bytes in the order given, and of texts."""
    digest = hashlib.sha256("\0".join(texts).encode())
    for name, tensor in tensors:
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
