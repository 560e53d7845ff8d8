"""What each run of the pipeline did and found: one directory per run below `data/runs`, which DVC does not know.

A run's tables are rewritten whole, each by a rename, so that a reader meets the rows so far. A run that was killed
stays `running`, with the stages that it had reached.
"""

import hashlib
import json
import re
import secrets
import shlex
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import NearsafeError
from pipeline.files import replacing
from pipeline.layout import MANIFEST, Data, table_file
from pipeline.schemas import SCHEMA_VERSION
from pipeline.tables import read_output, read_table, write_table

Kind = Literal["repro", "flow"]
StageState = Literal["ran", "cached", "up_to_date", "failed", "not_run"]
EndState = Literal["completed", "failed", "cancelled"]
_STAMP = "%Y%m%d-%H%M%S"
_NUMBERS = ("value", "ci_low", "ci_high", "n")


class RunRecord:
    """The directory of one run: tables `runs` (one row), `stage_runs` and `run_metrics`. Safe to use from threads."""

    def __init__(self, path: Path, row: dict[str, Any]) -> None:
        self.path = path
        self._row = row
        self._stages: dict[str, dict[str, Any]] = {}
        self._files: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    @classmethod
    def start(
        cls,
        data: Path,
        kind: Kind,
        *,
        targets: Sequence[str] = (),
        overrides: Sequence[str] = (),
        experiment: str | None = None,
        flow_run_id: str | None = None,
        revision: str | None = None,
    ) -> "RunRecord":
        """A new run below the data directory `data`, in state `running`.

        `targets` and `overrides` are kept as one line each, quoted as for a shell; `revision` is the commit run from.
        """
        path = _new_directory(Data(Path(data)).runs)
        row = {
            "run_id": path.name, "kind": kind, "started": _now(), "ended": None, "state": "running",
            "revision": revision, "experiment": experiment, "targets": shlex.join(targets) or None,
            "overrides": shlex.join(overrides) or None, "flow_run_id": flow_run_id,
        }  # fmt: skip
        record = cls(path, row)
        with record._lock:
            record._write("runs", [row])
        return record

    @property
    def run_id(self) -> str:
        """Start in UTC and four hex digits: ids sort as runs began."""
        return self.path.name

    def stage(
        self,
        name: str,
        state: StageState,
        seconds: float | None = None,
        device: str | None = None,
        reason: str | None = None,
    ) -> None:
        """What became of a stage; the last word counts. `seconds`: of work, where it ran. `reason`: why, in words."""
        row = {"run_id": self.run_id, "stage": name, "state": state, "seconds": seconds, "device": device}
        with self._lock:
            self._stages[name] = {**row, "reason": reason}
            self._write("stage_runs", list(self._stages.values()))

    def finish(self, state: EndState, metrics: Path | None = None) -> None:
        """End the run. `metrics`: the metrics.json that it left, kept as table `run_metrics`; a missing one is none.

        Raises NearsafeError for a file that is no metrics.json.
        """
        rows = metrics_rows(metrics) if metrics is not None and metrics.is_file() else []
        with self._lock:
            if rows:
                self._write("run_metrics", [{"run_id": self.run_id, **row} for row in rows])
            self._row = {**self._row, "state": state, "ended": _now()}
            self._write("runs", [self._row])

    def _write(self, table: str, rows: list[dict[str, Any]]) -> None:
        """Replace one table, then the manifest that lists it. The lock is held."""
        file = self.path / table_file(table)
        write_table(file, table, rows)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        self._files[file.name] = {"name": file.name, "table": table, "rows": len(rows), "sha256": digest}
        spec = {"run": self.run_id, "schema_version": SCHEMA_VERSION}
        manifest = {"spec": spec, "files": [self._files[name] for name in sorted(self._files)]}
        with replacing(self.path / MANIFEST) as temporary:
            temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_runs(data: Path) -> list[dict[str, Any]]:
    """Rows of table `runs` of every run below the data directory `data`, the newest first."""
    folder = Data(Path(data)).runs
    rows = []
    for manifest in sorted(folder.glob(f"*/{MANIFEST}"), reverse=True):
        rows += read_table(manifest.parent / table_file("runs"), "runs").to_pylist()
    return rows


def read_run_metrics(data: Path, run_id: str) -> list[dict[str, Any]]:
    """Rows of table `run_metrics` of one run, in the form of `metrics_rows`; none where the run left no numbers."""
    path = Data(Path(data)).runs / run_id
    if not (path / table_file("run_metrics")).is_file():
        return []
    rows = read_output(path, "run_metrics").to_pylist()
    return [{name: value for name, value in row.items() if name != "run_id"} for row in rows]


def metrics_rows(metrics: Path) -> list[dict[str, Any]]:
    """Flat rows of a metrics.json: defence, seed, name, value, ci_low, ci_high, n.

    Raises NearsafeError naming the file.
    """
    try:
        nested = json.loads(Path(metrics).read_text(encoding="utf-8"))
        return [
            {"defence": defence, "seed": int(seed.removeprefix("seed_")), "name": name}
            | {key: number[key] for key in _NUMBERS}
            for defence, seeds in nested.items()
            for seed, numbers in seeds.items()
            for name, number in numbers.items()
        ]
    except OSError as error:
        raise NearsafeError(f"{metrics}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NearsafeError(
            f"{metrics}: not a metrics.json of the results stage, which is defence: seed_N: number: "
            f"value, ci_low, ci_high, n ({error})"
        ) from error


def changes(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two sets of metrics rows side by side, one row per defence, seed and name, sorted.

    `before` or `after` is None for a number that only the other set has. `apart`: both have intervals, and these do
    not overlap.
    """
    old, new = ({(row["defence"], row["seed"], row["name"]): row for row in rows} for rows in (before, after))
    return [
        {"defence": key[0], "seed": key[1], "name": key[2]} | _change(old.get(key, {}), new.get(key, {}))
        for key in sorted(old.keys() | new.keys())
    ]


def _change(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    before, after = old.get("value"), new.get("value")
    difference = None if before is None or after is None else after - before
    ends = [row.get(end) for row in (old, new) for end in ("ci_low", "ci_high")]
    apart = all(end is not None for end in ends) and (ends[1] < ends[2] or ends[3] < ends[0])
    return {"before": before, "after": after, "difference": difference, "apart": apart}


def _new_directory(runs: Path) -> Path:
    """A directory that no other run has. Its name sorts after all others, also when the clock was set back."""
    while True:
        stamp = f"{datetime.now(UTC):{_STAMP}}"
        last = max((path.name[: len(stamp)] for path in runs.glob("*-*-*") if _is_stamp(path.name)), default="")
        if stamp < last:
            stamp = f"{datetime.strptime(last, _STAMP) + timedelta(seconds=1):{_STAMP}}"
        path = runs / f"{stamp}-{secrets.token_hex(2)}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path


def _is_stamp(name: str) -> bool:
    return re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", name) is not None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
