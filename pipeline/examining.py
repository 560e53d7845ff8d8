"""Generated images under every detector, the features' network and the undefended CLIP; shard by shard, then let go.

What was found in a shard is kept in a folder of the user's (`.nearsafe/cache`), by hashes of the images and of all that
looked at them: scoring anew, after a change to a metric or a stop, does not look again. The folder may be deleted. A
file holds the hash of its content, and of the table beside it: what was damaged is looked at again.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline import images as images_module
from pipeline import parallel as parallel_module
from pipeline.detectors import base, nudenet, registry
from pipeline.detectors import world as world_detector
from pipeline.detectors.base import error_row, subject_of
from pipeline.detectors.registry import DetectorParams, Judge, load_judges, load_world_detector
from pipeline.detectors.watch import watched
from pipeline.detectors.world import WorldFeatures
from pipeline.errors import TableError
from pipeline.files import replacing
from pipeline.ids import content_id
from pipeline.images import decode_image
from pipeline.models import clip as clip_module
from pipeline.models.clip import Clip, encode_images, load_clip
from pipeline.models.hashing import source_hash
from pipeline.models.tensors import tensors_hash
from pipeline.parallel import parallel
from pipeline.params import to_spec
from pipeline.precision import pick_device
from pipeline.schemas import SCHEMAS
from pipeline.shards import Part
from pipeline.tables import read_table, write_table
from pipeline.world import detector as world_network
from pipeline.written import file_hash

Row = dict[str, Any]
_LIBRARIES = ("torch", "transformers", "opencv-python-headless", "pillow", "numpy")
_MODULES = (base, clip_module, images_module, nudenet, parallel_module, registry, world_detector, world_network)


@dataclass(frozen=True)
class Eyes:
    """What looks at images: detectors with their rules, the features' network, the undefended CLIP."""

    judges: Sequence[Judge]
    features: WorldFeatures
    clip: Clip
    batch_size: int


@dataclass(frozen=True)
class Look:
    """A shard of table "generations"; `before`: rows of table "detections" of images that were not kept, by image."""

    part: Part
    before: dict[str, list[Row]] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    """A shard whose images are decoded, in order: an image, the reason why there is none, or None for one not kept."""

    look: Look
    rows: list[Row]
    images: list[Image.Image | str | None]


@dataclass
class Examined:
    """Facts of images after they are gone: `rows` (without image) match `features` (N, F) and `embeddings` (N, D).

    `gone`: rows of images that were examined when they were made and not kept; no features, no embeddings.
    """

    rows: list[Row] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    embeddings: list[Tensor] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)
    gone: list[Row] = field(default_factory=list)
    detections: list[Row] = field(default_factory=list)

    def add(self, other: "Examined") -> None:
        """Append what another shard holds."""
        for name, values in vars(self).items():
            values += getattr(other, name)

    def all(self) -> list[Row]:
        """Rows of every image."""
        return [*self.rows, *self.failed, *self.gone]

    def errors(self) -> set[str]:
        """Ids of images that failed, or that one detector or more could not examine."""
        return self.unseen() | {row["generation_id"] for row in self.failed}

    def unseen(self) -> set[str]:
        """Ids of images that are there, and that one detector or more could not examine."""
        errors = {row["item_id"] for row in self.detections if row["status"] == "error"}
        return errors - {row["generation_id"] for row in self.failed}


def make_eyes(clip: Clip, detector: Path, detectors: DetectorParams, batch_size: int) -> Eyes:
    """The detectors that the parameters ask for, on the CLIP's device. Raises NearsafeError for one missing."""
    world = load_world_detector(detector, clip.model.device)
    judges = watched(load_judges(detectors, world), detectors, detector, clip.model.device)
    return Eyes(judges, WorldFeatures(world), clip, batch_size)


def load_eyes(clip: Path, detector: Path, detectors: DetectorParams, batch_size: int) -> Eyes:
    """As `make_eyes`, from folders alone: what a worker of a cluster does."""
    return make_eyes(load_clip(clip, pick_device()[0]), detector, detectors, batch_size)


def open_shard(look: Look) -> Opened:
    """Read a shard and decode its images over the cores. Raises TableError for a table that breaks its contract.

    An image that was not generated, or cannot be decoded, is the reason in its place and not the end of the run.
    """
    rows = look.part.read().to_pylist()
    opened = parallel(partial(_open, look), list(enumerate(rows)))
    for row in rows:
        row.pop("image")
    return Opened(look, rows, opened)


def examine(eyes: Eyes, opened: Opened) -> Examined:
    """Look at one shard; a failed image is an error row per detector, never safe.

    Of an image that is gone, what was seen before counts; a detector that has not seen it has an error row.
    """
    seen, images = Examined(), []
    for number, (row, image) in enumerate(zip(opened.rows, opened.images, strict=True)):
        if isinstance(image, Image.Image):
            images.append(image)
            seen.rows.append(row)
        elif image is None:
            before = opened.look.before[row["generation_id"]]
            seen.detections += _recall(eyes, row, before, _where(opened.look, number, row))
            seen.gone.append(row)
        else:
            seen.failed.append(row)
            seen.detections += [error_row(judge.detector, subject_of(row), image) for judge in eyes.judges]
    if images:
        seen.features.append(eyes.features.of(images, eyes.batch_size))
        seen.embeddings.append(encode_images(eyes.clip, images, eyes.batch_size))
    for judge in eyes.judges:
        seen.detections += base.examine(judge.detector, [subject_of(row) for row in seen.rows], images)
    return seen


