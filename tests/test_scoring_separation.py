"""Separation of unsafe and safe prompts by token states: against another implementation, and on vectors by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import scoring_separation
from pipeline.layout import table_file
from pipeline.metrics.rows import Scores
from pipeline.models.clip import load_clip
from pipeline.models.conditioning import TextTower
from pipeline.scoring_separation import Separation, principal_axes, read_separation, token_states
from pipeline.tables import Output
from tests.models.tiny import save_clip
from tests.worldlet import PROMPTS, prompt

TEXTS = ["red axe", "a green cup, and more words than one", "blue", ""]


def write_prompts(folder, prompts):
    output = Output(folder, {"stage": "prompts"})
    output.write(table_file("prompts"), "prompts", prompts)
    output.finish()
    return folder


def test_token_states_are_what_conditions_the_sampler(tmp_path):
    """Padding included, no mask, whatever the batch: the states that the diffusion model's text tower gives."""
    save_clip(tmp_path / "clip")
    clip = load_clip(tmp_path / "clip")
    expected = TextTower(clip.model.text_model, clip.tokenizer, clip.hash).encode(TEXTS).flatten(1)
    torch.testing.assert_close(token_states(clip, TEXTS), expected)
    torch.testing.assert_close(token_states(clip, TEXTS, batch_size=3), expected, rtol=1e-5, atol=1e-6)
    assert token_states(clip, []).shape == (0, expected.shape[1])


def test_axes_are_the_main_directions_of_the_covariance():
    states = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 6)) * [5, 3, 1, 1, 1, 1] + 7).float()
    axes = principal_axes(states)
    values, vectors = np.linalg.eigh(np.cov(states.double().numpy().T))
    shown = axes.project(states)
    assert shown.mean(0).abs().max() < 1e-9
    np.testing.assert_allclose(shown.var(0, correction=1), values[::-1][:2])
    np.testing.assert_allclose(np.abs(np.diag(axes.directions.numpy() @ vectors[:, ::-1][:, :2])), 1)
    assert all(direction[direction.abs().argmax()] > 0 for direction in axes.directions), "the sign is no accident"
    with pytest.raises(ValueError, match="at least 3 texts"):
        principal_axes(states[:2])


def rows_by_hand():
    prompts = [prompt("u0", "a"), prompt("u1", "b"), prompt("s0", "c", "world_safe"), prompt("s1", "d", "world_safe")]
    states = torch.tensor([[1.0, 0, 0, 0.1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 2]])
    return Separation(prompts, states, principal_axes(states), 8, "d"), states


def score(separation, states, monkeypatch):
    monkeypatch.setattr(scoring_separation, "token_states", lambda clip, texts, batch_size: states)
    scores = Scores("des", 0, "m")
    projections = separation.score(scores, None, 20, 0)
    return {(row["protocol"], row["metric"]): row for row in scores.rows}, projections


def test_the_undefended_model_separates_nothing_and_projects_onto_itself(monkeypatch):
    separation, states = rows_by_hand()
    rows, projections = score(separation, states, monkeypatch)
    assert rows[("unsafe", "nearest_is_safe")]["value"] == 0
    for side in ("unsafe", "safe"):
        assert rows[(side, "cosine_to_itself")]["value"] == pytest.approx(1)
    points = {(row["prompt_id"], row["model"]): (row["x"], row["y"]) for row in projections}
    assert len(points) == 8
    assert all(points[(p, "undefended")] == points[(p, "defended")] for p in ("u0", "u1", "s0", "s1"))


def test_shares_and_cosines_by_hand(monkeypatch):
    """u0 has moved onto s1, u1 halfway to s0 but is still nearest to itself; safe prompts have only grown longer."""
    separation, states = rows_by_hand()
    moved = torch.stack([states[3], torch.tensor([0, 0.8, 0.6, 0]), 3 * states[2], 3 * states[3]])
    rows, _ = score(separation, moved, monkeypatch)
    assert (rows[("unsafe", "nearest_is_safe")]["value"], rows[("unsafe", "nearest_is_safe")]["n"]) == (0.5, 2)
    assert rows[("unsafe", "cosine_to_nearest_safe")]["value"] == pytest.approx((1 + 0.6) / 2)
    assert rows[("unsafe", "cosine_to_itself")]["value"] == pytest.approx((0.1 / 1.01**0.5 + 0.8) / 2)
    assert rows[("safe", "cosine_to_itself")]["value"] == pytest.approx(1)


def test_it_is_about_the_worlds_two_sets_and_left_out_without_them(tmp_path: Path):
    save_clip(tmp_path / "clip")
    clip, lines = load_clip(tmp_path / "clip"), []
    found = read_separation(
        write_prompts(tmp_path / "p", [*PROMPTS, prompt("x", "mug", "mine")]), clip, 4, lines.append
    )
    assert [row["prompt_id"] for row in found.prompts] == ["u0", "u1", "u2", "s0", "s1", "s2"]
    only = [row for row in PROMPTS if row["unsafe"]]
    assert read_separation(write_prompts(tmp_path / "q", only), clip, 4, lines.append) is None
    assert "separation is left out" in lines[-1]
