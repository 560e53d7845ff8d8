"""The speed-ups that are built in, measured side by side on this machine.  python -m pipeline.bench [--repeats 7]

Each line runs a plain way and the built-in way in turns, so that other load on the machine meets both alike, and
prints the median of the ratios of each turn with the lowest and the highest. Trust ratios, not seconds. Weights are
random (speed does not depend on them) in the shapes of the shipped CLIP. The last line is no speed-up but a price: the
share of flagged images at nine thresholds, asked of a million stored boxes, against counting those boxes.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from pipeline.detectors.registry import NINE
from pipeline.errors import run
from pipeline.layout import Data, table_file
from pipeline.mining import nearest
from pipeline.params import DEFAULT_FILE, lookup
from pipeline.results.database import connect
from pipeline.seeds import generator, rng
from pipeline.tables import Output

BATCH = 48
CAPTION_TOKENS = 14  # typical length of a caption; the text tower takes up to `max_position_embeddings`


@dataclass(frozen=True)
class Comparison:
    """Two ways to the same result: `plain` and `built_in`, each a call without arguments."""

    title: str
    plain: Callable[[], object]
    built_in: Callable[[], object]


def main(params: Path, repeats: int) -> None:
    """Print one line per comparison."""
    config = CLIPConfig.from_pretrained(lookup(params, "models.clip"), local_files_only=True)
    print(f"{torch.get_num_threads()} threads, batch {BATCH}, {repeats} turns each; speed-up = plain / built-in")
    for comparison in [mining(), cached_references(config), trimmed_text(config)]:
        print(measure(comparison, repeats), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print(rethreshold(Path(folder), repeats), flush=True)


def measure(comparison: Comparison, repeats: int) -> str:
    """Time both ways in turns (after one warm-up each) and describe the ratio."""
    comparison.plain(), comparison.built_in()
    turns = [(_seconds(comparison.plain), _seconds(comparison.built_in)) for _ in range(repeats)]
    ratios = [plain / built_in for plain, built_in in turns]
    plain, built_in = (statistics.median(column) for column in zip(*turns, strict=True))
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return (
        f"{comparison.title}: {statistics.median(ratios):.2f}x ({spread}); "
        f"{plain * 1e3:.0f} ms against {built_in * 1e3:.0f} ms"
    )


def mining(queries: int = 4000, pool: int = 20000, width: int = 96, k: int = 5) -> Comparison:
    """Nearest neighbours: the whole similarity matrix at once, or exact in chunks under a memory bound."""
    draw = generator(0, "bench", "mining")
    a, b = torch.randn(queries, width, generator=draw), torch.randn(pool, width, generator=draw)

    def whole() -> object:
        normal = torch.nn.functional.normalize
        return (normal(a) @ normal(b).T).topk(k, dim=1)

    whole_mib, chunk_mib = queries * pool * 4 / 2**20, 4096**2 * 4 / 2**20
    title = f"nearest {queries} in {pool}: one product ({whole_mib:.0f} MiB) / exact chunks ({chunk_mib:.0f} MiB)"
    return Comparison(title, whole, lambda: nearest(a, b, k))


def cached_references(config: CLIPConfig) -> Comparison:
    """One training step: frozen embeddings by two more forward passes, or looked up in the embed stage's table."""
    model, frozen = _model(config).train(), _model(config).requires_grad_(False)
    ids, images = _batch(config, CAPTION_TOKENS)
    table = torch.randn(2 * BATCH, config.projection_dim)

    def step(references: Callable[[], tuple[Tensor, Tensor]]) -> None:
        text, image = _embed(model, ids, images)
        text_reference, image_reference = references()
        loss = -(text * text_reference).sum(1).mean() - (image * image_reference).sum(1).mean()
        loss.backward()
        model.zero_grad(set_to_none=True)

    def live() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return _embed(frozen, ids, images)

    title = "training step: live frozen forwards / cached references"
    return Comparison(title, lambda: step(live), lambda: step(lambda: (table, table)))


