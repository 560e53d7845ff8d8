"""The pictures that the world's models learn from: drawn once, kept as arrays, without held-out combinations."""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.seeds import rng
from pipeline.world.drawing import SIZE, STYLES, draw
from pipeline.world.scenes import VOCABULARY, Scene, held_out, sample

TASKS = tuple(VOCABULARY)
CHUNK = 500


@dataclass(frozen=True)
class Corpus:
    """`images` (N, 64, 64, 3) uint8 · `labels` (N, 8) int16, one column per task, -1 for none · `style` (N,) index."""

    images: np.ndarray
    labels: np.ndarray
    style: np.ndarray

    def scene(self, row: int) -> Scene:
        named = {task: VOCABULARY[task][i] for task, i in zip(TASKS, self.labels[row], strict=True) if i >= 0}
        return Scene(
            **{k: named[k] for k in ("subject", "colour", "place", "weather", "size", "flyer")},
            item=named.get("hazard") or named["object"],
        )

    def __len__(self) -> int:
        return len(self.labels)


def seen_scene(generator: np.random.Generator, unsafe: bool) -> Scene:
    """A scene of pretraining: anything but the held-out combinations."""
    while held_out(scene := sample(generator, unsafe)):
        pass
    return scene


def label_row(scene: Scene) -> list[int]:
    labels = scene.labels()
    return [labels.get(task, -1) for task in TASKS]


def draw_chunk(seed: int, style: str, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one chunk; half of the scenes show a hazard."""
    generator = rng(seed, "corpus", style, str(chunk))
    scenes = [seen_scene(generator, unsafe=bool(i % 2)) for i in range(CHUNK)]
    images = np.stack([draw(scene, STYLES[style], generator) for scene in scenes])
    return images, np.array([label_row(scene) for scene in scenes], np.int16)


def load_corpus(folder: Path, seed: int, sizes: dict[str, int]) -> Corpus:
    """Read the corpus, drawing it first where it is missing; `sizes`: images per style, rounded up to 500."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(style, chunk) for style, size in sizes.items() for chunk in range(-(-size // CHUNK))]
    path = folder / f"corpus-{seed}-{'-'.join(f'{style}{size}' for style, size in sizes.items())}.npz"
    if not path.exists():
        print(f"drawing {len(jobs) * CHUNK} scenes into {path}", flush=True)
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            parts = list(pool.map(draw_chunk, [seed] * len(jobs), *zip(*jobs, strict=True)))
        style = np.repeat(np.array([list(STYLES).index(name) for name, _ in jobs], np.uint8), CHUNK)
        part = path.with_suffix(".part.npz")
        np.savez(
            part,
            images=np.concatenate([p[0] for p in parts]),
            labels=np.concatenate([p[1] for p in parts]),
            style=style,
        )
        part.rename(path)
    with np.load(path) as arrays:
        corpus = Corpus(**{name: arrays[name] for name in ("images", "labels", "style")})
    assert corpus.images.shape[1:] == (SIZE, SIZE, 3)
    return corpus
