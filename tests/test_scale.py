"""What speed and scale rest on: threads that keep order, benchmarks whose two ways agree, recall that is measured."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from pipeline import parallel
from pipeline.errors import TableError
from pipeline.images import decode_images, image_cell
from pipeline.models.clip import to_uint8
from pipeline.parallel import ahead, stream

ROOT = Path(__file__).parents[1]


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(parallel, "cores", lambda: 4)


def test_pixels_do_not_depend_on_the_number_of_threads(four_cores, monkeypatch):
    whole = Image.fromarray(astronaut())
    images = [whole.crop((x, x // 2, x + 200 + x, 300 + x)) for x in range(12)]
    many = to_uint8(images, 64)
    monkeypatch.setattr(parallel, "cores", lambda: 1)
    assert torch.equal(many, to_uint8(images, 64))


def test_the_first_image_that_cannot_be_read_is_named(four_cores):
    good = image_cell(np.zeros((8, 8, 3), np.uint8))
    broken = {"bytes": b"no image", "path": None}
    assert [image.size for image in decode_images([good] * 6, ["x"] * 6)] == [(8, 8)] * 6
    with pytest.raises(TableError, match="row 2: unreadable image"):
        decode_images([good, good, broken, good, broken], [f"row {n}" for n in range(5)])


def test_work_ahead_keeps_order_bounds_what_is_held_and_passes_errors_on(four_cores):
    made, before = [], threading.active_count()

    def numbers(fail_at=None):
        for number in range(20):
            if number == fail_at:
                raise ValueError("no more")
            made.append(number)
            yield number

    assert list(stream(lambda number: number * 2, numbers())) == [2 * n for n in range(20)]
    assert list(ahead(numbers())) == list(range(20))
    for run, held in ((lambda items: stream(lambda n: n, items, 2), 4), (ahead, 2)):
        made.clear()
        for number in run(numbers()):
            assert len(made) <= number + held
    with pytest.raises(ValueError, match="no more"):
        list(ahead(numbers(fail_at=3)))
    assert threading.active_count() < before + 8


def test_both_ways_of_each_benchmark_have_one_result(tmp_path):
    detection = pytest.importorskip("pipeline.benchmarks.detection")
    embedding = pytest.importorskip("pipeline.benchmarks.embedding")
    _, features, kept = (
        comparison.plain() if at == 0 else (torch.as_tensor(comparison.plain()).float(), comparison.built_in())
        for at, comparison in enumerate(detection.comparisons(ROOT / "params.yaml", images=4))
    )
    torch.testing.assert_close(*features, atol=1e-5, rtol=1e-5)
    assert torch.equal(*kept)
    ways = embedding.comparisons(ROOT / "params.yaml", depth=1, images=4, texts=40)
    shard, fitting, captions = ((way.plain(), way.built_in()) for way in ways)
    torch.testing.assert_close(shard[0], torch.from_numpy(shard[1]["vector"]), atol=1e-5, rtol=1e-4)
    assert np.array_equal(np.concatenate(fitting[0]), fitting[1].numpy())
    torch.testing.assert_close(captions[0], torch.nn.functional.normalize(captions[1], dim=1), atol=1e-5, rtol=1e-4)


def test_recall_is_measured_and_whole_when_every_list_is_probed():
    pytest.importorskip("faiss", reason="FAISS is not installed: pip install 'nearsafe[search]'")
    from pipeline.benchmarks.search import build, captions_like, recall
    from pipeline.mining import nearest

    vectors = captions_like(2200, topics=50)
    asked, pool = vectors[:200], vectors[200:]
    index, exact = build(pool), nearest(asked, pool, 1)[0][:, 0]
    few, all_of_them = recall(index, asked, exact, 1), recall(index, asked, exact, index.nlist)
    assert 0.1 < few < all_of_them == 1
