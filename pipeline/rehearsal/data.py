"""Data files of the true schemas with mild content: drawn pictograms and captions of the embedded world.

What a user would put below `sources.root`: ViSU's JSON and images, NSFWCaps in its published columns, CoPro's JSON,
class folders of the eleven zero-shot sets, pools of real images, images to describe, prompt files in the columns of
I2P, COCO and the official DES code. Captions and images are the embedded world's; nothing is of the real data sets
but the form.
"""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.params import load
from pipeline.seeds import rng
from pipeline.world.drawing import STYLES, draw
from pipeline.world.grammar import caption
from pipeline.world.scenes import Scene, sample

Row = dict[str, Any]
SIZE = (160, 120)  # like a photograph, no square
# The columns of I2P's files (evaluation.md section 11); "" is the index that pandas wrote.
I2P = (
    "", "prompt", "categories", "hard", "inappropriate_percentage", "nudity_percentage", "q16_percentage",
    "sd_safety_percentage", "prompt_toxicity", "lexica_url", "sd_seed", "sd_guidance_scale", "sd_image_width",
    "sd_image_height", "sd_model",
)  # fmt: skip
# Tags of ViSU and categories of CoPro for the world's kinds of hazards.
_TAGS = {"weapons": "weapons", "drugs": "drug use", "shocking": "harm", "theft_vandalism": "vandalism"}
SAFE_ITEM = "mug"
_I2P_CATEGORIES = {
    "weapons": "violence", "drugs": "illegal activity", "shocking": "shocking", "theft_vandalism": "illegal activity",
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """Rows of each file: enough for every stage, and quick."""

    visu: tuple[int, int, int] = (72, 12, 16)  # train, validation, test
    nsfwcaps: int = 16
    copro: int = 48
    classes: int = 2  # of each zero-shot set, with this many images each:
    images: int = 2
    pool: int = 3  # unsafe images; ten times as many safe ones
    reply: int = 4
    prompts: int = 6  # of each prompt file
    captions: int = 8  # of COCO


def make_safer_clip(root: Path, seed: int = 0, sizes: Sizes | None = None) -> None:
    """What profiles/paper-safer-clip.yaml reads, below `root`."""
    sizes = sizes or Sizes()
    _visu(root, seed, sizes)
    _nsfwcaps(root, seed, sizes.nsfwcaps)
    _zero_shot(root / "zeroshot", seed, sizes)
    for kind, unsafe, count in (("unsafe", True, sizes.pool), ("safe", False, 10 * sizes.pool)):
        _captioned(root / "pools" / kind, seed, f"pool/{kind}", unsafe, count)
    _captioned(root / "reply" / "unsafe", seed, "reply", True, sizes.reply)
    i2p = [
        dict.fromkeys(I2P, "0") | {
            "": str(number), "prompt": text, "categories": _I2P_CATEGORIES[str(scene.category)], "lexica_url": "",
            "sd_seed": str(1000 + number), "sd_guidance_scale": "7.0", "sd_model": "stable-diffusion-v1-4",
            "sd_image_width": "512", "sd_image_height": "512",
        }
        for number, (scene, text) in enumerate(_scenes(seed, "i2p", True, sizes.prompts))
    ]  # fmt: skip
    _csv(root / "prompts/i2p_benchmark.csv", I2P, i2p)
    names = ("image_id", "source", "prompt", "evaluation_seed")
    coco = [
        dict(zip(names, (f"{image:012d}", "coco", text, str(number)), strict=True))
        for number, (image, text) in enumerate(_coco(root / "coco", seed, sizes.captions))
    ]
    _csv(root / "prompts/coco_30k.csv", names, coco)


def make_des(root: Path, seed: int = 0, sizes: Sizes | None = None) -> None:
    """What profiles/paper-des.yaml reads, below `root`; the category that it asks for stands over hazard words."""
    sizes = sizes or Sizes()
    pairs = [
        {"unsafe_prompt": text, "safe_prompt": f" {safe}", "concept": scene.item, "category": category}
        for number, (scene, text, safe) in enumerate(_pairs(seed, "copro", sizes.copro))
        for category in (("Violence",) if number % 6 == 5 else ("sexual",))
    ]
    third = len(pairs) // 3
    lists = {"ID_train_data": pairs[: -2 * third], "ID_test_data": pairs[-2 * third : -third]}
    lists["OOD_test_data"] = pairs[-third:]
    _json(root / "copro/CoPro_v1.0.json", {"ID_concepts": [], "OOD_concepts": [], **lists})
    for name in ("sneaky", "mma", "ringabell", "p4d", "i2p_sexual"):
        rows = [{"prompt": text} for _, text in _scenes(seed, name, True, sizes.prompts)]
        _csv(root / f"prompts/{name}_prompts.csv", ("prompt",), rows)
    rows = [{"prompt": text} for _, text in _coco(root / "coco", seed, sizes.captions)]
    _csv(root / "prompts/coco_prompts.csv", ("prompt",), rows)


def _visu(root: Path, seed: int, sizes: Sizes) -> None:
    """The hub's JSON of each split, COCO's folders of images, and unsafe images by row."""
    number = 0
    for split, count in zip(("train", "validation", "test"), sizes.visu, strict=True):
        rows = []
        for scene, unsafe, safe in _pairs(seed, f"visu/{split}", count):
            coco, tag = 1000 + number, _TAGS[str(scene.category)]
            rows.append(
                {"incremental_id": number, "safe": safe, "nsfw": unsafe, "coco_id": coco, "tag": tag, "prompt_id": 0}
            )
            folder = "train2017" if split == "train" else "val2017"
            _draw(root / "coco" / folder / f"{coco:012d}.jpg", scene.with_item(SAFE_ITEM), seed)
            _draw(root / "visu/unsafe_images" / f"{number}.jpg", scene, seed)
            number += 1
        _json(root / f"visu/ViSU-Text_{split}.json", rows)


def _coco(root: Path, seed: int, count: int) -> list[tuple[int, str]]:
    """Images of val2014 with two captions each, as COCO has them; number of each image, and one caption."""
    lists: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    chosen = []
    for number, (scene, text) in enumerate(_scenes(seed, "coco", False, count)):
        image, name = 203564 + number, f"COCO_val2014_{203564 + number:012d}.jpg"
        _draw(root / "val2014" / name, scene, seed)
        lists["images"].append({"id": image, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        for place, words in enumerate((f"{text} in a picture", text)):
            lists["annotations"].append({"id": 2 * number + place, "image_id": image, "caption": words})
        chosen.append((image, text))
    _json(root / "annotations/captions_val2014.json", lists)
    return chosen


def _nsfwcaps(root: Path, seed: int, count: int) -> None:
    rows: dict[str, list[str]] = {name: [] for name in ("image_coco_url", "caption", "nsfw_caption", "chosen_category")}
    for number, (scene, unsafe, safe) in enumerate(_pairs(seed, "nsfwcaps", count)):
        name = f"{number:016x}.jpg"
        for column, value in zip(
            rows, (f"https://example.org/nocaps/{name}", safe, unsafe, scene.category), strict=True
        ):
            rows[column].append(str(value))
        _draw(root / "nocaps/val" / name, scene.with_item(SAFE_ITEM), seed)
        _draw(root / "nsfwcaps/unsafe_images" / name, scene, seed)
    _replace(root / "nsfwcaps/nsfwcaps.parquet", lambda file: pq.write_table(pa.table(rows), file))


def _zero_shot(root: Path, seed: int, sizes: Sizes) -> None:
    """Class folders of every shipped set, named as the data set names them."""
    from pipeline.sources.zeroshot.classes import FOLDER

    for file in sorted(FOLDER.glob("*.yaml")):
        for name in list(load(file)["classes"])[: sizes.classes]:
            for number, (scene, _) in enumerate(_scenes(seed, f"{file.stem}/{name}", False, sizes.images)):
                _draw(root / file.stem / str(name) / f"{number}.jpg", scene, seed)


def _captioned(folder: Path, seed: int, name: str, unsafe: bool, count: int) -> None:
    """Images with a text file beside each."""
    for number, (scene, text) in enumerate(_scenes(seed, name, unsafe, count)):
        _draw(folder / f"{number}.jpg", scene, seed)
        _replace(folder / f"{number}.txt", lambda file, text=text: file.write_text(f"{text}\n", encoding="utf-8"))


def _scenes(seed: int, name: str, unsafe: bool, count: int) -> Iterator[tuple[Scene, str]]:
    """`count` scenes of different captions."""
    random, seen = rng(seed, "rehearsal", name), set()
    while len(seen) < count:
        scene = sample(random, unsafe)
        text = caption(scene, "base", int(random.integers(4)))
        if text not in seen:
            seen.add(text)
            yield scene, text


def _pairs(seed: int, name: str, count: int) -> Iterator[tuple[Scene, str, str]]:
    """A hazard scene, its caption, and the caption of the same scene with a cup."""
    for scene, text in _scenes(seed, name, True, count):
        yield scene, text, caption(scene.with_item(SAFE_ITEM), "base", 0)


def _draw(file: Path, scene: Scene, seed: int) -> None:
    """A JPEG, where it is not there yet."""
    if not file.is_file():
        pixels = draw(scene, STYLES["base"], rng(seed, "rehearsal", "drawing", scene.family, scene.item))
        image = Image.fromarray(pixels).resize(SIZE, Image.Resampling.BICUBIC)
        _replace(file, lambda temporary: image.save(temporary, format="JPEG", quality=90))


def _json(file: Path, values: Any) -> None:
    _replace(file, lambda temporary: temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8"))


def _csv(file: Path, names: Sequence[str], rows: Sequence[Row]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    _replace(file, write)


def _replace(file: Path, write: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    write(temporary)
    os.replace(temporary, file)
