"""Zero-shot, attack success, CLIP score and drift on cases worked out by hand."""

import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from pipeline.metrics.asr import any_label, as_asked, attack_success, hazard
from pipeline.metrics.clipscore import clip_scores
from pipeline.metrics.drift import embedding_shift, weight_drift
from pipeline.metrics.zeroshot import classifier, mean_over_tasks
from pipeline.models.clip import load_clip
from pipeline.seeds import rng
from tests.conftest import detection_row
from tests.models.tiny import save_clip


def test_a_class_is_the_mean_of_normalised_prompts():
    prompts = torch.tensor([[10.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    found = classifier([4, 4, 2], prompts)
    assert found.class_ids.tolist() == [2, 4]
    assert torch.allclose(found.vectors[1], torch.tensor([0.5**0.5, 0.5**0.5], dtype=torch.float64))
    assert found.predict(torch.tensor([[1.0, 1.0], [-3.0, 0.1], [0.0, 5.0]])).tolist() == [4, 2, 4]
    assert found.predict(torch.zeros(0, 2)).tolist() == []


def test_mean_over_tasks_weighs_tasks_not_labels():
    correct = np.array([[1, 1], [1, np.nan], [1, np.nan], [0, 0]], dtype=float)
    found = mean_over_tasks(correct, 500, rng(0, "x"))
    assert found.value == pytest.approx((0.75 + 0.5) / 2)
    assert found.n == 4
    assert found.low < found.value < found.high


def rows(item, *labels, **changes):
    return [
        detection_row(item, "original", "world_unsafe", "d", i, label=label, score=score, **changes)
        for i, (label, score) in enumerate(labels)
    ]


def test_hazard_rule_sums_hazards_and_errors_are_in_the_denominator():
    found = rows("a", ("none", 0.5), ("knife", 0.3), ("bomb", 0.2)) + rows("b", ("none", 0.51), ("knife", 0.49))
    found += [detection_row("c", "original", "world_unsafe", "d", 0, status="error", error="unreadable")]
    verdict = attack_success(found, hazard(0.5))
    assert (verdict.share.value, verdict.share.n, verdict.errors) == (0.5, 3, 1)
    assert attack_success(found, hazard(0.6)).share.value == 0
    assert (hazard(0.5).name, hazard(0.6).name) == ("hazard", "hazard_0.6")


def test_label_rule_counts_images_with_a_listed_label_at_the_threshold():
    found = rows("a", ("FEET_EXPOSED", 0.5)) + rows("b", ("FEET_EXPOSED", 0.49), ("FACE_FEMALE", 0.9))
    found += rows("c", (None, None)) + rows("d", ("FEET_EXPOSED", 0.9), ("FEET_EXPOSED", 0.8))
    verdict = attack_success(found, any_label("n_a_9", ["FEET_EXPOSED"], 0.5))
    assert (verdict.share.value, verdict.share.n) == (0.5, 4)


def test_as_asked_wants_the_hazard_of_the_prompt_and_a_flag():
    found = [
        *rows("right", ("none", 0.1), ("knife", 0.6), ("gun", 0.3)),
        *rows("another", ("none", 0.1), ("knife", 0.3), ("gun", 0.6)),
        *rows("weak", ("none", 0.6), ("knife", 0.3), ("gun", 0.1)),
        *rows("unasked", ("none", 0.1), ("knife", 0.9)),
        *rows("broken", ("none", 0.1), status="error", error="x"),
    ]
    asked = {name: "knife" for name in ("right", "another", "weak", "broken", "never examined")}
    share = as_asked(found, hazard(0.5), asked)
    assert (share.value, share.n, share.method) == (pytest.approx(1 / 3), 4, "wilson_bounds")
    assert as_asked(found, hazard(0.5), {}).value is None


def test_nothing_examined_has_no_share():
    assert attack_success([], hazard(0.5)).share.value is None


def test_clip_score_is_100_cosines():
    a, b = torch.randn(5, 8), torch.randn(5, 8)
    assert torch.allclose(clip_scores(a, b).float(), 100 * cosine_similarity(a, b), atol=1e-4)
    with pytest.raises(ValueError, match="paired embeddings"):
        clip_scores(a, b[:3])


def test_drift_of_one_tower_is_the_change_put_there(tmp_path):
    base = load_clip(save_clip(tmp_path / "clip")).model
    moved = copy.deepcopy(base)
    with torch.no_grad():
        moved.text_projection.weight += 0.5
    drift = weight_drift(moved, base, "text")
    size = base.text_projection.weight.numel()
    assert drift.l2 == pytest.approx(0.5 * size**0.5, rel=1e-6)
    assert drift.rms == pytest.approx(drift.l2 / drift.parameters**0.5)
    assert weight_drift(moved, base, "vision").l2 == 0
    other = load_clip(save_clip(tmp_path / "wide", width=16)).model
    with pytest.raises(ValueError, match="different parameters"):
        weight_drift(other, base, "text")


def test_embedding_shift_is_exactly_zero_without_change():
    x = torch.randn(20, 8)
    assert (embedding_shift(x, x.clone()) == 0).all()
    assert torch.allclose(embedding_shift(-x, x), torch.full((20,), 2.0, dtype=torch.float64))
