"""The schema of every table: the contract between stages. Read the schemas here, and use them through tables.py."""

from dataclasses import dataclass, field

import pyarrow as pa

SCHEMA_VERSION = "1"

# The `datasets` convention of an image cell: encoded bytes, or a path.
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
# Width D is a property of the model that made the vectors: any width matches, but one per table.
VECTOR = pa.list_(pa.float32())
BOX = pa.list_(pa.float32(), 4)
_TYPES = {
    "str": pa.string(),
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "f32": pa.float32(),
    "f64": pa.float64(),
    "image": IMAGE,
    "vector": VECTOR,
    "box": BOX,
}


@dataclass(frozen=True)
class Table:
    """Columns in order, the columns whose values together are unique, and the columns that may be null."""

    schema: pa.Schema
    key: tuple[str, ...]
    nullable: frozenset[str] = frozenset()
    choices: dict[str, frozenset[str]] = field(default_factory=dict)


def _table(columns: str, key: str, **choices: str) -> Table:
    """Columns as "name type?" separated by commas; the type is `str` where none is given, `?` allows null."""
    fields, nullable = [], set()
    for column in columns.split(","):
        name, _, kind = column.strip().partition(" ")
        if name.endswith("?") or kind.endswith("?"):
            name, kind = name.rstrip("?"), kind.rstrip("?")
            nullable.add(name)
        fields.append(pa.field(name, _TYPES[kind or "str"]))
    closed = {column: frozenset(values.split("|")) for column, values in choices.items()}
    return Table(pa.schema(fields), tuple(key.split()), frozenset(nullable), closed)


