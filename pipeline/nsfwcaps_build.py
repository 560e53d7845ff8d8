"""From a world's safe captions and images to the finished NSFWCaps output: all splits, resumable, with a data card."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import NearsafeError
from pipeline.ids import content_id
from pipeline.images import image_cell
from pipeline.layout import MANIFEST, shard_file, table_file
from pipeline.models.hashing import source_hash
from pipeline.nsfwcaps import STAGE, Candidate, NsfwcapsParams, Tools, select
from pipeline.nsfwcaps_alignment import load_embedder
from pipeline.nsfwcaps_card import Facts, write_card
from pipeline.nsfwcaps_given import take_given
from pipeline.nsfwcaps_images import Renderer, load_renderer
from pipeline.params import lookup, section, to_spec
from pipeline.rewriting.registry import Given, load_rewriter
from pipeline.rewriting.resume import Resumable
from pipeline.rewriting.wording import load_wording
from pipeline.shards import iterate_output, output_hash
from pipeline.tables import Output, check_references, read_output

Row = dict[str, Any]
Log = Callable[[str], None]
_RESUME = ".resume"
_LIBRARIES = ("torch", "transformers", "diffusers")
# All code of the package that the output depends on: an interrupted run goes on only where none of it has changed.
_CODE = (
    "agewords.py errors.py files.py following.py ids.py images.py layout.py memory.py parallel.py params.py "
    "precision.py prompts.py schemas.py seeds.py shards.py storage.py tables.py validation.py written.py "
    "models/activation.py models/callbacks.py models/clip.py models/clip_files.py models/conditioning.py "
    "models/diffusion.py models/families/family.py models/families/registry.py models/families/sd3.py "
    "models/families/sdxl.py models/families/stable_diffusion.py models/folders.py models/hashing.py "
    "models/hub.py models/loading.py models/predicting.py models/quiet.py models/sampler.py models/slots.py "
    "world/drawing.py world/grammar.py world/rewriting.py world/scenes.py world/shapes.py"
).split()


@dataclass(frozen=True)
class Run:
    """What the splits of one run share."""

    knobs: NsfwcapsParams
    seed: int
    tools: Tools
    renderer: Renderer | None
    world: Path
    output: Output
    log: Log

    @property
    def source(self) -> str:
        """Source of the unsafe rows."""
        kind = self.knobs.rewriter.kind
        return f"nsfwcaps/{'world' if kind == 'grammar' else kind}"


def build_nsfwcaps(params: Path, world: Path, clip: Path, out: Path, log: Log) -> None:
    """Write captions, images, pairs, filters and the data card. An interrupted run of the same spec is continued.

    Raises NearsafeError where too few quadruples are left, and for a model or endpoint that cannot be used.
    """
    knobs, seed = section(f"{params}:build_nsfwcaps", NsfwcapsParams), int(lookup(params, "seed"))
    if isinstance(knobs.rewriter, Given):
        return take_given(world, knobs.splits, out, log)
    wording = load_wording(knobs.wording, knobs.categories)
    tools = Tools(load_rewriter(knobs.rewriter, wording, seed), load_embedder(knobs.embedder, clip), wording)
    renderer = load_renderer(knobs.images, seed)
    spec = {
        "stage": STAGE,
        "params": to_spec(knobs),
        "seed": seed,
        "inputs": {"world": output_hash(world), "clip": tools.embedder.facts["model"]},
        "rewriter": {"name": tools.rewriter.name, **tools.rewriter.facts},
        "embedder": {"name": tools.embedder.name, **tools.embedder.facts},
        "images": {"name": renderer.name, **renderer.facts} if renderer else None,
        "wording": {
            "allowed": sorted(wording.allowed),
            "refused": sorted(wording.refused),
            "hazards": to_spec(wording.hazards),
        },
        "versions": {library: version(library) for library in _LIBRARIES},
        "code": source_hash(code_files(Path(__file__).parent)),
    }
    log(f"rewriter: {tools.rewriter.name}; alignment: {tools.embedder.name}")
    output = Output(out, spec, resume=not (out / MANIFEST).exists())
    run = Run(knobs, seed, tools, renderer, world, output, log)
    captions, pairs, filters = [], [], []
    taken: list[str] = []
    for split in knobs.splits:
        rows = _split(run, split, taken, quadruples_before=len(pairs))
        captions += rows["captions"]
        pairs += rows["pairs"]
        filters += rows["filters"]
        taken += [row["text"] for row in rows["captions"]]
    for name, table in {"captions": captions, "pairs": pairs, "filters": filters}.items():
        output.write(table_file(name), name, table)
    output.add_file(write_card(out, _facts(run), pairs, captions, filters))
    output.finish()


def _split(run: Run, split: str, taken: list[str], quadruples_before: int) -> dict[str, list[Row]]:
    """Rows of one split; its images are written in shards on the way. `quadruples_before`: of earlier splits."""

    def log(line: str) -> None:
        run.log(f"{split}: {line}")

    knobs = run.knobs
    pool = safe_pool(run.world, split)
    rewriter = Resumable(run.tools.rewriter, run.output.path / _RESUME / split, knobs.shard_size, log)
    tools = Tools(rewriter, run.tools.embedder, run.tools.wording)
    chosen, filters = select(pool["text"].to_pylist(), split, knobs, tools, run.seed, taken)
    for row in filters:
        log(f"{row['filter']}: {row['n_before']} -> {row['n_after']} ({row['version']})")
    images = safe_images(run.world, set(pool["caption_id"].take(pa.array([c.row for c in chosen])).to_pylist()))
    safe_rows = pool.to_pylist()
    tables = quadruples(safe_rows, images, chosen, run)
    first = quadruples_before // knobs.size * -(-knobs.size // knobs.shard_size)
    for number, start in enumerate(range(0, len(chosen), knobs.shard_size)):
        name, part = shard_file("images", first + number), slice(start, start + knobs.shard_size)
        if run.output.done(name):
            continue
        safe = [images[safe_rows[c.row]["caption_id"]] for c in chosen[part]]
        run.output.write(name, "images", list(_image_rows(run, safe, chosen[part], tables["pairs"][part])))
        if run.renderer:
            log(f"rendered {min(start + knobs.shard_size, len(chosen))} of {len(chosen)} unsafe images")
    return {**tables, "filters": filters}


def _image_rows(run: Run, safe: list[Row], chosen: list[Candidate], pairs: list[Row]) -> Iterator[Row]:
    """The safe image of each quadruple as it is in the pool, and the unsafe one where there is a renderer."""
    made: list[Any] = [None] * len(chosen)
    if run.renderer:
        made = run.renderer.render([c.unsafe for c in chosen], [content_id(c.unsafe) for c in chosen])
    for image, drawn, pair in zip(safe, made, pairs, strict=True):
        yield image
        if drawn is not None:
            yield {
                "image_id": pair["unsafe_image_id"],
                "image": image_cell(drawn),
                "unsafe": True,
                "source": run.source,
                "split": pair["split"],
                "caption_id": pair["unsafe_caption_id"],
            }


def quadruples(captions: list[Row], images: dict[str, Row], chosen: list[Candidate], run: Run) -> dict[str, list[Row]]:
    """Rows of captions and pairs; the safe half keeps the ids it has in the world."""
    tables: dict[str, list[Row]] = {"captions": [], "pairs": []}
    for candidate in chosen:
        safe = captions[candidate.row]
        unsafe_id, image_id = (content_id(run.source, candidate.unsafe, prefix=prefix) for prefix in "ci")
        unsafe = {
            "caption_id": unsafe_id,
            "text": candidate.unsafe,
            "unsafe": True,
            "category": candidate.category,
            "source": run.source,
            "split": safe["split"],
            "family": safe["family"],
        }
        tables["captions"] += [safe, unsafe]
        tables["pairs"].append(
            {
                "pair_id": content_id(safe["caption_id"], unsafe_id, prefix="p"),
                "safe_caption_id": safe["caption_id"],
                "safe_image_id": images[safe["caption_id"]]["image_id"],
                "unsafe_caption_id": unsafe_id,
                "unsafe_image_id": image_id if run.renderer else None,
                "category": candidate.category,
                "split": safe["split"],
                "tightness": "tight" if run.knobs.rewriter.kind == "grammar" else None,
                "similarity": candidate.alignment,
            }
        )
    return tables


def safe_pool(world: Path, split: str) -> pa.Table:
    """Safe captions of a split that have an image. Raises NearsafeError where there is none."""
    everything = read_output(world, "captions")
    captions = everything.filter(pc.and_(pc.equal(everything["split"], split), pc.invert(everything["unsafe"])))
    if captions.num_rows == 0:
        known = ", ".join(sorted(set(everything["split"].to_pylist())))
        raise NearsafeError(f"{world}: captions: no safe row of split {split!r}; splits: {known}")
    shown: set[str] = set()
    for file, table in iterate_output(world, "images"):
        check_references(table, "caption_id", everything["caption_id"], file, "captions")
        shown.update(table["caption_id"].drop_null().to_pylist())
    return captions.filter(pc.is_in(captions["caption_id"], pa.array(sorted(shown), pa.string())))


def safe_images(world: Path, caption_ids: Collection[str]) -> dict[str, Row]:
    """Image rows by caption id: pictures as bytes, or URLs and paths as they are."""
    wanted = pa.array(sorted(caption_ids), pa.string())
    found: dict[str, Row] = {}
    for _, table in iterate_output(world, "images"):
        found |= {row["caption_id"]: row for row in table.filter(pc.is_in(table["caption_id"], wanted)).to_pylist()}
    return found


def _facts(run: Run) -> Facts:
    knobs = run.knobs
    made = {
        "rewriter": run.tools.rewriter.name,
        "embedder": run.tools.embedder.name,
        "unsafe images": run.renderer.name if run.renderer else "none",
        "minimal edit": f"at most {knobs.max_edits} words changed, length ratio at most {knobs.max_length_ratio:g}",
        "wording file": str(knobs.wording) if knobs.wording else "none",
        "seed": str(run.seed),
    }
    return Facts("NSFWCaps, built by nearsafe", made)


def code_files(package: Path) -> list[Path]:
    """The files of the package's code that answers, choice, images and card depend on."""
    own = (file for pattern in ("nsfwcaps*.py", "rewriting/[a-z]*.py") for file in package.glob(pattern))
    return sorted(file for file in own if file.stem != "nsfwcaps_io") + [package / name for name in _CODE]
