"""The equations of DES and its extensions on vectors: values written out by hand, invariants, where gradients go."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from pipeline.defences import des
from pipeline.defences.token_losses import kernel_mean, least_similar, shift

L, D = 5, 6
W = L * D


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def unit(*values: float) -> torch.Tensor:
    return torch.tensor([values])


def test_targets_are_the_least_similar_safe_vector_less_alpha_along_the_concept():
    """Eqs. 1 and 2 written as loops; s* keeps its length, n is normalised over the whole vector."""
    unsafe, safe, concept = draw(7, L, D), draw(4, L, D, seed=1), draw(1, L, D, seed=2)
    found = des.target_vectors(unsafe, safe, concept, 3.0)
    assert found.shape == (7, L, D)
    for row, u in zip(found, unsafe, strict=True):
        cosines = [float(u.flatten() @ s.flatten()) / float(u.norm() * s.norm()) for s in safe]
        farthest = safe[cosines.index(min(cosines))]
        torch.testing.assert_close(row, farthest - 3.0 * concept[0] / concept.norm())
    flat = des.target_vectors(unsafe.flatten(1), safe.flatten(1), concept.flatten(), 3.0)
    assert torch.equal(flat, found.flatten(1)), "(B, W) and (B, L, D) are the same vectors"


def test_the_global_search_does_not_look_at_pairing_and_scale():
    unsafe, safe, concept = draw(6, W), draw(6, W, seed=1), draw(W, seed=2)
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    found = des.target_vectors(unsafe, safe, concept, 1.0)
    assert torch.equal(des.target_vectors(unsafe, safe[order], concept, 1.0), found)
    assert torch.equal(least_similar(5 * unsafe, safe), least_similar(unsafe, safe))


def test_without_alpha_targets_are_safe_vectors_and_pala_is_the_basic_term():
    current, original, concept = draw(4, W), draw(4, W, seed=1), draw(W, seed=2)
    found = des.target_vectors(current, original, concept, 0.0)
    assert all(any(torch.equal(row, safe) for safe in original) for row in found)
    basic = des.safe_preservation(current, original, concept, 0.0, pala=False)
    assert des.safe_preservation(current, original, concept, 0.0).item() == pytest.approx(2 * basic.item(), rel=1e-6)


def test_unsafe_neutralization_and_safe_preservation_are_their_equations():
    current, original, concept = draw(4, L, D), draw(4, L, D, seed=1), draw(L, D, seed=2)
    flat, before = current.flatten(1), original.flatten(1)
    moved = flat + 2.0 * (concept / concept.norm()).flatten()
    basic, pala = (1 - cosine_similarity(flat, before)).mean(), (1 - cosine_similarity(moved, before)).mean()
    assert des.unsafe_neutralization(current, original).item() == pytest.approx(basic.item(), rel=1e-5)
    both = des.safe_preservation(current, original, concept, 2.0)
    assert both.item() == pytest.approx((basic + pala).item(), rel=1e-5)
    assert des.safe_preservation(original, original, concept, 2.0, pala=False).item() == pytest.approx(0, abs=1e-6)


def test_pala_is_least_where_the_safe_vector_has_moved_off_the_concept():
    """At s~ = s - alpha n/|n| the second part of L_s is 0 (des.md section 3)."""
    original, concept = draw(3, W), draw(W, seed=2)
    moved = shift(original, concept, -2.0)
    rest = des.safe_preservation(moved, original, concept, 2.0) - des.unsafe_neutralization(moved, original)
    assert rest.item() == pytest.approx(0, abs=1e-6)


def test_the_references_get_no_gradient_and_the_current_vectors_do():
    reference = draw(3, W, seed=1).requires_grad_()
    concept = draw(W, seed=2).requires_grad_()
    calls = {
        "uen": lambda x: des.unsafe_neutralization(x, reference),
        "sep": lambda x: des.safe_preservation(x, reference, concept, 2.0),
        "nen": lambda x: des.concept_neutralization(x[:1], reference[:1]),
        "mcn": lambda x: des.multi_concept_neutralization(x, reference[0], (1.0, 2.0, 0.5)),
        "origin": lambda x: des.push_origin(x, reference),
        "harm": lambda x: des.push_harm(x, reference),
        "ortho": lambda x: des.orthogonality(x, reference),
        "margin": lambda x: des.margin_preservation(x, reference, concept, 2.0, 0.9),
        "margin_u": lambda x: des.margin_neutralization(x, reference, 0.9),
        "mmd": lambda x: des.mmd(x, reference),
    }
    for name, loss in calls.items():
        current = draw(3, W).requires_grad_()
        loss(current).backward()
        assert current.grad.abs().max() > 1e-4, name
        assert reference.grad is None and concept.grad is None, name


@pytest.mark.parametrize("name", ["sep", "mcn", "harm", "ortho", "margin", "mmd"])
def test_gradients_are_those_of_finite_differences(name):
    current, other, concept = (draw(n, 4, seed=s, dtype=torch.float64) for n, s in ((3, 0), (3, 1), (1, 2)))
    loss = {
        "sep": lambda x: des.safe_preservation(x, other, concept, 2.0),
        "mcn": lambda x: des.multi_concept_neutralization(x, concept, (1.0, 0.5, 2.0)),
        "harm": lambda x: des.push_harm(x, other, "sum"),
        "ortho": lambda x: des.orthogonality(x, other),
        "margin": lambda x: des.margin_preservation(x, other, concept, 2.0, 2.0),
        "mmd": lambda x: des.mmd(x, other, (1.0, 3.0)),
    }[name]
    assert torch.autograd.gradcheck(loss, (current.requires_grad_(),), eps=1e-6, atol=1e-6)


def test_concepts_are_weighted_or_averaged():
    empty = unit(1.0, 0.0)
    concepts = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])  # 1 - cos: 0, 1, 2
    assert des.multi_concept_neutralization(concepts, empty).item() == pytest.approx(1.0)
    assert des.multi_concept_neutralization(concepts, empty, (5.0, 1.0, 0.25)).item() == pytest.approx(1.5)
    one = des.multi_concept_neutralization(concepts[1:2], empty)
    assert one.item() == des.concept_neutralization(concepts[1:2], empty).item()


def test_pushes_and_orthogonality_on_vectors_written_out():
    current = torch.tensor([[3.0, 0.0, 0.0], [0.0, -2.0, 0.0]])
    centres = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert des.push_origin(current, centres).item() == pytest.approx(0.0)
    assert des.push_harm(current, centres).item() == pytest.approx(0.0)
    assert des.push_harm(current[:1], centres).item() == pytest.approx(0.5)
    assert des.push_harm(current[:1], centres, "sum").item() == pytest.approx(1.0)
    assert des.orthogonality(current, centres).item() == pytest.approx(0.5), "a cosine of -1 counts as 1"
    assert des.orthogonality(unit(0.0, 0.0, 7.0), centres).item() == 0.0


@pytest.mark.parametrize("call", [des.push_harm, des.orthogonality, des.multi_concept_neutralization])
def test_an_empty_list_is_an_error_and_not_a_zero(call):
    arguments = (draw(0, W), draw(W)) if call is des.multi_concept_neutralization else (draw(2, W), draw(0, W))
    with pytest.raises(ValueError, match="no (centres|directions|concepts)"):
        call(*arguments)


def test_principal_directions_are_those_that_the_vectors_were_spread_along():
    axes = torch.linalg.qr(draw(W, 3, seed=3))[0].T
    spread = draw(40, 3, seed=4) * torch.tensor([9.0, 4.0, 1.0])
    harmful = (100 * draw(1, W, seed=5) + spread @ axes).reshape(40, L, D)
    found = des.principal_directions(harmful, 2)
    assert found.shape == (2, W)
    torch.testing.assert_close(found @ found.T, torch.eye(2), atol=1e-5, rtol=0)
    variances = torch.linalg.eigvalsh(torch.cov(spread.T)).flip(0)[:2]
    torch.testing.assert_close((harmful.flatten(1) @ found.T).var(0), variances, rtol=1e-3, atol=0)
    assert torch.equal(des.principal_directions(harmful, 1), found[:1])
    for k, message in ((40, "at most 39"), (0, "at most 39"), (5, "fewer than 5 directions")):
        with pytest.raises(ValueError, match=message):
            des.principal_directions(harmful, k)


def test_a_margin_stops_at_its_cosine():
    """Zero, and without gradient, where cos > m_s; else m_s - cos of both parts."""
    original, concept = unit(1.0, 0.0), unit(0.0, 1.0)
    near, far = unit(1.0, 0.1).requires_grad_(), unit(1.0, 1.0).requires_grad_()
    loss = des.margin_preservation(near, original, concept, 0.1, 0.9)
    loss.backward()
    assert loss.item() == 0.0 and near.grad.abs().sum() == 0.0
    loss = des.margin_preservation(far, original, concept, 1.0, 0.9)
    assert loss.item() == pytest.approx(0.9 - 1 / math.sqrt(2) + 0.9 - 1 / math.sqrt(5), rel=1e-6)
    loss.backward()
    assert far.grad.abs().sum() > 0
    assert des.margin_neutralization(far, original, 0.8).item() == pytest.approx(0.8 - 1 / math.sqrt(2), rel=1e-6)
    plain = des.safe_preservation(far, original, concept, 1.0)
    assert des.margin_preservation(far, original, concept, 1.0, 1.0).item() == pytest.approx(plain.item(), rel=1e-6)


def test_mmd_is_the_sum_over_all_pairs():
    x, y = draw(3, 4, dtype=torch.float64), draw(5, 4, seed=1, dtype=torch.float64)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return sum(math.exp(-float(((p - q) ** 2).sum()) / (2 * w * w)) for p in a for q in b for w in (1.0, 2.0)) / 2

    expected = kernel(x, x) / 9 + kernel(y, y) / 25 - 2 * kernel(x, y) / 15
    assert des.mmd(x, y, (1.0, 2.0)).item() == pytest.approx(expected, rel=1e-9)
    assert des.mmd(x, x).item() == pytest.approx(0, abs=1e-12)


def test_the_default_bandwidth_of_mmd_is_the_median_heuristic_and_a_constant_to_the_gradient():
    """2 b^2 is the median m of squared distances of different pooled vectors: b = sqrt(m / 2), given as a number."""
    x, y = draw(4, 6, dtype=torch.float64), 3 + draw(5, 6, seed=1, dtype=torch.float64)
    pooled = torch.cat([x, y])
    m = torch.cdist(pooled, pooled).square()[~torch.eye(9, dtype=torch.bool)].median().item()
    found = {}
    for name, widths in {"default": None, "given": (math.sqrt(m / 2),), "other": (math.sqrt(m),)}.items():
        leaf = x.clone().requires_grad_()
        loss = des.mmd(leaf, y, widths)
        loss.backward()
        found[name] = (loss.detach(), leaf.grad, kernel_mean(x, y, widths))
    for default, given, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(default, given, rtol=1e-9, atol=1e-12)
        assert not torch.allclose(default, other, rtol=1e-2)


@pytest.mark.parametrize("width", [4, 77 * 768])
def test_a_median_distance_of_zero_is_refused(width):
    """Also where rounding leaves equal vectors a little apart; a width of the user's own is taken."""
    x = (100 * draw(1, width)).repeat(3, 1).requires_grad_()
    with pytest.raises(ValueError, match="at least half of the 6 vectors' distances are 0"):
        des.mmd(x, x.detach())
    with pytest.raises(ValueError, match="at least half"):
        kernel_mean(x, x)
    assert des.mmd(x, x.detach(), (1.0,)).item() == pytest.approx(0, abs=1e-6)
    near = torch.cat([x.detach(), x.detach() * (1 + 1e-4 * torch.arange(1, 4)[:, None])])
    assert math.isfinite(des.mmd(near, near + 1).item())


