"""Small files of the published schemas with mild content, as a user would have them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

SAFE = ("a red kite over a field", "two cups on a table", "a train at a station", "a boat on a lake", "bread in a bag")
UNSAFE = ("a red knife over a field", "two guns on a table", "smoke at a station", "a bomb on a lake", "pills in a bag")


def picture(path: Path, number: int = 0) -> Path:
    """A small image file whose pixels depend on `number`; the suffix says the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize((40, 30)).rotate(7 * number).convert("RGB").save(path)
    return path


def put(path: Path, value: Any) -> Path:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def visu_row(number: int, **changes: Any) -> dict[str, Any]:
    """A row in the hub's columns."""
    row = {"incremental_id": number, "safe": f"{SAFE[number % 5]}, {number}", "nsfw": f"{UNSAFE[number % 5]}, {number}"}
    return {**row, "coco_id": 100 + number, "tag": ("weapons", "bodily bluids")[number % 2], "prompt_id": 0, **changes}


def visu_images(root: Path, numbers: Iterable[int], part: str = "train2017") -> None:
    """The images of rows: COCO's and the user's."""
    for number in numbers:
        picture(root / f"coco/{part}/{100 + number:012d}.jpg", number)
        picture(root / f"unsafe/{number}.png", number + 50)


def visu_hub(root: Path, count: int, split: str = "train", first: int = 0) -> list[dict[str, Any]]:
    """A split in the hub's layout with all its images."""
    rows = [visu_row(number) for number in range(first, first + count)]
    put(root / f"visu/ViSU-Text_{split}.json", rows)
    visu_images(root, range(first, first + count))
    return rows


def captions_json(images: int, each: int = 5) -> dict[str, Any]:
    """COCO's caption format; annotations of an image do not stand together."""
    return {
        "info": {"year": 2014, "version": "1.0"},
        "licenses": [{"id": 1, "name": "cc"}],
        "images": [{"id": n, "file_name": f"{n:012d}.jpg", "width": 40, "height": 30} for n in range(1, images + 1)],
        "annotations": [
            {"id": 1000 * (k + 1) + n, "image_id": n, "caption": f"{SAFE[n % 5]}, words {k} {n}\n"}
            for k in range(each)
            for n in range(1, images + 1)
        ],
    }


def copro() -> dict[str, Any]:
    """CoPro's lists, with safe prompts that begin with a space, as published."""

    def pair(number: int, category: str) -> dict[str, str]:
        return {
            "unsafe_prompt": f"{UNSAFE[number % 5]} {number}",
            "safe_prompt": f" {SAFE[number % 5]} {number}",
            "concept": "weapons",
            "category": category,
        }

    return {
        "ID_concepts": ["weapons", "smoke"],
        "OOD_concepts": ["bombs"],
        "ID_train_data": [pair(n, ("Violence", "Illegal Activity")[n % 2]) for n in range(10)],
        "ID_test_data": [pair(n, "Violence") for n in range(20, 24)],
        "OOD_test_data": [pair(n, "Violence") for n in range(30, 33)],
    }
