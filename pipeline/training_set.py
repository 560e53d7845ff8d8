"""The training pairs in memory: tokens, decoded images, frozen references, targets, difficulty; and a batch of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from pipeline.defences.protocol import Batch, Frozen, Reference
from pipeline.defences.registry import Defence
from pipeline.errors import NearsafeError, TableError
from pipeline.image_cache import ImageCache, load_images
from pipeline.models.adapters import features
from pipeline.models.clip import Clip, Tokens, pixels, tokenize
from pipeline.tables import check_references, read_output
from pipeline.targets import no_training_pairs
from pipeline.vectors import read_vectors

_EMBEDDINGS = tuple(one.name for one in fields(Batch) if one.type is Tensor)


@dataclass(frozen=True)
class TrainingSet:
    """P quadruples. Captions and images are stored once each; the four columns (P,) int64 point into them.

    `captions` holds C captions as tokens, `images` I images (I, 3, S, S) uint8, decoded and resized, in memory or
    mapped from a file: 12 kB an image at 64 pixels and 150 kB at 224. `text_refs` (C, D) and `image_refs` (I, D)
    are float32 rows of the undefended model's embeddings. `nearest` (P, K) are the pairs whose safe captions are
    nearest to the unsafe one, nearest first; `category` (P,) numbers `categories`, in alphabetical order.
    """

    pair_ids: tuple[str, ...]
    levels: np.ndarray
    captions: Tokens
    images: Tensor
    text_refs: Tensor
    image_refs: Tensor
    text_safe: Tensor
    text_unsafe: Tensor
    image_safe: Tensor
    image_unsafe: Tensor
    nearest: Tensor
    category: Tensor
    categories: tuple[str, ...]
    mapped: bool = False

    @cached_property
    def frozen(self) -> Frozen:
        """The whole pool under the undefended model."""
        return Frozen(
            self.text_refs[self.text_safe],
            self.text_refs[self.text_unsafe],
            self.image_refs[self.image_safe],
            self.image_refs[self.image_unsafe],
            self.nearest,
            self.category,
        )

    def on(self, device: torch.device) -> "TrainingSet":
        """The same with the frozen embeddings on a device; tokens and images stay where they are."""
        return replace(self, text_refs=self.text_refs.to(device), image_refs=self.image_refs.to(device))

    def feed(self, defence: Defence, clip: Clip) -> "PooledFeed":
        """What a training reads: the frozen embeddings on the model's device, the defence's own tables."""
        data = self.on(clip.model.device)
        return PooledFeed(data, defence, clip, defence.targets(data.frozen))

    def references(self, rows: Tensor, target: Tensor | None = None) -> dict[str, Tensor]:
        """The six frozen embeddings (B, D) of a batch, by their names in `Batch`; `target`: rows' proximal pairs."""
        frozen, target = self.frozen, self.nearest[rows, 0] if target is None else target
        return {
            "ref_text_safe": frozen.text_safe[rows],
            "ref_text_unsafe": frozen.text_unsafe[rows],
            "ref_image_safe": frozen.image_safe[rows],
            "ref_image_unsafe": frozen.image_unsafe[rows],
            "prox_text": frozen.text_safe[target],
            "prox_image": frozen.image_safe[target],
        }

    def describe(self) -> str:
        """One line on size and memory."""
        size = "x".join(map(str, self.images.shape[1:]))
        where = "mapped from a file" if self.mapped else "in memory"
        return (
            f"{len(self.pair_ids)} training pairs, {len(self.captions.lengths)} captions, {len(self.images)} images "
            f"{size} uint8 {where} ({self.images.numel() / 2**20:.0f} MiB)"
        )


@dataclass(frozen=True)
class Index:
    """Which pairs a batch holds, on the model's device: their rows (B,) and those of their proximal pairs."""

    rows: Tensor
    target: Tensor


@dataclass(frozen=True)
class Inputs:
    """What the towers read for B pairs, safe ones first: token ids (2B, L), images (2B, 3, S, S) uint8 or None."""

    ids: Tensor | None
    images: Tensor | None


