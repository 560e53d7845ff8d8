"""The hazard detector as rows, and its features."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.detectors.world import WorldDetector, WorldFeatures
from pipeline.errors import NearsafeError
from pipeline.world.detector import HazardDetector, hazard_probability
from tests.worldlet import picture


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    HazardDetector(["none", "knife", "bomb"], width=4).save_pretrained(tmp_path / "detector")
    return tmp_path / "detector"


IMAGES = [Image.fromarray(picture(i)) for i in range(5)]


def test_one_finding_per_label_and_their_sum_is_the_hazards_probability(folder):
    detector = WorldDetector(folder, batch_size=2)
    found = detector.detect(IMAGES)
    assert [finding.label for finding in found[0]] == ["none", "knife", "bomb"]
    tensor = torch.from_numpy(np.stack([np.asarray(image) for image in IMAGES])).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = hazard_probability(HazardDetector.from_pretrained(folder)(tensor))
    assert [1 - row[0].score for row in found] == pytest.approx(expected.tolist(), abs=1e-5)
    assert sum(finding.score for finding in found[3]) == pytest.approx(1, abs=1e-5)


def test_features_have_the_width_they_claim_and_name_the_weights(folder):
    features = WorldFeatures(WorldDetector(folder))
    values = features.of(IMAGES, batch_size=2)
    assert values.shape == (5, features.num_features)
    assert features.of([]).shape == (0, features.num_features)
    assert features.name.startswith("world-features@")
    larger = [image.resize((128, 128), Image.NEAREST) for image in IMAGES]
    assert features.of(larger).shape == values.shape


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(NearsafeError, match="nowhere"):
        WorldDetector(tmp_path / "nowhere")
