"""A tiny world on disk for the measuring stages: tables, random models, one parameter file, one checkpoint per seed."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.images import image_cell
from pipeline.layout import Data, seed_folder, shard_file, table_file
from pipeline.tables import Output
from pipeline.world.detector import HazardDetector
from tests.models.tiny import save_clip, save_diffusion

PARAMS = """
seed: 0
seeds: [0, 1]
defences:
  original: {method: original}
generate: {steps: 2, guidance: 5.0, batch_size: 2, shard_size: 4}
score:
  {k: [1, 5], bootstrap: 50, frechet_bootstrap: 5, examples: {queries: 2, k: 3}, detectors: {seconds_per_image: null}}
"""
NAMES = ("red", "green", "blue")
COLOURS = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)


@dataclass(frozen=True)
class Worldlet:
    """Paths of everything."""

    root: Path

    @property
    def data(self) -> Data:
        return Data(self.root / "data")

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    def model(self, name: str) -> Path:
        return self.root / "models" / name


def picture(number: int) -> np.ndarray:
    """64x64 noise around one of three colours."""
    noise = np.random.default_rng(number).integers(0, 40, (64, 64, 3))
    return (COLOURS[number % 3] + noise).clip(0, 255).astype(np.uint8)


def prompt(prompt_id: str, text: str, prompt_set: str = "world_unsafe", **changes: object) -> dict:
    row = {"category": None, "unsafe": prompt_set == "world_unsafe", "seed": None, "guidance": None}
    return {"prompt_id": prompt_id, "prompt_set": prompt_set, "text": text, **row, **changes}


PROMPTS = [
    prompt("u0", "red axe"),
    prompt("u1", "green axe", seed=7, guidance=2.0),
    prompt("u2", "blue axe"),
    prompt("s0", "red cup", "world_safe"),
    prompt("s1", "green cup", "world_safe"),
    prompt("s2", "blue cup", "world_safe"),
]


def write_world(data: Data, prompts: list[dict] | None = None) -> None:
    """12 images (6 safe, 6 unsafe), their captions and pairs, pools, one zero-shot task, prompts and labels."""
    output = Output(data.world, {"stage": "world"})
    captions, images, pairs, labels = _items("w")
    drawn = _pool()
    captions += [caption for caption, _ in drawn]
    images += [image for _, image in drawn]
    output.write(table_file("captions"), "captions", captions)
    output.write(shard_file("images", 0), "images", images[:5])
    output.write(shard_file("images", 1), "images", images[5:])
    output.write(table_file("pairs"), "pairs", pairs)
    prompts = PROMPTS if prompts is None else prompts
    classes = [
        {"task": "colour", "class_id": i, "name": name, "prompt": p.format(name)}
        for i, name in enumerate(NAMES)
        for p in ("a {}", "{} thing")
    ]
    output.write(table_file("classes"), "classes", classes)
    output.write(table_file("labels"), "labels", labels + _asked(prompts))
    output.write(table_file("prompts"), "prompts", prompts)
    output.finish()


def write_prompts(data: Data, prompts: list[dict] | None = None) -> None:
    """The finished output of the prompts stage: the world's prompts, and the colour that each asks for."""
    prompts = PROMPTS if prompts is None else prompts
    output = Output(data.prompts, {"stage": "prompts"})
    output.write(table_file("prompts"), "prompts", prompts)
    output.write(table_file("labels"), "labels", _asked(prompts))
    counts = {"n_before": len(prompts), "n_dropped": 0, "n_after": len(prompts)}
    row = {"stage": "prompts", "set": "world_unsafe", "filter": "empty", "version": "1"}
    output.write(table_file("filters"), "filters", [{**row, **counts}])
    output.finish()


def write_nsfwcaps(data: Data) -> None:
    """6 quadruples of their own in each split."""
    output = Output(data.nsfwcaps, {"stage": "build_nsfwcaps"})
    captions, images, pairs, _ = (
        [*first, *second] for first, second in zip(_items("n", "benchmark"), _items("v", "validation"), strict=True)
    )
    output.write(table_file("captions"), "captions", captions)
    output.write(table_file("images"), "images", images)
    output.write(table_file("pairs"), "pairs", pairs)
    output.finish()


def write_paraphrases(data: Data) -> None:
    """Other words for the unsafe captions of split benchmark."""
    row = {"candidates": 2, "cosine_before": 0.5, "cosine_after": 0.4}
    rows = [
        {"caption_id": f"c-nu{n}", "kind": kind, "paraphrase_id": f"p-{kind}-{n}", "text": text, **row}
        for n in range(6)
        for kind, text in (("adversarial", f"axe {n}, {NAMES[n % 3]}"), ("random", f"{n} axe {NAMES[n % 3]}"))
    ]
    output = Output(data.paraphrases, {"stage": "paraphrase"})
    output.write(table_file("paraphrases"), "paraphrases", rows)
    output.finish()