@dataclass(frozen=True)
class PooledFeed:
    """Batches for one training, and what does not change in it: the method's own tables.

    A batch is made in three steps, so that the first can run ahead, and the second by parts: `load` (host), `encode`
    (the model in training), `assemble`.
    """

    data: TrainingSet
    defence: Defence
    clip: Clip
    own: dict[str, Tensor]
    fixed: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors to keep with the checkpoint: a pooled method has none."""
    shared: tuple[str, ...] = ()
    """Names in what `encode` gives that are not of one pair each: none."""

    def index(self, rows: Tensor) -> Index:
        """Where the pairs `rows` (on the CPU) lie in the tables."""
        device = self.clip.model.device
        return Index(sent(rows, device), sent(self.data.nearest[rows, 0], device))

    def load(self, rows: Tensor, first: bool = True) -> Inputs:
        """What the towers read for the pairs `rows`, sent to the device."""
        data, device, towers = self.data, self.clip.model.device, self.defence.towers
        ids = images = None
        if "text" in towers:
            ids = sent(data.captions.rows(torch.cat([data.text_safe[rows], data.text_unsafe[rows]])), device)
        if "vision" in towers:
            images = sent(data.images[torch.cat([data.image_safe[rows], data.image_unsafe[rows]])], device)
        return Inputs(ids, images)

    def encode(self, model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
        """Embeddings (B, D) by their names in `Batch`; those of a live reference, `ref_*`, without gradient."""
        return encode(model, self.clip, inputs, self.defence.reference)

    def assemble(self, index: Index, encoded: Mapping[str, Tensor]) -> Batch:
        """The batch: what was encoded, and what the tables have."""
        return assemble(self.data, index, encoded, self.own)

    def batch(self, model: nn.Module, rows: Tensor) -> Batch:
        """Embeddings of the pairs `rows` under the model in training."""
        return self.assemble(self.index(rows), self.encode(model, self.load(rows)))


def read_training_set(
    world: Path, embeddings: Path, targets: Path, buckets: Path, clip: Clip, cache: ImageCache | None = None
) -> TrainingSet:
    """Every pair that has a target and a bucket, in order of pair ids; images in memory, or where `cache` has them.

    Raises TableError for a dangling id, a pair without an image, an unreadable image; NearsafeError when the embeddings
    are those of another model than `clip`.
    """
    text, image = read_vectors(embeddings)
    if text.model_hash != clip.hash:
        raise NearsafeError(f"{embeddings}: made by model {text.model_hash}, the base model is {clip.hash}")
    pairs, nearest = _training_pairs(world, targets)
    ids = pairs.column("pair_id").to_pylist()
    captions, text_columns = distinct_ids(pairs, "caption_id", world)
    image_ids, image_columns = distinct_ids(pairs, "image_id", world)
    names, numbers = category_numbers(pairs)
    images, mapped = load_images(image_ids, world, clip, cache)
    return TrainingSet(
        pair_ids=tuple(ids),
        levels=bucket_levels(ids, buckets),
        captions=tokenize(clip, caption_texts(captions, world)),
        images=images,
        text_refs=text.of(captions),
        image_refs=image.of(image_ids),
        text_safe=text_columns[0],
        text_unsafe=text_columns[1],
        image_safe=image_columns[0],
        image_unsafe=image_columns[1],
        nearest=nearest,
        category=numbers,
        categories=names,
        mapped=mapped,
    )


def encode(model: nn.Module, clip: Clip, inputs: Inputs, reference: Reference = "frozen") -> dict[str, Tensor]:
    """Embeddings (B, D) of the given inputs: both captions in one forward of 2B, both images in one, no frozen forward.

    `reference` "live" adds a second forward of `model` itself, without gradient, in the mode it is in: its adapters and
    its dropout included.
    """
    found = {}
    for name, value, forward in (
        ("text", inputs.ids, lambda ids: features(model, ids=ids)),
        ("image", inputs.images, lambda images: features(model, pixel_values=pixels(images, clip))),
    ):
        if value is None:
            continue
        found[f"{name}_safe"], found[f"{name}_unsafe"] = forward(value).float().chunk(2)
        if reference == "live":
            with torch.no_grad():
                found[f"ref_{name}_safe"], found[f"ref_{name}_unsafe"] = forward(value).float().chunk(2)
    return found


def assemble(data: TrainingSet, index: Index, encoded: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Batch:
    """A batch of embeddings in training and frozen ones, which also stand for a tower that is not trained.

    `own` holds the defence's own tables (P, D).
    """
    found = data.references(index.rows, index.target) | encoded
    for name in ("text_safe", "text_unsafe", "image_safe", "image_unsafe"):
        found.setdefault(name, found[f"ref_{name}"])
    mine = {name: table[index.rows.to(table.device)] for name, table in own.items()}
    return Batch(**{name: found[name] for name in _EMBEDDINGS}, own=mine, frozen=data.frozen)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; to CUDA from pinned memory, which the copy does not wait for."""
    if device.type != "cuda":
        return tensor
    with torch.cuda.device(device):  # a thread's own current device is the first one
        return tensor.pin_memory().to(device, non_blocking=True)


