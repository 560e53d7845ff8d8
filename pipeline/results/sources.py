"""Which Parquet files hold which table: only what the manifests below a data directory list."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import NearsafeError
from pipeline.layout import MANIFEST, Data, table_file
from pipeline.schemas import SCHEMAS
from pipeline.tables import check_hash, read_manifest

# The log of runs: no outputs, and of any age.
LOG = ("runs", "stage_runs", "run_metrics")

# Tables that questions are asked of. Embeddings and the world's images stay out: they are data, not results.
TABLES = (
    "captions",
    "pairs",
    "classes",
    "labels",
    "prompts",
    "origins",
    "filters",
    "targets",
    "buckets",
    "train_log",
    "drift",
    "paraphrases",
    "attacks",
    "generations",
    "replies",
    "detections",
    "outcomes",
    "scores",
    "projections",
    "neighbours",
    *LOG,
)
# What the manifests of scores tell, as a table: not Parquet.
INPUTS = "inputs"


@dataclass(frozen=True)
class Source:
    """One file of a table: Parquet, or of table `inputs` a manifest. `collection` names the directory that holds it:
    "world", "scores/safe_clip".
    """

    table: str
    collection: str
    path: Path


def directories(data: Data, defences: Sequence[str] | None = None) -> list[Path]:
    """Output directories that hold result tables. `defences` leaves out what a defence no longer asked for left."""
    fixed = [data.world, data.prompts, data.targets, data.nsfwcaps, data.buckets, data.paraphrases]
    parents = [data.root / name for name in ("checkpoints", "generations", "attacks", "replies", "scores")]
    found = [child for parent in parents if parent.is_dir() for child in sorted(parent.iterdir()) if child.is_dir()]
    wanted = [path for path in found if defences is None or path.name in defences]
    runs = sorted(data.runs.iterdir()) if data.runs.is_dir() else []
    return [path for path in [*fixed, *wanted, *runs] if not path.name.startswith(".")]


def find_sources(root: Path, defences: Sequence[str] | None = None, verify: bool = False) -> list[Source]:
    """Every listed file of a result table below `root`; directories without a manifest are unfinished and left out.

    The world's own prompts are left out where the prompts stage has copied those that passed its filters: no prompt
    is there twice. `verify` compares every file with the hash that its manifest lists: the stages that report do; a
    question does not wait for it. Raises NearsafeError where nothing is finished, and for a listed file that is gone.
    """
    sources, data = [], Data(Path(root))
    copied = (data.prompts / MANIFEST).is_file()
    for directory in directories(data, defences):
        if not (directory / MANIFEST).is_file():
            continue
        collection = directory.relative_to(root).as_posix()
        if directory.parent == data.runs:
            sources += [Source(table, collection, file) for table, file in _readable_log(directory)]
            continue
        if directory.parent == data.root / "scores":
            sources.append(Source(INPUTS, collection, directory / MANIFEST))
        for entry in read_manifest(directory)["files"]:
            if copied and directory == data.world and entry["table"] == "prompts":
                continue
            if entry["table"] == "detections" and directory.parent != data.root / "scores":
                continue  # of images that were not kept: the score stage takes them over
            if entry["table"] in TABLES and entry["rows"]:
                path = directory / entry["name"]
                if not path.is_file():
                    raise NearsafeError(f"{path}: listed in {directory / MANIFEST}, but not there")
                if verify and directory.parent != data.runs:  # a run that is under way rewrites its own
                    check_hash(path, entry["sha256"])
                sources.append(Source(entry["table"], collection, path))
    if not sources:
        raise NearsafeError(f"{root}: no finished table below it; `dvc repro` (or `make repro`) makes them")
    return sources


def _readable_log(run: Path) -> Iterator[tuple[str, Path]]:
    """Tables of one run's log, without those that are damaged: a log must not stop the results."""
    for table in LOG:
        file, contract = run / table_file(table), SCHEMAS[table]
        try:
            found = pq.read_schema(file)
        except (OSError, pa.ArrowException):
            continue
        wanted = [name for name in contract.schema.names if name not in contract.nullable]
        known = all(
            name in contract.schema.names and contract.schema.field(name).equals(found.field(name))
            for name in found.names
        )
        if known and set(wanted) <= set(found.names):
            yield table, file