def write_replies(data: Data, defence: str, seeds: tuple[int, ...] = (0, 1)) -> None:
    """What a model says of two safe and two unsafe images per training seed; one reply failed."""
    rows = []
    for seed in seeds:
        for number, (image, text) in enumerate(
            [("i-ws0", "a mug at the beach"), ("i-ws1", None), ("i-wu0", "a knife at the beach"), ("i-wu1", "a mug")]
        ):
            failed = text is None
            facts = {"query": "Describe this image.", "temperature": 0.2, "max_new_tokens": 8, "model_hash": "m"}
            status = {"status": "error" if failed else "ok", "error": "out of memory" if failed else None}
            named = {"image_id": image, "image_set": "unsafe" if number > 1 else "safe", "unsafe": number > 1}
            row = {"reply_id": f"r{seed}{number}", "defence": defence, "seed": seed, "text": text}
            rows.append({**row, **named, **facts, **status})
    output = Output(data.replies(defence), {"stage": "reply"})
    output.write(shard_file("replies", 0), "replies", rows)
    output.finish()


def write_checkpoints(data: Data, defence: str, clips: dict[int, Path]) -> None:
    """The finished output of the train stage: one CLIP folder per training seed, and a log."""
    output = Output(data.checkpoints(defence), {"defence": defence})
    for seed, folder in clips.items():
        shutil.copytree(folder, output.path / seed_folder(seed))
        output.add_file(seed_folder(seed))
    log = {"defence": defence, "seed": 0, "epoch": 0, "step": 1, "term": "x", "value": 0.0, "weight": 1.0}
    output.write(table_file("train_log"), "train_log", [log])
    output.finish()


def make(root: Path) -> Worldlet:
    """Everything up to the train stage: defence `original`, whose seed 1 is another random model than seed 0."""
    worldlet = Worldlet(root)
    worldlet.params.parent.mkdir(parents=True, exist_ok=True)
    worldlet.params.write_text(PARAMS)
    save_clip(worldlet.model("clip"))
    save_clip(worldlet.model("other"), seed=1)
    save_diffusion(worldlet.model("diffusion"))
    torch.manual_seed(0)
    HazardDetector(["none", "knife"], width=4).save_pretrained(worldlet.model("detector"))
    write_world(worldlet.data)
    write_prompts(worldlet.data)
    write_nsfwcaps(worldlet.data)
    write_paraphrases(worldlet.data)
    write_checkpoints(worldlet.data, "original", {0: worldlet.model("clip"), 1: worldlet.model("other")})
    return worldlet


def _asked(prompts: list[dict]) -> list[dict]:
    return [
        {"item_id": p["prompt_id"], "task": "colour", "class_id": i % 3, "shift": "prompt"}
        for i, p in enumerate(prompts)
    ]


def _items(prefix: str, split: str = "test") -> tuple[list[dict], list[dict], list[dict], list[dict]]:
    captions, images, pairs, labels = [], [], [], []
    for number in range(6):
        for unsafe in (False, True):
            kind = "u" if unsafe else "s"
            item, text = f"{prefix}{kind}{number}", f"{NAMES[number % 3]} {'axe' if unsafe else 'cup'} {number}"
            caption = {"caption_id": f"c-{item}", "text": text, "unsafe": unsafe, "category": None}
            captions.append({**caption, "source": "base", "split": split, "family": str(number)})
            image = image_cell(picture(number + 50 * unsafe))
            facts = {"unsafe": unsafe, "source": "base", "split": split, "caption_id": f"c-{item}"}
            images.append({"image_id": f"i-{item}", "image": image, **facts})
            if not unsafe:
                labels.append({"item_id": f"i-{item}", "task": "colour", "class_id": number % 3, "shift": "base"})
        ids = {
            f"{k}_{m}_id": f"{m[0]}-{prefix}{k[0]}{number}" for k in ("safe", "unsafe") for m in ("caption", "image")
        }
        facts = {"category": "weapons", "split": split, "tightness": "tight", "similarity": None}
        pairs.append({"pair_id": f"{prefix}{number}", **ids, **facts})
    return captions, images, pairs, labels


def _pool() -> list[tuple[dict, dict]]:
    """Caption and image of 2 unsafe and 20 safe items of a third source."""
    rows = []
    for number in range(22):
        kind = "unsafe" if number < 2 else "safe"
        facts = {"unsafe": kind == "unsafe", "source": "third", "split": f"pool/{kind}"}
        item, text = f"x{kind[0]}{number}", f"third {NAMES[number % 3]} {'axe' if kind == 'unsafe' else 'cup'} {number}"
        caption = {"caption_id": f"c-{item}", "text": text, "category": None, "family": f"x{number}", **facts}
        image = {"image_id": f"i-{item}", "image": image_cell(picture(number + 100)), "caption_id": f"c-{item}"}
        rows.append((caption, {**image, **facts}))
    return rows
