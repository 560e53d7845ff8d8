"""Zero-shot accuracy of the scored model on every task and shift."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.errors import TableError
from pipeline.metrics.intervals import proportion
from pipeline.metrics.rows import Scores
from pipeline.metrics.zeroshot import Classifier, classifier, mean_over_tasks
from pipeline.models.clip import Clip, encode_texts
from pipeline.seeds import rng
from pipeline.tables import read_output
from pipeline.vectors import Vectors

PROMPT_SHIFT = "prompt"


@dataclass(frozen=True)
class Tasks:
    """Classes with their prompts, and the true class of images and prompts: task -> item -> class id, by shift."""

    path: Path
    classes: dict[str, list[tuple[int, str]]]
    labels: dict[str, dict[str, dict[str, int]]]  # shift -> task -> item -> class id
    names: dict[str, dict[int, str]] = field(default_factory=dict)  # task -> class id -> name

    def images(self) -> set[str]:
        """Ids of all images with a label."""
        tasks = (labels for shift, labels in self.labels.items() if shift != PROMPT_SHIFT)
        return {item for labels in tasks for items in labels.values() for item in items}


def read_tasks(path: Path, prompts: Path | None = None) -> Tasks:
    """Tables "classes" and "labels" of the world, and the labels of `prompts` for what prompts ask for; real data may
    have none of them.

    Raises TableError for a label without a class.
    """
    classes: dict[str, list[tuple[int, str]]] = {}
    names: dict[str, dict[int, str]] = {}
    for row in read_output(path, "classes", allow_empty=True).to_pylist():
        classes.setdefault(row["task"], []).append((row["class_id"], row["prompt"]))
        names.setdefault(row["task"], {})[row["class_id"]] = row["name"]
    known = {(task, class_id) for task, wordings in classes.items() for class_id, _ in wordings}
    labels: dict[str, dict[str, dict[str, int]]] = {}
    for source in (path, *([prompts] if prompts else ())):
        for number, row in enumerate(read_output(source, "labels", allow_empty=True).to_pylist()):
            if (row["task"], row["class_id"]) not in known:
                raise TableError(
                    f"{source}: table 'labels', column 'class_id', row {number}: task {row['task']!r} has no class "
                    f"{row['class_id']} in table 'classes'"
                )
            if source == path and row["shift"] == PROMPT_SHIFT:
                continue  # the world's own prompts: what passed the filters is in `prompts`
            labels.setdefault(row["shift"], {}).setdefault(row["task"], {})[row["item_id"]] = row["class_id"]
    return Tasks(path, classes, labels, names)


def classifiers(clip: Clip, tasks: Tasks, batch_size: int) -> dict[str, Classifier]:
    """One classifier per task from the model's text tower; all prompts are encoded together."""
    flat = [(task, class_id, prompt) for task, prompts in tasks.classes.items() for class_id, prompt in prompts]
    vectors = encode_texts(clip, [prompt for _, _, prompt in flat], batch_size)
    found = {}
    for task in tasks.classes:
        rows = [i for i, entry in enumerate(flat) if entry[0] == task]
        found[task] = classifier([flat[i][1] for i in rows], vectors[rows])
    return found


def score_zero_shot(
    scores: Scores, tasks: Tasks, images: Vectors, models: dict[str, Classifier], data_hash: str, replicates: int,
    root: int,
) -> None:  # fmt: skip
    """Accuracy per shift and task (Wilson), and its mean over the shift's tasks (bootstrap over images).

    The outcome of each image and task is kept.
    """
    for shift, labels in tasks.labels.items():
        if shift == PROMPT_SHIFT:
            continue
        items = sorted({item for known in labels.values() for item in known})
        place = {item: row for row, item in enumerate(items)}
        correct = np.full((len(items), len(labels)), np.nan)
        for column, (task, known) in enumerate(labels.items()):
            hits = models[task].predict(images.of(list(known))) == np.array(list(known.values()))
            correct[[place[item] for item in known], column] = hits
            scores.add(f"zeroshot/{shift}", task, "accuracy", proportion(hits), data_hash)
            scores.observe(f"zeroshot/{shift}", task, "accuracy", known, hits)
        mean = mean_over_tasks(correct, replicates, rng(root, "score", "zeroshot", shift))
        scores.add(f"zeroshot/{shift}", "mean", "accuracy", mean, data_hash)
