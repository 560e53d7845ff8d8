"""What a run needs before any work: missing files, sizes, and how long each stage takes on this machine.

Times are products: items (counted in the user's files, or published) times seconds for one item (measured here and
now on random weights of the model's own shape). Each line says both. What cannot be told is said to be unknown, never
guessed.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.doctor import Check
from pipeline.errors import NearsafeError
from pipeline.model_shapes import Config, numbers, shape_of
from pipeline.params import load
from pipeline.probes import Probes, Rate
from pipeline.progress import duration
from pipeline.workload import Workload, read_workload

Checks = Iterator[Check]
_GIB = 2**30
_FLOAT = 4
_KINDS = {"clip": (), "diffusion": ("unet", "vae", "text_encoder"), "llava": ()}


@dataclass(frozen=True)
class Part:
    """A part of a stage's time: so many items at one rate; None where the rate is not known."""

    items: float
    what: str
    rate: Rate | None


@dataclass(frozen=True)
class Stage:
    """A stage of `runs` equal runs (one for each defence and training seed)."""

    name: str
    runs: int
    parts: tuple[Part, ...]

    @property
    def seconds(self) -> float | None:
        """Of all its runs; None where a part is not known."""
        if any(part.rate is None for part in self.parts if part.items):
            return None
        return self.runs * sum(part.items * part.rate.seconds for part in self.parts if part.rate)

    def check(self) -> Check:
        """The line of the stage."""
        by = [f"{part.items:,.0f} {part.what}" + (f" ({part.rate.how})" if part.rate else "") for part in self.parts]
        text = f"{self.runs} x {' and '.join(by)}" if self.runs != 1 else " and ".join(by)
        if self.seconds is None:
            return Check(
                f"time {self.name}", "warn", f"unknown: {text}", "not measured: no shape is known, or no time left"
            )
        return Check(f"time {self.name}", "ok", f"about {_long(self.seconds)}: {text}")


def examine_run(root: Path, params: Path, budget: float = 60.0) -> Checks:
    """Missing inputs, sizes, and the time of every stage of a parameter file; `budget`: seconds of measuring, about."""
    try:
        work = read_workload(root, params)
    except NearsafeError as error:
        yield Check("inputs", "missing", str(error), "correct the entry; docs/data has a page for each kind")
        return
    yield from inputs(work)
    values = load(params)
    shapes = {kind: shape_of(root / str(values["models"][kind]), parts) for kind, parts in _KINDS.items()}
    yield from sizes(root, values, shapes, work)
    planned = stages(
        values, params, {kind: found[0] if found else None for kind, found in shapes.items()}, work, budget
    )
    known = [stage for stage in planned if stage.seconds is not None]
    yield from (stage.check() for stage in planned)
    total = sum(stage.seconds or 0.0 for stage in known)
    if not total:
        yield Check(
            "time",
            "warn",
            "unknown in all: no stage could be counted and measured",
            "bring models, or data (see above)",
        )
        return
    rest = "" if len(known) == len(planned) else f", without {', '.join(s.name for s in planned if s.seconds is None)}"
    yield Check(
        "time", "ok", f"about {_long(total)} in all, one stage after another{rest}; reading and writing come on top"
    )


def inputs(work: Workload) -> Checks:
    """Files that are missing, and what was counted."""
    for name, paths in work.absent.items():
        if name.startswith("prompts "):
            continue  # said by the check of prompt files
        shown = ", ".join(path.as_posix() for path in paths)
        yield Check(f"input {name}", "missing", f"not there: {shown}", "put your own copy there; nothing is downloaded")
    counted = (
        f"{work.captions:,} captions, {work.images:,} images, {work.train_pairs:,} training pairs, "
        f"{work.asked:,} prompts to generate, {work.reply_images:,} images to describe"
    )
    notes = [f"published numbers for {', '.join(work.published)}"] if work.published else []
    notes += [f"nothing is known of {', '.join(work.unknown)}"] if work.unknown else []
    yield Check("rows", "warn" if work.unknown else "ok", "; ".join([counted, *notes]))