def test_mmd_tells_two_distributions_apart_and_grows_with_their_distance():
    safe = draw(64, W, seed=1)
    same, near, far = (des.mmd(draw(64, W) + offset, safe).item() for offset in (0.0, 0.3, 0.6))
    assert 0 <= same < 0.05 and same < near < far and far > 0.1


def test_the_gradient_of_mmd_does_not_vanish_at_the_lengths_of_text_embeddings():
    """Vectors of length 245 (77 x 768) whose cosines are about 0.7, B 32: the median heuristic against the report's
    fixed width of 1, whose loss is the constant 2/B and whose gradient is 0 (des.md section 9)."""
    width, common = 77 * 8, draw(1, 77 * 8, seed=9)

    def vectors(seed: int) -> torch.Tensor:
        drawn = common + 0.65 * draw(32, width, seed=seed)
        return 245 * drawn / drawn.norm(dim=1, keepdim=True)

    safe, unsafe = vectors(1), (vectors(2) + 40 * draw(1, width, seed=3) / width**0.5).requires_grad_()
    loss = des.mmd(unsafe, safe)
    loss.backward()
    assert 0.05 < kernel_mean(unsafe, safe).item() < 0.95
    downhill = unsafe.detach() - 24.5 * torch.nn.functional.normalize(unsafe.grad, dim=1)
    assert des.mmd(downhill, safe).item() < 0.9 * loss.item(), "a tenth of a vector's length along the gradient"
    unsafe.grad = None
    vanished = des.mmd(unsafe, safe, (1.0,))
    vanished.backward()
    assert vanished.item() == pytest.approx(2 / 32) and unsafe.grad.abs().max() == 0
    assert kernel_mean(unsafe, safe, (1.0,)).item() == 0.0


