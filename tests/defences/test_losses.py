"""Loss values against independent computations and the conformance numbers of safer_clip.md and safe_clip.md."""

import math

import numpy as np
import pytest
import torch

from pipeline.defences.losses import cosine_distance, info_nce
from pipeline.defences.safe_clip import info_nce as exported_info_nce
from pipeline.defences.safer_clip import relative_redirection


def at_cosine(value: float) -> torch.Tensor:
    """A vector at this cosine to the first axis."""
    return torch.tensor([[value, math.sqrt(1 - value**2)]], dtype=torch.float64)


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(6, 10, generator=generator), torch.randn(6, 10, generator=generator)


def test_relative_redirection_of_equal_similarities_is_ln2(pair):
    assert abs(relative_redirection(pair[0], pair[1], pair[1]).item() - math.log(2)) < 1e-6


@pytest.mark.parametrize("gap, value, slope", [(-0.2, 0.598, 0.45), (0.2, 0.798, 0.55)])
def test_relative_redirection_over_the_usual_range_of_gaps(gap, value, slope):
    query = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    loss = relative_redirection(query, at_cosine(0.3 + gap), at_cosine(0.3))
    assert abs(loss.item() - value) < 5e-4
    wider = relative_redirection(query, at_cosine(0.3 + gap + 1e-5), at_cosine(0.3))
    assert abs((wider - loss).item() / 1e-5 - slope) < 5e-3


def test_relative_redirection_is_a_mean_and_scales(pair):
    unsafe, safe = pair[1], pair[1].flip(0)
    one = [relative_redirection(*(x[i : i + 1] for x in (pair[0], unsafe, safe))).item() for i in range(6)]
    assert relative_redirection(pair[0], unsafe, safe).item() == pytest.approx(np.mean(one), abs=1e-6)
    cos = torch.nn.functional.cosine_similarity
    gap = cos(pair[0], unsafe) - cos(pair[0], safe)
    expected = np.log1p(np.exp(20 * gap.numpy())).mean()
    assert relative_redirection(pair[0], unsafe, safe, scale=20).item() == pytest.approx(expected, rel=1e-5)


def test_relative_redirection_turns_the_query_from_unsafe_to_safe():
    query = torch.tensor([[1.0, 1.0]], requires_grad=True)
    unsafe, safe = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    relative_redirection(query, unsafe, safe).backward()
    assert query.grad[0, 0] > 0 > query.grad[0, 1]


def numpy_info_nce(a: np.ndarray, b: np.ndarray, scale: float) -> float:
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    logits = scale * a @ b.T
    rows = np.log(np.exp(logits).sum(1)) - np.diag(logits)
    columns = np.log(np.exp(logits).sum(0)) - np.diag(logits)
    return float((rows.mean() + columns.mean()) / 2)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_info_nce_against_numpy(pair, scale):
    a, b = (x.double() for x in pair)
    assert info_nce(a, b, scale).item() == pytest.approx(numpy_info_nce(a.numpy(), b.numpy(), scale), rel=1e-9)


def test_info_nce_default_scale_symmetry_and_home(pair):
    a, b = (x.double() for x in pair)
    assert info_nce(a, b).item() == pytest.approx(numpy_info_nce(a.numpy(), b.numpy(), 100.0), rel=1e-9)
    assert info_nce(a, b).item() == pytest.approx(info_nce(b, a).item(), rel=1e-12)
    assert exported_info_nce is info_nce
    # The released code's scale, exp(4.6052), is 100 for all that matters (safer_clip.md section 6).
    assert info_nce(a, b, math.exp(4.6052)).item() == pytest.approx(info_nce(a, b).item(), rel=1e-4)


def test_cosine_distance_values(pair):
    a, b = (x.double() for x in pair)
    cosines = (a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)
    assert cosine_distance(a, b).item() == pytest.approx(1 - cosines.mean().item(), rel=1e-9)
    assert cosine_distance(a, 3 * a).item() == pytest.approx(0, abs=1e-9)
    assert cosine_distance(a, -a).item() == pytest.approx(2)


@pytest.mark.parametrize("loss", [cosine_distance, info_nce, lambda a, b: relative_redirection(a, b, b)])
def test_losses_are_scalars_with_gradient_in_float32_even_for_half_input(loss, pair):
    a = pair[0].bfloat16().requires_grad_()
    value = loss(a, pair[1].bfloat16())
    assert value.shape == () and value.dtype == torch.float32
    value.backward()
    assert a.grad is not None


@pytest.mark.parametrize("loss", [cosine_distance, info_nce, lambda a, b: relative_redirection(a, b, b)])
def test_shapes_that_would_broadcast_are_refused(loss, pair):
    with pytest.raises(ValueError, match=r"one shape \(B, D\), got \(6, 10\), \(1, 10\)"):
        loss(pair[0], pair[1][:1])


def test_micro_batches_give_the_mean_gradient_of_the_cosine_terms_but_not_of_the_contrastive_ones(pair):
    """safe_clip.md section 6.6: InfoNCE depends on the batch by construction, its negatives are the other rows."""

    def gradient(loss, rows) -> torch.Tensor:
        a = pair[0].double().requires_grad_()
        return torch.autograd.grad(loss(a[rows], pair[1].double()[rows]), a)[0]

    halves = slice(0, 3), slice(3, 6)
    for loss, same in ((cosine_distance, True), (lambda a, b: info_nce(a, b, 1.0), False)):
        whole, parts = gradient(loss, slice(0, 6)), sum(gradient(loss, rows) for rows in halves) / 2
        assert torch.allclose(whole, parts, atol=1e-12) == same
