"""The speed-ups that are built in, measured side by side on this machine.

python -m pipeline.bench [--only training mining] [--device cpu] [--repeats 7] [--out data/bench]

Each line runs a plain way and the built-in way in turns, so that other load on the machine meets both alike, and
prints the median of the ratios of each turn with the lowest and the highest. Trust ratios, not seconds. The files of
`pipeline/benchmarks/` say what is compared: each has `comparisons()`, which may take `params`, `depth` and `full`.
Where a line counts its floating-point operations, their share of the device's own matrix product is given, measured
here, in the same number format. Memory is the most that the built-in way took beyond what was there before it.
Files that have `growths()` are also timed at N, 2N, 4N and 8N. `--out` keeps ratios.parquet and growth.parquet;
`python -m pipeline.bench_page FOLDER` takes them into docs/benchmarks.md.
"""

import argparse
import importlib
import inspect
import os
import pkgutil
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

import pipeline.benchmarks
from pipeline.bench_growth import describe_growth, growths_of, measure_growth
from pipeline.bench_page import write
from pipeline.bench_timing import extra_memory, matmul_rate, seconds
from pipeline.errors import NearsafeError, run
from pipeline.params import DEFAULT_FILE
from pipeline.precision import pick_device


@dataclass(frozen=True)
class Comparison:
    """Two ways to the same result: `plain` and `built_in`, each a call without arguments.

    `count` things of `unit` are done in one call, and give rates. `flops`: floating-point operations of a call of
    `built_in`, in `dtype`. `turns`: at most so many, for calls that take minutes.
    """

    title: str
    plain: Callable[[], object]
    built_in: Callable[[], object]
    count: float = 0
    unit: str = ""
    flops: float = 0
    dtype: torch.dtype = torch.float32
    turns: int | None = None


def main(
    params: Path,
    repeats: int,
    only: Sequence[str] | None,
    device: Literal["auto", "cpu", "cuda"],
    out: Path | None,
    depth: int | None,
    full: bool,
) -> None:
    """Print one line per comparison and size; write what was measured to `out`. Raises NearsafeError."""
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when torch first looks for one
    if device == "cuda" and not torch.cuda.is_available():
        raise NearsafeError("--device cuda: no CUDA device is visible")
    facts = {"machine": machine(), "date": f"{datetime.now(UTC):%Y-%m-%d}", "command": _command()}
    print(f"{facts['machine']}; speed-up = plain / built-in", flush=True)
    ratios: list[dict[str, Any]] = []
    growing: list[dict[str, Any]] = []
    for name, module in benchmarks(only).items():
        for comparison in comparisons_of(module, params=params, depth=depth, full=full):
            ratios.append({"benchmark": name, **measure(comparison, repeats), **facts})
            print(describe(ratios[-1]), flush=True)
            if out is not None:  # after every line: a run of hours that is stopped leaves what it has measured
                write(out, ratios, growing)
        for growth in growths_of(module):
            rows = [{"benchmark": name, **row, **facts} for row in measure_growth(growth, repeats)]
            print(*map(describe_growth, rows), sep="\n", flush=True)
            growing.extend(rows)
            if out is not None:
                write(out, ratios, growing)


def benchmarks(only: Sequence[str] | None = None) -> dict[str, ModuleType]:
    """The modules of `pipeline/benchmarks` by name. Raises NearsafeError listing the known ones for an unknown name."""
    known = sorted(module.name for module in pkgutil.iter_modules(pipeline.benchmarks.__path__))
    if unknown := [name for name in only or () if name not in known]:
        raise NearsafeError(f"--only: unknown benchmark {unknown[0]!r}; known: {', '.join(known)}")
    return {name: importlib.import_module(f"pipeline.benchmarks.{name}") for name in only or known}


def comparisons_of(module: ModuleType, **options: Any) -> Iterable[Comparison]:
    """What a module compares; it gets those of the options that its `comparisons` takes."""
    if not hasattr(module, "comparisons"):
        return ()
    taken = inspect.signature(module.comparisons).parameters
    return module.comparisons(**{name: value for name, value in options.items() if name in taken})


def measure(comparison: Comparison, repeats: int) -> dict[str, Any]:
    """Time both ways in turns: columns of a row, seconds being medians.

    There is one warm-up each before several turns, and none before a single one, which then takes minutes.
    """
    turns = min(repeats, comparison.turns or repeats)
    taken: list[tuple[float, float]] = []
    if turns > 1:
        comparison.plain()
        extra = extra_memory(comparison.built_in)
        taken.extend((seconds(comparison.plain), seconds(comparison.built_in)) for _ in range(turns))
    else:
        first, second = seconds(comparison.plain), []
        extra = extra_memory(lambda: second.append(seconds(comparison.built_in)))
        taken.append((first, second[0]))
    ratios = [plain / built_in for plain, built_in in taken]
    plain, built_in = (statistics.median(column) for column in zip(*taken, strict=True))
    device = pick_device()[0]
    rate = comparison.flops / built_in if comparison.flops else None
    return {
        "title": comparison.title, "device": device.type, "turns": turns,
        "speed_up": statistics.median(ratios), "speed_up_low": min(ratios), "speed_up_high": max(ratios),
        "plain_seconds": plain, "built_in_seconds": built_in, "unit": comparison.unit or None,
        "plain_rate": comparison.count / plain if comparison.count else None,
        "built_in_rate": comparison.count / built_in if comparison.count else None,
        "share_of_matmul": rate / matmul_rate(device, comparison.dtype) if rate else None, "extra_mib": extra,
    }  # fmt: skip


def describe(row: dict[str, Any]) -> str:
    """One line of a row."""
    spread = f"{row['speed_up_low']:.2f} to {row['speed_up_high']:.2f}"
    parts = [f"{row['plain_seconds'] * 1e3:.0f} ms against {row['built_in_seconds'] * 1e3:.0f} ms"]
    if row["unit"]:
        parts.append(f"{row['plain_rate']:.3g} against {row['built_in_rate']:.3g} {row['unit']}/s")
    if row["share_of_matmul"]:
        parts.append(f"{row['share_of_matmul']:.0%} of the matrix rate")
    parts.append(f"{row['extra_mib']:.0f} MiB more")
    return f"{row['title']}: {row['speed_up']:.2f}x ({spread}); {'; '.join(parts)}"


def machine() -> str:
    """Processor, threads, GPU and torch of this machine, in words."""
    name = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} cores{gpu}, torch {torch.__version__}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--params", type=Path, default=DEFAULT_FILE, help="names the models whose shapes are used")
    arguments.add_argument("--repeats", type=int, default=7, help="turns per comparison (%(default)s)")
    arguments.add_argument("--only", nargs="+", metavar="NAME", help="files of pipeline/benchmarks; default: all")
    arguments.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    arguments.add_argument("--out", type=Path, help="folder for ratios.parquet and growth.parquet")
    arguments.add_argument("--depth", type=int, help="layers of the random CLIP; default: those of its true size")
    arguments.add_argument("--full", action="store_true", help="also sizes that take most of an hour")
    return arguments


def _command() -> str:
    return " ".join(["python -m pipeline.bench", *sys.argv[1:]])


if __name__ == "__main__":
    run(main, parser())
