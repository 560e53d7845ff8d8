"""A finished run with everything that the page can show, hostile texts too, and the browser that opens the page."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from pipeline.images import image_cell
from pipeline.layout import Data, Results, table_file
from pipeline.report.page import render
from pipeline.report.run import open_run
from pipeline.tables import Output, read_output
from tests.browser import chromium
from tests.conftest import DEFENCES, detection_row, generation_row, score_row

__all__ = ["chromium"]

HOSTILE = (
    "<script>window.broken = 1</script>",
    '"><img src=x onerror="window.broken = 1">',
    '=HYPERLINK("http://example.invalid") \'quoted\' & "twice"',
    "\u202eعربي right to left \u202c 🤖 " + "verylong" * 80,
)


def picture(seed: int, size: int = 32) -> np.ndarray:
    """Noise (size, size, 3) uint8: pixelating changes it, and no two are alike."""
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def _benchmark(data: Data) -> None:
    """Two quadruples with images; the safe caption of each is hostile."""
    output = Output(data.nsfwcaps, {"stage": "build_nsfwcaps", "versions": {"torch": "1"}})
    captions, images, pairs = [], [], []
    for i in range(2):
        for kind, text in (("s", HOSTILE[i]), ("u", f"{HOSTILE[i + 2]} with a knife")):
            captions.append(
                {"caption_id": f"{kind}c{i}", "text": text, "unsafe": kind == "u", "category": "weapons", "source": "t",
                 "split": "benchmark", "family": str(i)}
            )  # fmt: skip
            images.append(
                {"image_id": f"{kind}i{i}", "image": image_cell(picture(100 + 2 * i + (kind == "u"))),
                 "unsafe": kind == "u", "source": "t", "split": "benchmark", "caption_id": f"{kind}c{i}"}
            )  # fmt: skip
        pairs.append(
            {"pair_id": f"q{i}", "safe_caption_id": f"sc{i}", "safe_image_id": f"si{i}", "unsafe_caption_id": f"uc{i}",
             "unsafe_image_id": f"ui{i}", "category": "weapons", "split": "benchmark", "tightness": None,
             "similarity": 0.7 + i / 10}
        )  # fmt: skip
    output.write(table_file("captions"), "captions", captions)
    output.write(table_file("images"), "images", images)
    output.write(table_file("pairs"), "pairs", pairs)
    output.finish()


def _more_scores(data: Data, defence: str) -> None:
    """Neighbours of both directions, and projections, beside the scores that are there."""
    folder = data.scores(defence)
    kept = {name: read_output(folder, name).to_pylist() for name in ("scores", "detections")}
    for name, metric in (("world_unsafe", "asr"), ("world_safe", "false_positive_rate")):
        kept["scores"].append(
            score_row(defence, f"generation/{name}", "", metric, 0.25, detector="world@h", rule="hazard")
        )
    rows = []
    for protocol in ("tuned", "frozen"):
        for direction, ask, found in (("t2i", "c", "i"), ("i2t", "i", "c")):
            for rank, item in enumerate((f"u{found}0", f"s{found}0", f"s{found}1")):
                rows.append(
                    {"defence": defence, "seed": 0, "benchmark": "nsfwcaps", "protocol": protocol, "unsafe": True,
                     "direction": direction, "query_id": f"u{ask}0", "rank": rank, "item_id": item,
                     "item_unsafe": item.startswith("u"), "target": rank == 1, "cosine": 0.9 - rank / 10}
                )  # fmt: skip
    points = [
        {"defence": defence, "seed": 0, "prompt_id": f"{kind}{i}", "prompt_set": "world_unsafe", "unsafe": kind == "u",
         "model": model, "x": float(i), "y": float(i) + (model == "defended")}
        for kind in "us" for i in range(3) for model in ("undefended", "defended")
    ]  # fmt: skip
    output = Output(folder, {"stage": "score", "defence": defence, "inputs": {"world": "aa", "list": ["b", "c"]}})
    for name, own in (*kept.items(), ("neighbours", rows), ("projections", points)):
        output.write(table_file(name), name, own)
    output.finish()


def _drift(data: Data, defence: str) -> None:
    log = read_output(data.checkpoints(defence), "train_log").to_pylist()
    output = Output(data.checkpoints(defence), {"stage": "train", "defence": defence, "more": HOSTILE[0]})
    output.write(table_file("train_log"), "train_log", log)
    rows = [
        {"defence": defence, "seed": 0, "epoch": epoch, "tower": tower, "l2": 2.0 * epoch, "rms": 0.1, "parameters": 9}
        for epoch in range(3) for tower in ("text", "vision")
    ]  # fmt: skip
    output.write(table_file("drift"), "drift", rows)
    output.finish()


def _generations(data: Data, defence: str) -> None:
    """One image of every kind that the rule has to tell apart: judged safe (s0), flagged (u0), no verdict (u2)."""
    names = [("u0", "world_unsafe"), ("u2", "world_unsafe"), ("s0", "world_safe"), ("s2", "world_safe")]
    rows = [generation_row(f"{defence}-{prompt}", defence, prompt, name) for prompt, name in names]
    for number, row in enumerate(rows):
        row["image"] = image_cell(picture(number + 10 * DEFENCES.index(defence)))
    output = Output(data.generations(defence), {"stage": "generate", "defence": defence})
    output.write(table_file("generations"), "generations", rows)
    output.finish()
    folder = data.scores(defence)
    kept = {name: read_output(folder, name).to_pylist() for name in ("scores", "neighbours", "projections")}
    judged = read_output(folder, "detections").to_pylist()
    judged.append(detection_row(f"{defence}-s0", defence, "world_safe", "nudenet", 0))
    output = Output(folder, {"stage": "score", "defence": defence})
    for name, own in (*kept.items(), ("detections", judged)):
        output.write(table_file(name), name, own)
    output.finish()


@pytest.fixture
def full(finished: Path) -> Path:
    """`finished` with everything that the page can show; prompts and captions are hostile."""
    data = Data(finished)
    prompts = [
        {"prompt_id": f"{kind}{i}", "prompt_set": name, "text": f"{(HOSTILE * 2)[i + (kind == 's')]} {kind}{i}",
         "category": "weapons" if kind == "u" else None, "unsafe": kind == "u", "seed": None, "guidance": None}
        for kind, name in (("u", "world_unsafe"), ("s", "world_safe")) for i in range(4)
    ]  # fmt: skip
    output = Output(data.prompts, {"stage": "prompts", "params": {"files": HOSTILE[1]}})
    output.write(table_file("prompts"), "prompts", prompts)
    dropped = {"stage": "prompts", "set": "world_unsafe", "filter": "age_words", "version": HOSTILE[0]}
    output.write(table_file("filters"), "filters", [{**dropped, "n_before": 5, "n_dropped": 1, "n_after": 4}])
    output.finish()
    _benchmark(data)
    buckets = Output(data.buckets, {"stage": "bucket_difficulty"})
    rows = [{"pair_id": f"p{i}", "difficulty": level, "cosine": 0.5} for i, level in enumerate(("easy", "hard"))]
    buckets.write(table_file("buckets"), "buckets", rows)
    buckets.finish()
    for defence in DEFENCES:
        _more_scores(data, defence)
        _drift(data, defence)
        _generations(data, defence)
    return finished


def build(data: Path, defences: tuple[str, ...] = DEFENCES, show_flagged: bool = False) -> str:
    """The page of a run as text."""
    return render(open_run(data, Results(data.parent / "results").root, defences, show_flagged))


_pages: dict[str, str] = {}


@pytest.fixture
def text(full: Path) -> str:
    """The page of `full`, which is the same in every test: built once."""
    if "text" not in _pages:
        _pages["text"] = build(full)
    return _pages["text"]


@pytest.fixture
def flagged(full: Path) -> str:
    """The same page with flagged images shown."""
    if "flagged" not in _pages:
        _pages["flagged"] = build(full, show_flagged=True)
    return _pages["flagged"]


@pytest.fixture
def opened(chromium: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Open a page's text from a file: `page.complaints` fills with what the console and the policy say."""
    contexts = []

    def opener(text: str, **options: object) -> Page:
        file = tmp_path / "page" / "index.html"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.complaints, page.requested = [], []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(file.as_uri())
        return page

    yield opener
    for context in contexts:
        context.close()


def pixels(data: bytes) -> np.ndarray:
    """Pixels of an encoded image, (H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
