"""Device and number format of a computation, each with the reason to print."""

from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp32"]


def pick_device() -> tuple[torch.device, str]:
    """The first visible CUDA device, else the CPU, and the reason in words."""
    if torch.cuda.is_available():
        return torch.device("cuda"), f"device cuda: {torch.cuda.get_device_name()}"
    return torch.device("cpu"), f"device cpu: no CUDA device is visible; {torch.get_num_threads()} threads"


def pick_precision(precision: Precision, device: torch.device) -> tuple[torch.dtype, str]:
    """The dtype of the forward passes (parameters stay float32), and the reason in words.

    "auto" takes bfloat16 only where the hardware computes it: elsewhere autocast is slower than float32.
    """
    if precision != "auto":
        return (torch.bfloat16 if precision == "bf16" else torch.float32), f"precision {precision}: as configured"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "precision bf16: the GPU computes it"
        return torch.float32, "precision fp32: the GPU does not compute bf16"
    able = torch.cpu.get_capabilities()
    if able.get("avx512_bf16") or able.get("amx_bf16"):
        return torch.bfloat16, "precision bf16: the CPU computes it (avx512_bf16 or amx)"
    return torch.float32, "precision fp32: the CPU does not compute bf16 (no avx512_bf16 or amx)"