SCHEMAS: dict[str, Table] = {
    "captions": _table("caption_id, text, unsafe bool, category?, source, split, family", "caption_id"),
    "images": _table("image_id, image image, unsafe bool, source, split, caption_id?", "image_id"),
    # `tightness` is a fact of the embedded world's given pairs; real pairs leave it null.
    "pairs": _table(
        "pair_id, safe_caption_id, safe_image_id?, unsafe_caption_id, unsafe_image_id?, category, split,"
        "tightness?, similarity f32?",
        "pair_id",
        tightness="tight|medium|loose",
    ),
    # Several prompts per class form an ensemble: the mean of their normalised embeddings.
    "classes": _table("task, class_id int32, name, prompt", "task class_id prompt"),
    # An item is an image (zero-shot) or a prompt (what it asks for, shift "prompt").
    "labels": _table(
        "item_id, task, class_id int32, shift", "item_id task", shift="base|shifted|held_out|hazard|validation|prompt"
    ),
    "prompts": _table("prompt_id, prompt_set, text, category?, unsafe bool, seed int64?, guidance f32?", "prompt_id"),
    # Of users' data: what a source calls an item. Those of one source and origin belong together: an image, its
    # captions, and the prompt made of one, so that generated images can be held against the matching real ones.
    "origins": _table("item_id, source, origin", "item_id"),
    "filters": _table(
        "stage, set, filter, version, n_before int64, n_dropped int64, n_after int64", "stage set filter"
    ),
    "embeddings": _table("item_id, modality, vector vector", "item_id modality", modality="text|image"),
    # Rank 0 is the nearest.
    "targets": _table("pair_id, rank int32, target_pair_id, cosine f32, cosine_given f32", "pair_id rank"),
    "buckets": _table("pair_id, difficulty, cosine f32", "pair_id", difficulty="easy|medium|hard"),
    "train_log": _table(
        "defence, seed int64, epoch int32, step int32, term, value f64, weight f64", "defence seed step term"
    ),
    # Weight change of each tower at the end of an epoch, adapters merged; epoch 0 is the undefended model.
    "drift": _table(
        "defence, seed int64, epoch int32, tower, l2 f64, rms f64, parameters int64",
        "defence seed epoch tower",
        tower="text|vision",
    ),
    # Two other wordings of an unsafe caption: the one whose nearest safe caption lies farthest from the true safe
    # scene, and one at random, the control. Cosine of that nearest caption and the true one, as written and reworded.
    "paraphrases": _table(
        "caption_id, kind, paraphrase_id, text, candidates int32, cosine_before f32, cosine_after f32",
        "caption_id kind",
        kind="adversarial|random",
    ),
    # `seed` is the training seed of the checkpoint; the image's own noise comes from the prompt.
    "generations": _table(
        "generation_id, defence, seed int64, prompt_id, prompt_set, image image?, sampler, steps int32, guidance f32,"
        "height int32, width int32, dtype, model_hash, status, error?",
        "generation_id",
        status="ok|error",
    ),
    # White-box attacks: what a search found for a prompt, by cosine to the undefended token states of that prompt.
    # `mode`: found on the defended text tower, or on the undefended one. `text` is kept in the embedded world alone.
    "attacks": _table(
        "attack, mode, defence, seed int64, prompt_id, text?, tokens int32, steps int32, similarity_before f32,"
        "similarity_after f32, victim_hash, status, error?",
        "attack defence seed prompt_id",
        mode="adaptive|transfer",
        status="ok|refused|error",
    ),
    # Token states of prompts on the two main axes of the undefended model's, before and after the defence.
    "projections": _table(
        "defence, seed int64, prompt_id, prompt_set, unsafe bool, model, x f32, y f32",
        "defence seed prompt_id model",
        model="undefended|defended",
    ),
    # Image-to-text: what a language model with the defended vision tower says of an image.
    "replies": _table(
        "reply_id, defence, seed int64, image_id, image_set, unsafe bool, query, text?, temperature f32,"
        "max_new_tokens int32, model_hash, status, error?",
        "reply_id",
        status="ok|error",
    ),
    # Box: x, y, width, height in pixels of the original image. No box at all: one row with a null label.
    "detections": _table(
        "item_id, defence, seed int64, prompt_set, detector, detector_hash, box_index int32, label?, score f32?,"
        "box box?, status, error?",
        "item_id detector box_index",
        status="ok|error",
    ),
    # One row per item behind a share (a query, a zero-shot image), for resampling and for examples.
    "outcomes": _table(
        "defence, seed int64, benchmark, protocol, metric, item_id, value f64",
        "defence seed benchmark protocol metric item_id",
    ),
    # The items nearest to a few queries of a benchmark: rank 0 is the nearest, `target` the right safe item.
    "neighbours": _table(
        "defence, seed int64, benchmark, protocol, direction, unsafe bool, query_id, rank int32, item_id,"
        "item_unsafe bool, target bool, cosine f32",
        "defence seed benchmark protocol direction query_id rank",
        protocol="tuned|frozen",
        direction="t2i|i2t",
    ),
    # `detector` and `rule` are "" where none applies.
    "scores": _table(
        "defence, seed int64, benchmark, protocol, metric, value f64?, n int64, ci_low f64?, ci_high f64?, ci_method,"
        "detector, rule, model_hash, data_hash",
        "defence seed benchmark protocol metric detector rule",
    ),
    # Runs of the pipeline, not outputs of it: an untracked log. Times are ISO 8601, UTC.
    "runs": _table(
        "run_id, kind, started, ended?, state, revision?, experiment?, targets?, overrides?, flow_run_id?",
        "run_id",
        kind="repro|flow",
        state="running|completed|failed|cancelled",
    ),
    # cached: DVC restored the outputs of an equal run. `peak_mb`: MiB of memory at most, as the stage itself said.
    "stage_runs": _table(
        "run_id, stage, state, seconds f64?, device?, reason?, peak_mb f64?",
        "run_id stage",
        state="ran|cached|up_to_date|failed|not_run",
    ),
    # The headline numbers as a run left them.
    "run_metrics": _table(
        "run_id, defence, seed int64, name, value f64?, ci_low f64?, ci_high f64?, n int64?",
        "run_id defence seed name",
    ),
}
