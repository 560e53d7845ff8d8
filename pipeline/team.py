"""Several processes that train one model together: one a GPU, or several on a CPU. Communication is `accelerate`'s.

Each process encodes its share of a batch; embeddings are gathered, so that every process computes the loss of the whole
batch (contrastive terms see all of it) and takes the gradient of its own share. The processes are started by the stage,
which stays one command.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes

from pipeline.errors import NearsafeError
from pipeline.memory import OutOfMemory

# The processes are on one machine: no other may connect. They find each other through a file, not a port.
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_MEETING = "meeting"


@dataclass(frozen=True)
class Team:
    """This process among `size`; `device` is its own."""

    rank: int
    size: int
    device: torch.device

    def share(self, rows: Tensor) -> Tensor:
        """This process's rows of a batch (B,). All shares are of one size: the last row is repeated to fill them."""
        each = -(-len(rows) // self.size)
        filled = torch.cat([rows, rows[-1:].expand(each * self.size - len(rows))])
        return filled[self.rank * each : (self.rank + 1) * each]

    def gather(self, share: Tensor, count: int) -> Tensor:
        """The first `count` rows of all shares (b, ...), in order; without gradient."""
        from accelerate.utils import gather

        return gather(share.contiguous())[:count]

    def first(self, value: Tensor) -> Tensor:
        """The first process's value, in a tensor that has its shape everywhere."""
        from accelerate.utils import broadcast

        return broadcast(value.contiguous())

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes, in one exchange."""
        from accelerate.utils import reduce

        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        total = reduce(torch.cat([gradient.flatten() for gradient in gradients]), reduction="sum")
        for gradient, part in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def team_size(processes: int | Literal["auto"], device: torch.device) -> tuple[int, str]:
    """How many processes train, and the reason in words.

    "auto" is one for each visible GPU, and one on a CPU. Raises NearsafeError for more than there are GPUs.
    """
    visible = torch.cuda.device_count() if device.type == "cuda" else None
    if processes == "auto":
        return (visible, f"{visible} processes: one a GPU") if visible else (1, "1 process: no CUDA device")
    if visible is not None and processes > visible:
        raise NearsafeError(f"train.processes: {processes} processes, {visible} GPUs are visible")
    return processes, f"{processes} processes: as configured"


def launch(size: int, device: torch.device, work: Callable[..., None], *arguments: Any) -> None:
    """Run `work(team, *arguments)` in `size` new processes and wait for all.

    `work` and its arguments must be picklable. One that fails ends the others. Raises NearsafeError: that of a process
    that raised one (OutOfMemory where that was its), or else one that says which process ended how.
    """
    with tempfile.TemporaryDirectory() as folder:
        plan = (size, device.type, max(1, torch.get_num_threads() // size), Path(folder))
        context = start_processes(_enter, (plan, work, arguments), size, join=False, start_method="spawn")
        try:
            while not context.join():
                pass
        except (ProcessRaisedException, ProcessExitedException) as error:
            kind = OutOfMemory if any(Path(folder).glob("*.memory")) else NearsafeError
            raise kind(_reason(error, Path(folder), size)) from None
        finally:
            for process in context.processes:
                if process.is_alive():
                    process.kill()
                process.join()


def _enter(rank: int, plan: tuple, work: Callable[..., None], arguments: tuple) -> None:
    size, kind, threads, folder = plan
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
        "GLOO_SOCKET_IFNAME": _LOOPBACK, "NCCL_SOCKET_IFNAME": _LOOPBACK, "OMP_NUM_THREADS": str(threads),
    }  # fmt: skip
    from accelerate import PartialState

    torch.set_num_threads(threads)
    meeting = {"init_method": f"file://{folder / _MEETING}", "rank": rank, "world_size": size}
    state = PartialState(cpu=kind == "cpu", **meeting, **({"backend": "gloo"} if kind == "cpu" else {}))
    try:
        work(Team(rank, size, state.device), *arguments)
    except NearsafeError as error:
        name = f"{rank}.memory" if isinstance(error, OutOfMemory) else str(rank)
        (folder / name).write_text(str(error), encoding="utf-8")
        raise SystemExit(2) from None
    state.destroy_process_group()


def _reason(error: ProcessRaisedException | ProcessExitedException, folder: Path, size: int) -> str:
    """One line: what a process said, or how the first one that was seen to end did."""
    if said := sorted(file for file in folder.iterdir() if file.name != _MEETING):
        return said[0].read_text(encoding="utf-8")
    if isinstance(error, ProcessExitedException):
        how = f"by {signal.Signals(-error.exit_code).name}" if error.exit_code < 0 else f"with status {error.exit_code}"
    else:
        how = str(error).strip().splitlines()[-1]
    return (
        f"process {error.error_index} of {size} (counted from 0) ended: {how}; the last checkpoint is kept, run "
        "again to continue from it"
    )
