"""What each run of the pipeline did and found: one directory per run below `data/runs`, which DVC does not know.

A run's tables are rewritten whole, each by a rename, so that a reader meets the rows so far. A run that was killed
stays `running`, with the stages that it had reached. The log is a help, no output: what of it cannot be read counts as
not there, and a run goes on where it cannot be written.
"""

import hashlib
import json
import re
import secrets
import shlex
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import NearsafeError, TableError
from pipeline.files import replacing
from pipeline.layout import MANIFEST, Data, table_file
from pipeline.schemas import SCHEMA_VERSION, SCHEMAS
from pipeline.tables import write_table
from pipeline.validation import check_table

Kind = Literal["repro", "flow"]
StageState = Literal["ran", "cached", "up_to_date", "failed", "not_run"]
EndState = Literal["completed", "failed", "cancelled"]
_STAMP = "%Y%m%d-%H%M%S"
_ID = re.compile(r"(\d{8}-\d{6})-[0-9a-f]{4}")
_NUMBERS = ("value", "ci_low", "ci_high", "n")


class RunRecord:
    """The directory of one run: tables `runs` (one row), `stage_runs` and `run_metrics`. Safe to use from threads."""

    def __init__(self, path: Path, row: dict[str, Any]) -> None:
        self.path = path
        self._row = row
        self._stages: dict[str, dict[str, Any]] = {}
        self._files: dict[str, dict[str, Any]] = {}
        self._writable = True
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
        path, error = _new_directory(Data(Path(data)).runs)
        row = {
            "run_id": path.name, "kind": kind, "started": _now(), "ended": None, "state": "running",
            "revision": revision, "experiment": experiment, "targets": shlex.join(targets) or None,
            "overrides": shlex.join(overrides) or None, "flow_run_id": flow_run_id,
        }  # fmt: skip
        record = cls(path, row)
        with record._lock:
            if error:
                record._give_up(error)
            record._write("runs", [row])
        return record

    @property
    def run_id(self) -> str:
        """Start in UTC and four hex digits. Ids sort as runs began, also where the clock was set back between them."""
        return self.path.name

    def stage(
        self,
        name: str,
        state: StageState,
        seconds: float | None = None,
        device: str | None = None,
        reason: str | None = None,
        peak_mb: float | None = None,
    ) -> None:
        """What became of a stage; the last word counts. `reason`: why, in words.

        `seconds`: of work, where it ran; `peak_mb`: MiB of memory at most, where it said so.
        """
        row = {"run_id": self.run_id, "stage": name, "state": state, "seconds": seconds, "device": device}
        with self._lock:
            self._stages[name] = {**row, "reason": reason, "peak_mb": peak_mb}
            self._write("stage_runs", list(self._stages.values()))

    def finish(self, state: EndState, metrics: Path | None = None) -> None:
        """End the run. `metrics`: the metrics.json that it left, kept as table `run_metrics`."""
        rows = known_metrics(metrics) if metrics is not None else []
        with self._lock:
            if rows:
                self._write("run_metrics", [{"run_id": self.run_id, **row} for row in rows])
            self._row = {**self._row, "state": state, "ended": _now()}
            self._write("runs", [self._row])

    def _write(self, table: str, rows: list[dict[str, Any]]) -> None:
        """Replace one table, then the manifest that lists it. A full disk ends the log, not the run.

        The lock is held.
        """
        if not self._writable:
            return
        try:
            self._replace(table, rows)
        except TableError:
            raise
        except (OSError, NearsafeError) as error:  # the latter from `pipeline.files`, which names the file
            self._give_up(error)

    def _give_up(self, error: OSError | NearsafeError) -> None:
        self._writable = False
        said = f"{self.path}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
        print(f"{said}; the run goes on, and is not logged", file=sys.stderr)

    def _replace(self, table: str, rows: list[dict[str, Any]]) -> None:
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
    return [row for path in sorted(folder.glob("*/"), reverse=True) for row in read_log(path, "runs")]


def read_run_metrics(data: Path, run_id: str) -> list[dict[str, Any]]:
    """Rows of table `run_metrics` of one run, in the form of `metrics_rows`; none where the run left no numbers."""
    rows = read_log(Data(Path(data)).runs / run_id, "run_metrics")
    return [{name: value for name, value in row.items() if name != "run_id"} for row in rows]


def read_log(run: Path, table: str) -> list[dict[str, Any]]:
    """Rows of one table of the run in directory `run`; none where it is missing or damaged.

    Columns that came to the schema later are null in what was written before.
    """
    file, contract = run / table_file(table), SCHEMAS[table]
    try:
        data = pq.ParquetFile(file).read()
        for field in contract.schema:
            if field.name in contract.nullable and field.name not in data.schema.names:
                data = data.append_column(field, pa.nulls(len(data), field.type))
        check_table(data, contract, file)
    except (OSError, pa.ArrowException, NearsafeError):
        return []
    return data.to_pylist()


def known_metrics(metrics: Path) -> list[dict[str, Any]]:
    """The rows of `metrics_rows`; none where there is no file yet, or one that is not whole: the next run makes it."""
    try:
        return metrics_rows(metrics)
    except NearsafeError:
        return []


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


def _new_directory(runs: Path) -> tuple[Path, OSError | None]:
    """A directory that no other run has, later in order than all there are; or why it could not be made."""
    while True:
        path = runs / f"{_stamp(runs)}-{secrets.token_hex(2)}"
        try:
            path.mkdir(parents=True)
        except FileExistsError as error:
            if not path.is_dir():  # a file in the place of `runs`
                return path, error
            continue
        except OSError as error:
            return path, error
        return path, None


def _stamp(runs: Path) -> str:
    """The time, or the second after the latest run's where the clock says less: it was set back, or two met."""
    stamp = f"{datetime.now(UTC):{_STAMP}}"
    known = [found[1] for path in runs.glob("*/") if (found := _ID.fullmatch(path.name))]
    if known and (latest := max(known)) >= stamp:
        with suppress(ValueError, OverflowError):  # digits that are no time
            stamp = f"{datetime.strptime(latest, _STAMP) + timedelta(seconds=1):{_STAMP}}"
    return stamp


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