def _training_pairs(world: Path, targets: Path) -> tuple[pa.Table, Tensor]:
    """Pairs that have targets, sorted by id, and the rows (P, K) of each one's targets, nearest first."""
    found = read_output(targets, "targets", allow_empty=True)
    if not found.num_rows:
        raise no_training_pairs(world)
    found = found.sort_by([("pair_id", "ascending"), ("rank", "ascending")])
    pairs = read_output(world, "pairs")
    check_references(found, "pair_id", pairs.column("pair_id"), targets, f"the pairs of {world}")
    pairs = pairs.filter(pc.is_in(pairs.column("pair_id"), found.column("pair_id").combine_chunks())).sort_by("pair_id")
    check_references(found, "target_pair_id", pairs.column("pair_id"), targets, "the training pairs")
    row = {pair: i for i, pair in enumerate(pairs.column("pair_id").to_pylist())}
    rows = torch.tensor([row[pair] for pair in found.column("target_pair_id").to_pylist()])
    k = pc.max(found.column("rank")).as_py() + 1
    if found.column("rank").to_pylist() != list(range(k)) * len(row):
        raise TableError(f"{targets}: column 'rank': not the ranks 0 to {k - 1} for every pair")
    return pairs, rows.reshape(len(row), k)


def category_numbers(pairs: pa.Table) -> tuple[tuple[str, ...], Tensor]:
    """The distinct categories in alphabetical order, and each pair's place among them (P,) int64."""
    column = pairs.column("category").to_pylist()
    place = {name: i for i, name in enumerate(sorted(set(column)))}
    return tuple(place), torch.tensor([place[name] for name in column])


def bucket_levels(ids: Sequence[str], buckets: Path) -> np.ndarray:
    """Difficulty of each pair (P,). Raises TableError naming a pair that has none."""
    table = read_output(buckets, "buckets")
    level = dict(zip(table.column("pair_id").to_pylist(), table.column("difficulty").to_pylist(), strict=True))
    if missing := [pair for pair in ids if pair not in level]:
        raise TableError(f"{buckets}: column 'pair_id': no difficulty of training pair {missing[0]!r}")
    return np.array([level[pair] for pair in ids])


def distinct_ids(pairs: pa.Table, kind: str, world: Path) -> tuple[list[str], tuple[Tensor, Tensor]]:
    """Distinct ids of the safe and unsafe column of a kind, and the two columns as rows of that list."""
    columns = []
    for side in ("safe", "unsafe"):
        column = pairs.column(f"{side}_{kind}")
        if column.null_count:
            pair = pairs.column("pair_id")[pc.index(pc.is_null(column), True).as_py()].as_py()
            raise TableError(f"{world}: pairs: column '{side}_{kind}': pair {pair!r} has none, training needs it")
        columns.append(column.to_pylist())
    distinct = sorted({*columns[0], *columns[1]})
    row = {item: i for i, item in enumerate(distinct)}
    return distinct, (torch.tensor([row[i] for i in columns[0]]), torch.tensor([row[i] for i in columns[1]]))


def caption_texts(ids: Sequence[str], world: Path) -> list[str]:
    """Texts of captions. Raises TableError naming one that is not there."""
    table = read_output(world, "captions")
    text = dict(zip(table.column("caption_id").to_pylist(), table.column("text").to_pylist(), strict=True))
    if missing := [caption for caption in ids if caption not in text]:
        raise TableError(f"{world}: pairs: caption {missing[0]!r} is not in the captions")
    return [text[caption] for caption in ids]