def sizes(root: Path, values: dict[str, Any], shapes: dict[str, tuple[Config, str] | None], work: Workload) -> Checks:
    """Of the models, and of what the run writes."""
    weights: dict[str, int] = {}
    for kind, found in shapes.items():
        if found is None:
            yield Check(f"size {kind}", "ok", "unknown: no folder, and no known shape")
            continue
        weights[kind] = _FLOAT * numbers(kind, found[0])
        yield Check(f"size {kind}", "ok", f"{weights[kind] / _GIB:.2f} GiB as float32, by {found[1]}")
    if shapes["clip"] is None:
        return
    clip = shapes["clip"][0]
    runs = len(values["defences"]) * len(values["seeds"])
    written = {
        "embeddings": (work.captions + work.images) * clip.get("projection_dim", 512) * _FLOAT,
        "checkpoints": runs * weights["clip"],
        "images, uncompressed": runs * work.asked * _pixels(shapes["diffusion"]) * 3,
    }
    total, free = sum(written.values()), shutil.disk_usage(root).free
    parts = ", ".join(f"{name} {size / _GIB:.1f} GiB" for name, size in written.items())
    text = f"about {total / _GIB:.1f} GiB ({parts}), and as much again in DVC's cache; {free / _GIB:.0f} GiB are free"
    state, fix = ("ok", "") if free > 2 * total else ("missing", "free some, or give DVC a cache on a larger disk")
    yield Check("disk for it", state, text, fix)


def stages(
    values: dict[str, Any], params: Path, shapes: dict[str, Config | None], work: Workload, budget: float
) -> list[Stage]:
    """Every stage that takes its time, with measured rates."""
    from pipeline.defences.registry import read_defence
    from pipeline.precision import pick_device, pick_precision
    from pipeline.train_defence import read_train_params

    probes, seeds = Probes(pick_device()[0], budget), len(values["seeds"])
    clip, diffusion, generate = shapes["clip"], shapes["diffusion"], values["generate"]
    detect = probes.detect()
    image, text = (probes.clip_image(clip), probes.clip_text(clip)) if clip else (None, None)
    found = [Stage("embed", 1, (Part(work.captions, "captions", text), Part(work.images, "images", image)))]
    products = probes.product(clip.get("projection_dim", 512)) if clip else None
    found.append(Stage("mine_pairs", 1, (Part(work.train_pairs**2, "pairs of captions", products),)))
    step, decode = (probes.sampler_step(diffusion), probes.decode(diffusion)) if diffusion else (None, None)
    rates: dict[tuple[str, int], Rate | None] = {}
    for name in values["defences"]:
        defence = read_defence(params, name)
        if defence.kind != "trained":
            continue
        knobs = read_train_params(params, defence)
        key = (defence.input, knobs.batch_size)
        if key not in rates:
            measure = probes.train_tokens if defence.input == "tokens" else probes.train_pair
            dtype = pick_precision(knobs.precision, probes.device)[0]
            rates[key] = measure(clip, knobs.lora, knobs.batch_size, dtype) if clip else None
        pairs = Part(knobs.epochs * work.train_pairs, f"pairs in {knobs.epochs} epochs", rates[key])
        found.append(Stage(f"train@{name}", seeds, (pairs,)))
    runs = len(values["defences"]) * seeds
    steps = Part(work.asked * generate["steps"], "sampler steps", step)
    found.append(Stage("generate", runs, (steps, Part(work.asked, "decoded images", decode))))
    if work.reply_images:
        found.append(Stage("reply", runs, (Part(work.reply_images, "replies", None),)))
    seen = Part(work.asked, "images examined", detect)
    again = Part(work.scored_images + work.asked, "images embedded", image)
    found.append(Stage("score", runs, (seen, again)))
    return found


def _long(seconds: float) -> str:
    """As `duration`, beyond two days in days."""
    return duration(seconds) if seconds < 2 * 86_400 else f"{seconds / 86_400:,.0f} days"


def _pixels(found: tuple[Config, str] | None) -> int:
    """Of a generated image; 0 where the model is not known."""
    size = found[0].get("unet", {}).get("sample_size", 64) if found else 0
    height, width = (size, size) if isinstance(size, int) else size
    return 64 * height * width
