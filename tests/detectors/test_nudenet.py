"""NudeNet N-a on real pixels, its suppression against OpenCV's, its weights against their hash."""

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from pipeline.detectors.base import Subject, detection_rows
from pipeline.detectors.nudenet import SHA256, NudeNet, candidates, suppress
from pipeline.errors import NearsafeError
from pipeline.parallel import cores


@pytest.fixture(scope="module")
def nudenet():
    return NudeNet()


def test_a_public_domain_portrait_has_a_face(nudenet):
    image = Image.fromarray(astronaut())
    (findings,) = nudenet.detect([image])
    best = findings[0]
    assert (best.label, best.score) == ("FACE_FEMALE", pytest.approx(0.87, abs=0.01))
    x, y, width, height = best.box
    assert x < 225 < x + width and y < 115 < y + height  # the face of the 512x512 picture
    assert width < 200 and height < 250
    assert nudenet.hash == SHA256[:16]


def test_boxes_scale_with_the_picture_and_images_are_apart(nudenet):
    image = Image.fromarray(astronaut())
    wide = image.resize((1024, 512))
    plain, stretched, empty = nudenet.detect([image, wide, Image.new("RGB", (64, 64), (90, 120, 60))])
    assert stretched[0].box[2] == pytest.approx(2 * plain[0].box[2], rel=0.1)
    assert stretched[0].box[3] == pytest.approx(plain[0].box[3], rel=0.1)
    assert not [finding for finding in empty if finding.score >= 0.5]


def test_side_by_side_finds_bit_for_bit_what_one_by_one_finds(nudenet):
    whole = Image.fromarray(astronaut())
    images = [whole.crop((x, y, x + 200, y + 260)) for x in range(60, 260, 20) for y in (0, 40)]
    alone = [nudenet.one(image) for image in images]
    assert nudenet.detect(images) == alone  # labels, scores and boxes as floats: equal, not close
    assert sum(map(len, alone)) > len(images)
    made = []

    def lazily():
        for image in images:
            made.append(image)
            yield image

    found = nudenet.stream(lazily())
    assert next(found) == alone[0]
    assert len(made) <= 2 * cores() + 1  # the rest is not decoded yet
    assert [alone[0], *found] == alone


@pytest.mark.parametrize("seed", range(5))
def test_a_low_floor_leaves_at_half_what_opencv_leaves_at_half(seed):
    rng = np.random.default_rng(seed)
    output = np.hstack([rng.uniform(50, 250, (300, 2)), rng.uniform(20, 120, (300, 2)), rng.uniform(0, 0.6, (300, 18))])
    output = output.astype(np.float32)
    boxes, scores, _ = candidates(output, 0.05)
    ours = [i for i in suppress(boxes, scores, 0.5) if scores[i] >= 0.5]
    theirs = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), 0.5, 0.5)
    assert ours == list(theirs)
    assert len(ours) > 5


def test_nothing_found_is_one_row_without_a_label(nudenet):
    (row,) = detection_rows(nudenet, Subject("i", "original", 0, "world_safe"), [])
    assert (row["label"], row["score"], row["box"], row["status"], row["box_index"]) == (None, None, None, "ok", 0)


def test_other_weights_are_refused(tmp_path):
    with pytest.raises(NearsafeError, match="no such file"):
        NudeNet(weights=tmp_path / "best.onnx")
    (tmp_path / "best.onnx").write_bytes(b"other")
    with pytest.raises(NearsafeError, match=f"needs {SHA256}"):
        NudeNet(weights=tmp_path / "best.onnx")
