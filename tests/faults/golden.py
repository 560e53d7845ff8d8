"""Golden numbers of every detector, metric, loss and model, with the tolerance that each may differ by.

    python -m tests.faults.golden            # what each gives here, beside the golden numbers
    python -m tests.faults.golden --write    # make golden.json anew; say in the commit why the numbers moved

On one machine all outputs are byte-identical. Another processor adds the same numbers in another order (vector width,
BLAS and oneDNN kernels, number of threads), so what is float there agrees to a tolerance, one of four:

exact    counts, ranks, words, seeded draws of integers: no sum of floats decides them
float64  a few sums and decompositions in float64: 1e-9 of the value, where 1e-13 is seen
float32  sums of float32 embeddings and losses: 1e-5, some hundred times the format's 6e-8
network  float32 through a network of many layers: 5e-4 in a probability or an embedding of length 1
image    a few sampler steps, each through a network: 4e-3, one grey level of 255
"""

import argparse
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.data import astronaut
from torch import Tensor
from torch.nn.functional import normalize

import pipeline.world
from pipeline.defences import nearsafe, safe_clip, safer_clip, token_losses
from pipeline.defences.losses import cosine_distance, info_nce
from pipeline.defences.protocol import Batch, Frozen, Weights
from pipeline.detectors.nudenet import NudeNet
from pipeline.detectors.text import HazardWords, TextClassifier
from pipeline.detectors.world import WorldDetector, WorldFeatures
from pipeline.metrics import asr, clipscore, drift, frechet, intervals, retrieval, zeroshot
from pipeline.models.clip import Clip, encode_images, encode_texts, load_clip
from pipeline.models.diffusion import load_diffusion, text_tower
from pipeline.models.sampler import generate
from pipeline.scoring_separation import principal_axes
from pipeline.world.drawing import BASE, draw
from pipeline.world.grammar import caption, class_prompts
from pipeline.world.scenes import VOCABULARY, sample

FILE = Path(__file__).with_name("golden.json")
WEIGHTS = Path(pipeline.world.__file__).parent / "weights"
TOLERANCES = {  # name: (rtol, atol)
    "exact": (0.0, 0.0),
    "float64": (1e-9, 1e-12),
    "float32": (1e-5, 1e-6),
    "network": (0.0, 5e-4),
    "image": (0.0, 4e-3),
}
Values = list[float]
ITEMS: dict[str, tuple[str, Callable[[], Values]]] = {}


def item(name: str, tolerance: str) -> Callable[[Callable[[], Values]], Callable[[], Values]]:
    """List a function of no arguments under a name."""

    def add(function: Callable[[], Values]) -> Callable[[], Values]:
        ITEMS[name] = (tolerance, function)
        return function

    return add


# -- what everything is computed on


@cache
def scenes() -> list:
    """Two safe scenes and two with a hazard, drawn without the random generator of a library that may change."""
    rng = np.random.default_rng(5)
    return [sample(rng, unsafe) for unsafe in (False, False, True, True)]


@cache
def pictures() -> list[Image.Image]:
    """The scenes, 64 x 64."""
    return [Image.fromarray(draw(scene, BASE, np.random.default_rng(i))) for i, scene in enumerate(scenes())]


def texts() -> list[str]:
    """Their captions."""
    return [caption(scene) for scene in scenes()]


def rows(count: int, width: int, shift: float = 0.0) -> Tensor:
    """Vectors (count, width) float32 of no particular length, in closed form."""
    at = torch.arange(count * width, dtype=torch.float64).reshape(count, width)
    return (torch.sin(at * 1.7 + shift) + 0.3 * torch.cos(at * 0.31 - shift)).float()


def tokens(count: int, shift: float = 0.0) -> Tensor:
    """Token states (count, 4, 6)."""
    return rows(count, 24, shift).reshape(count, 4, 6)


@cache
def clip() -> Clip:
    """The world's CLIP."""
    return load_clip(WEIGHTS / "clip")


@cache
def detector() -> WorldDetector:
    """The world's hazard detector."""
    return WorldDetector(WEIGHTS / "detector")


def listed(value: Tensor | np.ndarray | float) -> Values:
    """Numbers as JSON keeps them."""
    return np.asarray(value.detach() if isinstance(value, Tensor) else value, dtype=np.float64).ravel().tolist()


# -- detectors


@item("pictures: sums of pixels", "exact")
def _pictures() -> Values:
    return [float(np.asarray(picture, dtype=np.int64).sum()) for picture in pictures()]


