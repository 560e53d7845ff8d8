"""docs/benchmarks.md: measured figures in tables, made from Parquet.

python -m pipeline.bench_page [data/bench] [--log data]

The figures lie in docs/benchmarks/ beside the page. Rows of the folders named replace those of the same machine and
line; without a folder the page is only written anew. `--log` takes in what the pipeline's stages took on this machine,
from the log of runs below that folder.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.bench_stages import stage_rows
from pipeline.errors import NearsafeError, run
from pipeline.results.page import fill_file

PAGE, KEPT = Path("docs/benchmarks.md"), Path("docs/benchmarks")
_RATIOS = pa.schema([
    ("benchmark", pa.string()), ("title", pa.string()), ("device", pa.string()), ("turns", pa.int32()),
    ("speed_up", pa.float64()), ("speed_up_low", pa.float64()), ("speed_up_high", pa.float64()),
    ("plain_seconds", pa.float64()), ("built_in_seconds", pa.float64()),
    ("unit", pa.string()), ("plain_rate", pa.float64()), ("built_in_rate", pa.float64()),
    ("share_of_matmul", pa.float64()), ("extra_mib", pa.float64()),
    ("machine", pa.string()), ("date", pa.string()), ("command", pa.string()),
])  # fmt: skip
_GROWTH = pa.schema([
    ("benchmark", pa.string()), ("title", pa.string()), ("device", pa.string()), ("turns", pa.int32()),
    ("n", pa.int64()), ("unit", pa.string()), ("seconds", pa.float64()), ("rate", pa.float64()),
    ("exponent", pa.float64()), ("extra_mib", pa.float64()),
    ("machine", pa.string()), ("date", pa.string()), ("command", pa.string()),
])  # fmt: skip
_STAGES = pa.schema([
    ("title", pa.string()), ("n", pa.int64()), ("seconds", pa.float64()),
    ("total_seconds", pa.float64()), ("peak_mib", pa.float64()),
    ("machine", pa.string()), ("date", pa.string()), ("command", pa.string()),
])  # fmt: skip
COLUMNS = {"ratios": _RATIOS, "growth": _GROWTH, "stages": _STAGES}
_KEY = {
    "ratios": ("machine", "device", "benchmark", "title"), "growth": ("machine", "device", "benchmark", "title", "n"),
    "stages": ("machine", "title"),
}  # fmt: skip
Rows = Sequence[Mapping[str, Any]]


def main(folders: Sequence[Path], page: Path, kept: Path, log: Path | None = None) -> None:
    """Take the folders' rows in, and the log's, and write the page. Raises NearsafeError naming a file that is no such
    table.
    """
    tables = {}
    for name, key in _KEY.items():
        rows = [row for folder in (kept, *folders) for row in read(folder, name)]
        if log is not None and name == "stages":
            from pipeline.bench import machine

            rows += stage_rows(log, machine())
        known = {tuple(row[part] for part in key): row for row in rows}
        tables[name] = sorted(known.values(), key=lambda row: tuple(row[part] for part in key))
    write(kept, **tables)
    fill_file(page, blocks(tables), COLUMNS)


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one of the tables in a folder; none where it has no such file. Raises NearsafeError."""
    file = folder / f"{name}.parquet"
    if not file.is_file():
        return []
    try:
        return pq.read_table(file, schema=COLUMNS[name]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise NearsafeError(f"{file}: no table of `make bench`: {error}") from error


def write(out: Path, ratios: Rows, growth: Rows, stages: Rows = ()) -> None:
    """The tables as files of a folder, each atomically; a table without rows makes no file."""
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("ratios", ratios), ("growth", growth), ("stages", stages)):
        if rows:
            temporary = out / f".{name}.parquet.tmp"
            pq.write_table(pa.Table.from_pylist(list(rows), COLUMNS[name]), temporary)
            temporary.replace(out / f"{name}.parquet")


def blocks(tables: Mapping[str, Rows]) -> dict[str, str]:
    """The Markdown of the tables, a part per machine and day."""
    return {
        "ratios": _parts(tables["ratios"], (
            "work (plain / built in)", "device", "plain", "built in", "speed-up, median (range)", "rate",
            "of matrix rate", "memory"), _ratio),
        "growth": _parts(tables["growth"], (
            "work", "device", "N", "time, median", "rate", "grows from half of it", "memory"), _grown),
        "stages": _parts(sorted(tables["stages"], key=lambda row: -row["total_seconds"]), (
            "stage", "runs", "time, median", "time, all", "peak memory, most"), _stage),
    }  # fmt: skip


def _parts(rows: Rows, titles: Sequence[str], cells: Any) -> str:
    lines: list[str] = []
    by_place = lambda row: (row["date"], row["machine"])  # noqa: E731
    for (date, machine), found in groupby(sorted(rows, key=by_place), by_place):
        own = list(found)
        lines += [f"### {date}, {machine}", "", *sorted({f"`{row['command']}`  " for row in own}), ""]
        lines += [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
        lines += [f"| {' | '.join(cells(row))} |" for row in own] + [""]
    return "\n".join(lines)


def _ratio(row: Mapping[str, Any]) -> list[str]:
    return [
        row["title"], row["device"], _time(row["plain_seconds"]), _time(row["built_in_seconds"]),
        f"{row['speed_up']:.2f}x ({row['speed_up_low']:.2f} to {row['speed_up_high']:.2f}, {row['turns']} turns)",
        f"{row['built_in_rate']:.3g} {row['unit']}/s" if row["unit"] else "",
        f"{row['share_of_matmul']:.0%}" if row["share_of_matmul"] else "", f"{row['extra_mib']:.0f} MiB",
    ]  # fmt: skip


def _grown(row: Mapping[str, Any]) -> list[str]:
    return [
        row["title"], row["device"], f"{row['n']:,} {row['unit']}", _time(row["seconds"]),
        f"{row['rate']:.3g}/s", "" if row["exponent"] is None else f"N^{row['exponent']:.2f}",
        f"{row['extra_mib']:.0f} MiB",
    ]  # fmt: skip


def _stage(row: Mapping[str, Any]) -> list[str]:
    times = _time(row["seconds"]), _time(row["total_seconds"])
    return [f"`{row['title']}`", f"{row['n']}", *times, f"{row['peak_mib']:.0f} MiB"]


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds * 1e3:.0f} ms"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folders", type=Path, nargs="*", help="`--out` of runs of `python -m pipeline.bench`")
    arguments.add_argument(
        "--log", type=Path, help="folder of the pipeline's data, whose log of runs is this machine's"
    )
    arguments.add_argument("--page", type=Path, default=PAGE)
    arguments.add_argument("--kept", type=Path, default=KEPT, help="where the page's tables lie")
    return arguments


if __name__ == "__main__":
    run(main, parser())