def cache_key(eyes: Eyes, detectors: DetectorParams, what: str) -> str:
    """Of images (`what`: their hash) and of everything that looks at them, code, device and threads included."""
    facts = {
        "detectors": {judge.detector.name: judge.detector.hash for judge in eyes.judges},
        "params": to_spec(detectors),
        "models": [eyes.features.name, eyes.clip.hash, eyes.batch_size],
        "machine": [pick_device()[1], str(eyes.clip.model.device), torch.get_num_threads()],
        "processor": torch.backends.cpu.get_cpu_capability(),
        # By the module: the build for CUDA is another package of another name.
        "onnxruntime": [onnxruntime.__version__, nudenet.providers()],
        "versions": {library: version(library) for library in _LIBRARIES},
        "code": source_hash([Path(__file__), *(Path(module.__file__) for module in _MODULES)]),
    }
    return content_id(what, json.dumps(facts, sort_keys=True))


def recall_shard(folder: Path | None, key: str, part: Part) -> Examined | None:
    """What was found in a shard at another time, or None. A file that is broken counts as none."""
    if folder is None:
        return None
    table = folder / f"{key}.parquet"
    try:
        tensors = _load(folder / f"{key}.safetensors", file_hash(table))
        detections = read_table(table, "detections", allow_empty=True).to_pylist()
    except (TableError, OSError):
        return None
    if tensors is None:
        return None
    rows = part.columns([name for name in SCHEMAS[part.table].schema.names if name != "image"]).to_pylist()
    if len(rows) != len(tensors["good"]):
        return None
    good = tensors["good"].tolist()
    seen = Examined([row for row, ok in zip(rows, good, strict=True) if ok], detections=detections)
    seen.failed = [row for row, ok in zip(rows, good, strict=True) if not ok]
    if seen.rows:
        seen.features, seen.embeddings = [tensors["features"]], [tensors["embeddings"]]
    return seen


def keep_shard(folder: Path | None, key: str, part: Part, seen: Examined) -> None:
    """Keep what was found; nothing where images are gone, whose facts are in their own directory, and nothing where a
    detector failed: the next look may not.
    """
    if folder is None or seen.gone or seen.unseen():
        return
    good = {row["generation_id"] for row in seen.rows}
    ids = part.columns(["generation_id"])["generation_id"].to_pylist()
    tensors = {"good": torch.tensor([item in good for item in ids], dtype=torch.bool)}
    if seen.rows:
        tensors |= {"features": torch.cat(seen.features), "embeddings": torch.cat(seen.embeddings)}
    write_table(folder / f"{key}.parquet", "detections", seen.detections, shard=True)
    beside = file_hash(folder / f"{key}.parquet")
    _save(folder / f"{key}.safetensors", tensors, beside)  # last: it says that both are there


def cached_features(folder: Path | None, key: str, make: Callable[[], Tensor]) -> Tensor:
    """Features (N, F) of an image set, computed where the folder has none under this key."""
    file = None if folder is None else folder / f"{key}.safetensors"
    if file is not None and (found := _load(file)):
        return found["features"]
    features = make()
    if file is not None:
        _save(file, {"features": features})
    return features


def _open(look: Look, numbered: tuple[int, Row]) -> Image.Image | str | None:
    number, row = numbered
    if row["status"] != "ok":
        return f"generation failed: {row['error']}"
    if row["generation_id"] in look.before:
        return None
    try:
        return decode_image(row["image"], _where(look, number, row))
    except TableError as error:
        return str(error)


def _where(look: Look, number: int, row: Row) -> str:
    return f"{look.part.file}: row {number} (generation_id={row['generation_id']!r})"


def _recall(eyes: Eyes, row: Row, before: Sequence[Row], where: str) -> list[Row]:
    """What the detectors, by name and weights, saw in an image that is gone."""
    found = []
    for detector in (judge.detector for judge in eyes.judges):
        own = [r for r in before if (r["detector"], r["detector_hash"]) == (detector.name, detector.hash)]
        reason = f"{where}: not kept, and {detector.name} has not seen it"
        found += own or [error_row(detector, subject_of(row), reason)]
    return found


def _load(file: Path, beside: str = "") -> dict[str, Tensor] | None:
    """Tensors of a file that is there and whole; `beside`: hash of the table that belongs to it."""
    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in sorted(opened.keys())}
            whole = (opened.metadata() or {}).get("sha256") == tensors_hash(tensors.items(), beside)
    except (OSError, SafetensorError):
        return None
    return tensors if whole else None


def _save(file: Path, tensors: dict[str, Tensor], beside: str = "") -> None:
    content = {name: tensor.contiguous() for name, tensor in sorted(tensors.items())}
    with replacing(file, shared=True) as temporary:
        save_file(content, temporary, metadata={"sha256": tensors_hash(content.items(), beside)})
