"""Device, number format, attention and compilation of a computation, each with the reason to print."""

from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp32"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Attention = Literal["auto", "eager", "sdpa"]
Compile = Literal["auto", "on", "off"]

_COMPILE_PAYS = 500  # steps; our choice: compiling takes about as long as some hundred steps of a large model


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


def pick_attention(
    attention: Attention, device: torch.device, dtype: torch.dtype
) -> tuple[Literal["eager", "sdpa"], str]:
    """How attention is computed, and the reason in words.

    "auto" is a rule, not a measurement at the start: two starts must train alike. CLIP's sequences are short (50 to 577
    tokens): in bfloat16 on a CPU the fused kernel lost by measurement; elsewhere it is the library's choice.
    """
    if attention != "auto":
        return attention, f"attention {attention}: as configured"
    if device.type == "cpu" and dtype == torch.bfloat16:
        return "eager", "attention eager: faster than sdpa in bf16 on a CPU"
    return "sdpa", f"attention sdpa: the library's fused kernels on {device.type}"


def pick_compile(choice: Compile, device: torch.device, steps: int) -> tuple[bool, str]:
    """Whether the towers are compiled for a training of so many steps, and the reason in words."""
    if choice != "auto":
        return choice == "on", f"compile {choice}: as configured"
    if device.type != "cuda":
        return False, "compile off: it pays on CUDA alone"
    if steps < _COMPILE_PAYS:
        return False, f"compile off: {steps} steps are too few to pay for it, {_COMPILE_PAYS} are enough"
    return True, f"compile on: {steps} steps on CUDA"
