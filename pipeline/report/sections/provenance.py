"""Where everything comes from: the spec of every output, hashes of models and data, versions of packages."""

import json
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from pipeline.layout import MANIFEST
from pipeline.report.blocks import Block, Cell, Column, Record, Row, Source, Table
from pipeline.report.run import Run
from pipeline.results.sources import directories
from pipeline.tables import read_manifest

_BUILDERS = ("duckdb", "jinja2", "pillow", "pyarrow", "vl-convert-python")
_OWN_COLUMN = ("stage", "inputs", "versions", "schema_version")
# One row per hash. What is one checkpoint's own (its images, its replies) names it; what all were measured on does not.
_HASHES = """
    SELECT 'model' AS kind, defence || ', training seed ' || seed AS what, model_hash AS hash
    FROM (SELECT DISTINCT defence, seed, model_hash FROM scores)
    UNION ALL
    SELECT 'data', string_agg(DISTINCT benchmark, ', ' ORDER BY benchmark)
           || CASE WHEN bool_or(own) THEN ': ' || string_agg(DISTINCT defence, ', ' ORDER BY defence) ELSE '' END,
           data_hash
    FROM (SELECT benchmark, defence, data_hash,
                 benchmark LIKE 'generation/%' OR benchmark LIKE 'reply/%' AS own FROM scores WHERE data_hash <> '')
    GROUP BY data_hash
    UNION ALL
    SELECT 'detector', detector, detector_hash FROM (SELECT DISTINCT detector, detector_hash FROM detections)
    ORDER BY kind, what, hash"""


def build(run: Run) -> list[Block]:
    """Outputs, hashes, versions, and the parameters of each output."""
    specs = list(_specs(run))
    return [_outputs(specs), *_hashes(run), _versions(specs), *(_record(name, spec) for name, spec in specs)]


def _specs(run: Run) -> Iterable[tuple[str, dict[str, Any]]]:
    """(name below data, spec) of every finished output that the page reads."""
    for directory in directories(run.data, run.defences):
        if directory.parent != run.data.runs and (directory / MANIFEST).is_file():  # the log of runs is no output
            spec = read_manifest(directory).get("spec")
            yield directory.relative_to(run.data.root).as_posix(), spec if isinstance(spec, dict) else {}


def _outputs(specs: list[tuple[str, dict[str, Any]]]) -> Table:
    rows = [
        {
            "output": name,
            "stage": str(spec.get("stage", "")),
            "inputs": _inputs(spec.get("inputs")),
            "command": f"dvc repro {_target(name, str(spec.get('stage') or ''))}",
        }
        for name, spec in specs
    ]
    columns = [Column(head, numeric=False) for head in ("output", "stage", "hashes of its inputs", "made by")]
    body = [
        Row([Cell(value, tone="" if key in ("output", "stage") else "code") for key, value in row.items()],
            row["output"].partition("/")[2])
        for row in rows
    ]  # fmt: skip
    return Table("Outputs", columns, body, Source("outputs", rows, ("dvc repro",)))


def _target(name: str, stage: str) -> str:
    """The DVC stage of an output: that of a defence is one of a `foreach`."""
    folder, _, defence = name.partition("/")
    stages = {"checkpoints": "train", "generations": "generate", "replies": "reply", "scores": "score"}
    return f"{stages[folder]}@{defence}" if defence and folder in stages else stage or folder


def _inputs(inputs: Any) -> str:
    if not isinstance(inputs, dict):
        return ""
    return ", ".join(
        f"{key} {'+'.join(map(str, v)) if isinstance(v, list) else v}" for key, v in sorted(inputs.items())
    )


def _hashes(run: Run) -> list[Block]:
    rows = run.rows(_HASHES)
    if not rows:
        return []
    columns = [Column(head, numeric=False) for head in ("kind", "what", "hash")]
    body = [Row([Cell(row["kind"]), Cell(row["what"]), Cell(row["hash"], tone="code")]) for row in rows]
    source = Source("hashes", rows, ('nearsafe query "SELECT DISTINCT defence, seed, model_hash FROM scores"',))
    return [Table("Models, data, detectors", columns, body, source)]


def _versions(specs: list[tuple[str, dict[str, Any]]]) -> Table:
    found: dict[str, dict[str, list[str]]] = {}
    for name, spec in specs:
        versions = spec.get("versions")
        for package, number in sorted((versions if isinstance(versions, dict) else {}).items()):
            found.setdefault(package, {}).setdefault(str(number), []).append(str(spec.get("stage") or name))
    for package in _BUILDERS:
        found.setdefault(package, {}).setdefault(version(package), []).append("this page")
    rows = [
        {"package": package, "version": number, "used by": ", ".join(dict.fromkeys(users))}
        for package, numbers in sorted(found.items())
        for number, users in sorted(numbers.items())
    ]
    columns = [Column(head, numeric=False) for head in ("package", "version", "used by")]
    body = [Row([Cell(value) for value in row.values()]) for row in rows]
    return Table("Versions", columns, body, Source("versions", rows, ("nearsafe doctor",)))


def _record(name: str, spec: dict[str, Any]) -> Record:
    own = {key: value for key, value in spec.items() if key not in _OWN_COLUMN}
    return Record(f"Parameters of {name}", json.dumps(own, indent=1, sort_keys=True, ensure_ascii=False))
