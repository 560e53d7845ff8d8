"""Images under detectors, from files to rows: side by side and decoded ahead, against one after the other.

The plain ways are those that papers' code uses: the nudenet package's own call for each file, and the loop of
pytorch-fid (files in batches of 50 through a loader, features into one array), here with the world's network in place
of Inception. The last line asks for features that were kept by the hash of their images.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from nudenet import NudeDetector
from PIL import Image
from skimage.data import astronaut
from torch.utils.data import DataLoader, Dataset

from pipeline.bench import Comparison
from pipeline.bench_growth import Growth
from pipeline.detectors.nudenet import NudeNet
from pipeline.detectors.registry import load_world_detector
from pipeline.detectors.world import SIZE, WorldFeatures
from pipeline.examining import cached_features
from pipeline.images import decode_image, decode_images
from pipeline.parallel import ahead, cores
from pipeline.params import DEFAULT_FILE, lookup
from pipeline.precision import pick_device

_BATCH = 50  # pytorch-fid's


def comparisons(params: Path = DEFAULT_FILE, images: int = 96) -> Iterator[Comparison]:
    """JPEG files of COCO's size; crops of one public-domain photograph."""
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(Path(folder), images)
        yield boxes(files)
        features = WorldFeatures(load_world_detector(Path(lookup(params, "models.detector")), pick_device()[0]))
        yield set_features(files, features)
        yield kept_features(files, features, Path(folder) / "cache")


def growths() -> Iterator[Growth]:
    """Images through NudeNet."""
    yield Growth(
        "NudeNet, side by side", "images", 16, lambda images, folder: boxes(photographs(folder, images)).built_in
    )


def boxes(files: Sequence[Path]) -> Comparison:
    """The package letterboxes where variant N-a squashes: the same network on as many pixels."""
    shipped, ours = NudeDetector(), NudeNet()

    def opened() -> Iterator[Image.Image]:
        for file in files:
            yield decode_image({"bytes": None, "path": str(file)}, str(file))

    return Comparison(
        "NudeNet: the package, file by file / side by side",
        lambda: [shipped.detect(str(file)) for file in files],
        lambda: list(ours.stream(opened())),
        len(files),
        "images",
    )


def set_features(files: Sequence[Path], features: WorldFeatures) -> Comparison:
    """The features of the Fréchet distance for an image set."""
    loader = DataLoader(_Files(files), batch_size=_BATCH, num_workers=min(cores(), 8))

    def plain() -> np.ndarray:
        found, start = np.empty((len(files), features.num_features)), 0
        for batch in loader:
            rows = features(batch).numpy()
            found[start : start + len(rows)] = rows
            start += len(rows)
        return found

    title = "features of an image set (the world's small network): pytorch-fid's loop / decoded ahead over the cores"
    return Comparison(title, plain, lambda: _features(files, features), len(files), "images")


def kept_features(files: Sequence[Path], features: WorldFeatures, cache: Path) -> Comparison:
    """What every further defence saves that is compared with the same real images."""
    title = "features of an image set (the world's small network): computed / kept by hash"
    return Comparison(
        title,
        lambda: _features(files, features),
        lambda: cached_features(cache, "bench", lambda: _features(files, features)),
        len(files),
        "images",
    )


def photographs(folder: Path, count: int, size: tuple[int, int] = (640, 480)) -> list[Path]:
    """`count` JPEG files, each another crop of the photograph."""
    whole, files = Image.fromarray(astronaut()), []
    for number in range(count):
        x, y = number % 16 * 8, number // 16 * 12 % 120
        crop = whole.crop((x, y, x + 384, y + 288)).resize(size, Image.Resampling.BICUBIC)
        files.append(folder / f"{number:05d}.jpg")
        crop.save(files[-1], quality=90)
    return files


class _Files(Dataset):
    """As pytorch-fid's: one file, one tensor (3, H, W) float32 in [0, 1]; resized here, as the network is small."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = Image.open(self.files[index]).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def _features(files: Sequence[Path], features: WorldFeatures) -> torch.Tensor:
    cells = [{"bytes": None, "path": str(file)} for file in files]
    starts = range(0, len(files), _BATCH)
    batches = (decode_images(cells[i : i + _BATCH], [str(file) for file in files[i : i + _BATCH]]) for i in starts)
    return torch.cat([features.of(images) for images in ahead(batches)])
