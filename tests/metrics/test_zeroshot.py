"""Tasks too large to be held at once give what they would give as a whole."""

import numpy as np
import torch

from pipeline.metrics import zeroshot
from pipeline.metrics.zeroshot import classifier, mean_over_tasks


def test_blocks_change_no_prediction(monkeypatch):
    torch.manual_seed(0)
    known = classifier([0, 0, 1, 2, 2, 3], torch.randn(6, 16))
    images = torch.randn(50, 16)
    whole = known.predict(images)
    monkeypatch.setattr(zeroshot, "_BLOCK", 7 * 16)
    assert (known.predict(images) == whole).all() and len(set(whole)) == 4


def test_blocks_change_no_interval(monkeypatch):
    random = np.random.default_rng(0)
    correct = random.integers(0, 2, (40, 11)).astype(float)
    correct[random.random((40, 11)) < 0.5] = np.nan
    whole = mean_over_tasks(correct, 25, np.random.default_rng(1))
    monkeypatch.setattr(zeroshot, "_BLOCK", 3 * 40)
    assert mean_over_tasks(correct, 25, np.random.default_rng(1)) == whole