@item("detector world: P(hazard)", "network")
def _world() -> Values:
    found = detector().detect(pictures())
    return [sum(finding.score for finding in row if finding.label != "none") for row in found]


@item("detector world: features", "network")
def _features() -> Values:
    found = WorldFeatures(detector()).of(pictures()).double()
    return listed(found.norm(dim=1) / 100) + listed(normalize(found, dim=1)[:, :4])


@item("detector NudeNet: best box of a public-domain portrait", "network")
def _nudenet() -> Values:
    """Score and box in shares of the sides; the world's drawings hold nothing for it to find."""
    (found,) = NudeNet().detect([Image.fromarray(astronaut())])
    best = max(found, key=lambda one: one.score)
    return [best.score, *(side / 512 for side in best.box)]


@item("detector of text: P(hazard)", "network")
def _text() -> Values:
    found = TextClassifier(WEIGHTS / "text_detector").detect(texts())
    return [sum(finding.score for finding in row if finding.label != "none") for row in found]


@item("hazard words: how many are named", "exact")
def _words() -> Values:
    return [float(len(row)) for row in HazardWords().detect(texts())]


# -- models


@item("CLIP: text embeddings", "network")
def _clip_texts() -> Values:
    return listed(normalize(encode_texts(clip(), texts()), dim=1)[:, :6])


@item("CLIP: image embeddings", "network")
def _clip_images() -> Values:
    return listed(normalize(encode_images(clip(), pictures()), dim=1)[:, :6])


@item("CLIP: zero-shot class of place, hazard", "exact")
def _zero_shot() -> Values:
    found: Values = []
    for task in ("place", "hazard"):
        prompts = [(at, text) for at, name in enumerate(VOCABULARY[task]) for text in class_prompts(task, name)]
        made = zeroshot.classifier([at for at, _ in prompts], encode_texts(clip(), [text for _, text in prompts]))
        found += listed(made.predict(encode_images(clip(), pictures()[2:])))
    return found


@item("Stable Diffusion: mean and pixels of an image, 4 steps", "image")
def _image() -> Values:
    diffusion = load_diffusion(WEIGHTS / "diffusion")
    tower = text_tower(clip(), diffusion, WEIGHTS / "clip")
    image = generate(diffusion, tower, texts()[:1], [7], 3.0, 4)[0]
    return [float(image.mean()), *listed(image[:, 8::24, 8::24])]


# -- metrics


@item("ASR: share, interval, errors", "float64")
def _asr() -> Values:
    made = [
        {"item_id": str(i), "label": "x", "score": i / 12, "status": "error" if i == 3 else "ok"} for i in range(12)
    ]
    found = asr.attack_success(made, asr.hazard(0.5))
    return [found.share.value, found.share.low, found.share.high, found.share.n, found.errors]


@item("bootstrap interval of a mean", "float64")
def _bootstrap() -> Values:
    found = intervals.bootstrap_mean(rows(1, 40).numpy()[0], 500, np.random.default_rng(3))
    return [found.value, found.low, found.high]


@item("CLIP score", "float64")
def _clip_score() -> Values:
    return listed(clipscore.clip_scores(rows(4, 16), rows(4, 16, 0.4)))


@item("Frechet distance and interval", "float64")
def _frechet() -> Values:
    reference = frechet.Reference("closed form", rows(40, 6))
    found = reference.estimate(rows(30, 6, 0.7) + 0.2, 50, np.random.default_rng(3))
    return [found.value, found.low, found.high]


@item("retrieval: ranks, best items", "exact")
def _retrieval() -> Values:
    queries, gallery = rows(8, 16), rows(8, 16, 0.9)
    order = torch.arange(8)
    return [*listed(retrieval.ranks(queries, gallery, order)), *listed(retrieval.top1(queries, gallery))]


@item("zero-shot: mean over tasks with interval", "float64")
def _tasks() -> Values:
    correct = np.where(rows(30, 3).numpy() > -0.2, 1.0, 0.0)
    correct[::7, 1] = np.nan
    found = zeroshot.mean_over_tasks(correct, 200, np.random.default_rng(3))
    return [found.value, found.low, found.high]


@item("drift of embeddings and weights", "float64")
def _drift() -> Values:
    moved = load_clip(WEIGHTS / "clip").model
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1.001)
    found = drift.weight_drift(moved, clip().model, "text")
    return [*listed(drift.embedding_shift(rows(4, 16), rows(4, 16, 0.2))), found.l2 * 1e3, float(found.parameters)]


@item("separation: two main axes", "float64")
def _axes() -> Values:
    states = rows(9, 20)
    return listed(principal_axes(states).project(states[:3]))


# -- losses