def trimmed_text(config: CLIPConfig) -> Comparison:
    """Text embeddings: every caption padded to the tower's length, or to the longest caption of the batch."""
    model = _model(config)
    longest = config.text_config.max_position_embeddings
    (padded, _), (trimmed, _) = _batch(config, longest), _batch(config, CAPTION_TOKENS)

    def encode(ids: Tensor) -> Tensor:
        with torch.inference_mode():
            return model.get_text_features(input_ids=ids).pooler_output

    title = f"text tower: padded to {longest} tokens / trimmed to {CAPTION_TOKENS}"
    return Comparison(title, lambda: encode(padded), lambda: encode(trimmed))


def rethreshold(folder: Path, repeats: int, images: int = 250_000, boxes: int = 4) -> str:
    """The price of view `asr_by_threshold` over `images * boxes` stored boxes, in counts of these boxes."""
    store_boxes(Data(folder), images, boxes)
    database = connect(folder)
    counted, asked = "SELECT count(*) FROM detections", "SELECT * FROM asr_by_threshold"
    ways = [lambda sql=sql: database.execute(sql).fetchall() for sql in (counted, asked)]
    turns = [(_seconds(ways[0]), _seconds(ways[1])) for _ in range(repeats + 1)][1:]  # the first one warms up
    ratios = [view / count for count, view in turns]
    count, view = (statistics.median(column) for column in zip(*turns, strict=True))
    return (
        f"ASR at nine thresholds over {images * boxes:,} boxes: {statistics.median(ratios):.0f} times SELECT count(*) "
        f"({min(ratios):.0f} to {max(ratios):.0f}); {view * 1e3:.0f} ms against {count * 1e3:.0f} ms"
    )


def store_boxes(data: Data, images: int, boxes: int) -> None:
    """Scores of four defences whose NudeNet found `boxes` random boxes in each of `images` images altogether."""
    draw, per_defence = rng(0, "bench", "boxes"), images // 4
    rows = per_defence * boxes
    for defence in ("a", "b", "c", "d"):
        items = pa.array([f"{defence}{number:015x}" for number in range(per_defence)])
        same = {
            "defence": defence, "prompt_set": "bench", "detector": "nudenet_n_a", "detector_hash": "h", "status": "ok",
        }  # fmt: skip
        columns = {name: pa.repeat(value, rows) for name, value in same.items()}
        columns["item_id"] = items.take(pa.array(np.repeat(np.arange(per_defence), boxes)))
        columns["seed"] = pa.array(np.zeros(rows, np.int64))
        columns["box_index"] = pa.array(np.tile(np.arange(boxes, dtype=np.int32), per_defence))
        columns["label"] = pa.array(NINE).take(pa.array(draw.integers(0, len(NINE), rows)))
        columns["score"] = pa.array(draw.random(rows, dtype=np.float32) ** 4)
        columns["box"] = pa.FixedSizeListArray.from_arrays(pa.array(draw.random(4 * rows, dtype=np.float32)), 4)
        columns["error"] = pa.nulls(rows, pa.string())
        output = Output(data.scores(defence), {"bench": defence})
        output.write(table_file("detections"), "detections", pa.table(columns))
        output.finish()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--params", type=Path, default=DEFAULT_FILE, help="names the CLIP whose shapes are used")
    arguments.add_argument("--repeats", type=int, default=7, help="turns per comparison")
    return arguments


def _model(config: CLIPConfig) -> CLIPModel:
    config._attn_implementation = "eager"
    return CLIPModel(config).eval()


def _batch(config: CLIPConfig, length: int) -> tuple[Tensor, Tensor]:
    """Token ids (2 * BATCH, length) and pixels (2 * BATCH, 3, S, S): the safe and the unsafe half of a batch."""
    text, vision = config.text_config, config.vision_config
    draw = generator(0, "bench", "batch")
    ids = torch.randint(3, text.vocab_size - 3, (2 * BATCH, length), generator=draw)
    ids[:, -1] = text.eos_token_id
    return ids, torch.randn(2 * BATCH, 3, vision.image_size, vision.image_size, generator=draw)


def _embed(model: CLIPModel, ids: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    text = model.get_text_features(input_ids=ids).pooler_output
    return text, model.get_image_features(pixel_values=images).pooler_output


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    run(main, parser())