def test_a_concept_without_a_direction_is_refused():
    with pytest.raises(ValueError, match="the concept is the zero vector"):
        shift(draw(2, W), torch.zeros(W), 1.0)
    with pytest.raises(ValueError, match="the concept is the zero vector"):
        des.target_vectors(draw(2, W), draw(3, W, seed=1), torch.zeros(1, L, D), 200.0)


def test_vectors_of_another_size_are_refused():
    with pytest.raises(ValueError, match="a concept of 4 entries for vectors of 30"):
        des.target_vectors(draw(2, W), draw(2, W), draw(4), 1.0)
    with pytest.raises(ValueError, match="one shape"):
        des.unsafe_neutralization(draw(2, W), draw(2, D))


def test_at_the_size_of_clip_l_alpha_is_comparable_with_a_vector():
    """Arithmetic alone, on random directions: no CLIP is read, and its token length, about 28, is taken from des.md.

    77 tokens of length 28 make a vector of 59,136 entries and length 28 * sqrt(77) = 245.7, so that alpha 200 is 0.8 of
    it; targets s* - alpha n/|n| of two different s* then still differ, cos(t_i, t_j) < 0.95.
    """
    tokens = torch.nn.functional.normalize(draw(3, 77, 768), dim=2) * 28
    assert tokens.flatten(1).shape[1] == 59_136
    assert tokens.flatten(1).norm(dim=1).mean().item() == pytest.approx(245.7, abs=0.1)
    found = des.target_vectors(tokens[:2], tokens[1:], draw(1, 77, 768, seed=4), 200.0)
    assert cosine_similarity(found[:1].flatten(1), found[1:].flatten(1)).item() < 0.95