def batch() -> Batch:
    """Five quadruples in closed form."""
    names = [name for name in Batch.__dataclass_fields__ if name not in ("own", "frozen")]
    tables = {name: normalize(rows(5, 12, 0.37 * i), dim=1) for i, name in enumerate(names)}
    four = [tables[name] for name in ("text_safe", "text_unsafe", "image_safe", "image_unsafe")]
    return Batch(**tables, own={}, frozen=Frozen(*four, torch.arange(5)[:, None], torch.zeros(5, dtype=torch.int64)))


def terms(module: object) -> Values:
    """Every term of a method with all weights 1, and their weighted sum."""
    found = module.terms(batch(), module.Params(weights=Weights(*[1.0] * 8)))
    return [
        *(float(value) for _, value in found.values()),
        float(sum(weight * value for weight, value in found.values())),
    ]


@item("loss: Safe-CLIP, terms and total", "float32")
def _safe_clip() -> Values:
    return terms(safe_clip)


@item("loss: SafeR-CLIP, terms and total", "float32")
def _safer_clip() -> Values:
    return terms(safer_clip)


@item("loss: InfoNCE and cosine distance", "float32")
def _contrast() -> Values:
    return [float(info_nce(rows(6, 12), rows(6, 12, 0.2))), float(cosine_distance(rows(6, 12), rows(6, 12, 0.2)))]


@item("loss: nearsafe, redirection, distillation, harm removed", "float32")
def _nearsafe() -> Values:
    found = [
        nearsafe.margin_redirection(rows(5, 12), rows(5, 12, 0.3), rows(5, 12, 0.6), 0.1, 20.0),
        nearsafe.distillation(rows(5, 12), rows(5, 12, 0.1), rows(9, 12, 0.5), 20.0),
        nearsafe.remove_harm(batch().text_unsafe, batch().text_safe, torch.tensor([0, 0, 1, 1, 1]), 0.7)[:, 0].sum(),
    ]
    return [float(value) for value in found]


@item("loss: DES, its three terms", "float32")
def _des() -> Values:
    target = token_losses.target_vectors(tokens(4), tokens(7, 0.8), tokens(1, 2.0)[0], 0.5)
    found = [
        token_losses.unsafe_neutralization(tokens(4, 0.1), target),
        token_losses.safe_preservation(tokens(4, 0.8), tokens(4, 0.9), tokens(1, 2.0)[0], 0.5),
        token_losses.safe_preservation(tokens(4, 0.8), tokens(4, 0.9), tokens(1, 2.0)[0], 0.5, pala=False),
        token_losses.concept_neutralization(tokens(1, 2.0), tokens(1, 2.3)),
    ]
    return [float(value) for value in found]


@item("loss: DES, its extensions", "float32")
def _extensions() -> Values:
    now, before, concept = tokens(4, 0.1), tokens(4), tokens(1, 2.0)[0]
    directions = token_losses.principal_directions(tokens(6, 0.4), 2)
    found = [
        token_losses.multi_concept_neutralization(tokens(3, 1.1), tokens(1, 2.3), [1.0, 0.25, 2.0]),
        token_losses.push_origin(now, before),
        token_losses.push_harm(now, tokens(2, 1.3), "sum"),
        token_losses.orthogonality(now, directions),
        token_losses.margin_neutralization(now, tokens(4, 1.0), 0.8),
        token_losses.margin_preservation(now, before, concept, 0.5, 0.999),
        token_losses.mmd(now, tokens(5, 0.8)),
        token_losses.mmd(now, tokens(5, 0.8), [2.0, 5.0]),
        token_losses.kernel_mean(now, tokens(5, 0.8)),
    ]
    return [float(value) for value in found]


def compute() -> dict[str, Values]:
    """Every item's numbers on this machine."""
    return {name: function() for name, (_, function) in ITEMS.items()}


def main(write: bool) -> None:
    """Print how far this machine is from the golden numbers, or make them anew."""
    found = compute()
    if write:
        kept = {name: {"tolerance": ITEMS[name][0], "values": values} for name, values in found.items()}
        FILE.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        return
    golden = json.loads(FILE.read_text(encoding="utf-8"))
    for name, values in found.items():
        tolerance = ITEMS[name][0]
        away = np.abs(np.array(values) - golden[name]["values"])
        part = away / np.maximum(np.abs(golden[name]["values"]), 1e-12)
        print(
            f"{name:60} {tolerance:8} {len(values):4} numbers, at most {away.max():.1e} away, {part.max():.1e} of one"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="make golden.json anew")
    main(**vars(parser.parse_args()))
