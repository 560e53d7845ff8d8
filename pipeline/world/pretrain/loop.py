"""One resumable training loop for all models of the world: progress, checkpoints by wall time, safetensors."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.world.pretrain.muon import Muon

Step = Callable[[int], dict[str, Tensor]]


@dataclass
class Run:
    """`step(i)` returns named losses, of which `total` is minimised; `i` alone decides its randomness."""

    name: str
    model: nn.Module
    step: Step
    steps: int
    optimizers: list[torch.optim.Optimizer]
    ema: float = 0.0
    average: dict[str, Tensor] = field(default_factory=dict)


def optimizers(model: nn.Module, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    """Muon on hidden matrices and convolutions, AdamW on all else: several times faster here than AdamW alone."""
    plain = ("embed", "position", "conv_in", "conv_out", "class", "logit", "head")
    hidden = [p for n, p in model.named_parameters() if p.ndim in (2, 4) and not any(word in n for word in plain)]
    known = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in known]
    return [Muon(hidden, lr=muon_lr), torch.optim.AdamW(rest, lr=adam_lr, weight_decay=0.0)]


def fit(run: Run, folder: Path, checkpoint_seconds: float = 45, log_every: int = 20) -> nn.Module:
    """Train to `run.steps`, resuming from `folder`; returns the model (with averaged weights where `ema` is set).

    Raises FloatingPointError naming the run, the step and the loss that is not finite.
    """
    checkpoint = folder / f"{run.name}.safetensors"
    first = restore(run, checkpoint)
    base = [[group["lr"] for group in o.param_groups] for o in run.optimizers]
    saved, started = time.monotonic(), time.monotonic()
    run.model.train()
    for i in range(first, run.steps):
        scale = schedule(i, run.steps)
        for optimizer, rates in zip(run.optimizers, base, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale
        losses = run.step(i)
        if bad := [name for name, value in losses.items() if not torch.isfinite(value)]:
            raise FloatingPointError(f"{run.name}: step {i}: {', '.join(bad)} is not finite")
        losses["total"].backward()
        for optimizer in run.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        update_average(run, i)
        if i % log_every == 0 or i + 1 == run.steps:
            pace = (time.monotonic() - started) / (i + 1 - first)
            print(
                f"{run.name} {i + 1}/{run.steps} "
                + " ".join(f"{k} {v.item():.4f}" for k, v in losses.items())
                + f" · {pace:.2f} s/step, {pace * (run.steps - i - 1) / 60:.0f} min left",
                flush=True,
            )
        if time.monotonic() - saved > checkpoint_seconds or i + 1 == run.steps:
            save(run, checkpoint, i + 1)
            saved = time.monotonic()
    if run.average:
        run.model.load_state_dict(run.average)
    return run.model.eval()


def schedule(i: int, steps: int) -> float:
    """Warm-up over 3 % of the steps, then a linear way down to 2 %."""
    return min(1.0, (i + 1) / max(1, 0.03 * steps)) * max(0.02, 1 - i / steps)


def update_average(run: Run, i: int) -> None:
    """Moving average of the weights, with a short memory while the run is young."""
    if not run.ema:
        return
    decay = min(run.ema, (1 + i) / (10 + i))
    locked = {name for name, value in run.model.named_parameters() if not value.requires_grad}
    with torch.no_grad():
        for name, value in run.model.state_dict().items():
            if name not in run.average or name in locked or not value.is_floating_point():
                run.average[name] = value.detach().clone()
            else:
                run.average[name].lerp_(value, 1 - decay)


def optimizer_tensors(optimizers: Iterable[torch.optim.Optimizer]) -> dict[str, Tensor]:
    return {
        f"optimizer.{k}.{index}.{name}": torch.as_tensor(value)
        for k, optimizer in enumerate(optimizers)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def save(run: Run, path: Path, step: int) -> None:
    """Everything a resumed run needs, by one atomic rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{k}": v.contiguous() for k, v in run.model.state_dict().items()}
    tensors |= {f"average.{k}": v.contiguous() for k, v in run.average.items()} | optimizer_tensors(run.optimizers)
    part = path.with_suffix(".part")
    save_file({k: v.clone() for k, v in tensors.items()}, part, metadata={"step": str(step)})
    part.replace(path)


def restore(run: Run, path: Path) -> int:
    """Load the newest checkpoint into `run`; returns the step to go on with."""
    if not path.exists():
        return 0
    tensors = load_file(path)
    run.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    device = next(run.model.parameters()).device
    run.average = {k[8:]: v.to(device) for k, v in tensors.items() if k.startswith("average.")}
    for k, optimizer in enumerate(run.optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimizer.{k}."):
                index, name = key.removeprefix(f"optimizer.{k}.").split(".", 1)
                state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    step = read_step(path)
    print(f"{run.name}: going on at step {step} of {run.steps}", flush=True)
    return step


def read_step(path: Path) -> int:
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])
