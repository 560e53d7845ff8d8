"""Exact neighbours: against brute force, with ties, for every chunk size; bad input."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline import mining
from pipeline.mining import farthest, nearest


def brute_force(queries: torch.Tensor, pool: torch.Tensor, k: int, sign: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines in float64, stable sort: best first, ties to the lowest index."""
    cosine = (F.normalize(queries.double(), dim=1) @ F.normalize(pool.double(), dim=1).T).numpy()
    order = np.argsort(-sign * cosine, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(cosine, order, axis=1)


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(57, 24, generator=generator), torch.randn(83, 24, generator=generator)


@pytest.mark.parametrize("search, sign", [(nearest, 1), (farthest, -1)])
@pytest.mark.parametrize("k", [1, 5, 83])
def test_equals_brute_force(search, sign, k, data):
    index, cosine = search(*data, k)
    expected_index, expected_cosine = brute_force(*data, k, sign)
    assert index.dtype == torch.int64 and cosine.dtype == torch.float32 and index.shape == (57, k)
    assert np.array_equal(index.numpy(), expected_index)
    np.testing.assert_allclose(cosine.numpy(), expected_cosine, atol=1e-7)


@pytest.mark.parametrize("search", [nearest, farthest])
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 50, 100])
def test_chunk_size_changes_nothing_even_with_ties(search, chunk, data):
    """Every pool row three times, and a few rows that differ from one another in the last bit."""
    queries, pool = data[0][:11], data[1]
    near = pool[:4] * (1 + 2.0**-23)
    pool = torch.cat([pool, pool, near, pool])
    whole = search(queries, pool, 7, chunk=1000)
    parts = search(queries, pool, 7, chunk=chunk)
    assert torch.equal(whole[0], parts[0]) and torch.equal(whole[1], parts[1])


@pytest.mark.parametrize("entries", [1, 24 * 7, 24 * 50])
def test_how_many_candidates_are_computed_again_at_a_time_changes_nothing(entries, data, monkeypatch):
    """One, seven or fifty pairs of width 24: wide vectors are taken in smaller slabs."""
    whole = nearest(*data, 7, chunk=20)
    monkeypatch.setattr(mining, "_SLAB_ENTRIES", entries)
    seen, plain = [], mining._dots
    monkeypatch.setattr(mining, "_dots", lambda a, b: seen.append(a.shape) or plain(a, b))
    parts = nearest(*data, 7, chunk=20)
    assert torch.equal(whole[0], parts[0]) and torch.equal(whole[1], parts[1])
    again = seen[-1]
    assert again[1] == 24 and again[0] * again[1] <= max(24, entries)


@pytest.mark.parametrize("k", [1, 3, 16])
@pytest.mark.parametrize("chunk", [64, 250, 999])
def test_blocks_wide_enough_for_groups_equal_brute_force(k, chunk):
    """Groups of columns, ragged last blocks, rows of length 1 that are taken as they are, and ties across groups."""
    generator = torch.Generator().manual_seed(4)
    pool = F.normalize(torch.randn(900, 24, generator=generator).double(), dim=1).float()
    pool = torch.cat([pool, pool[200:300]])
    queries = F.normalize(torch.randn(300, 24, generator=generator).double(), dim=1).float()
    index, cosine = nearest(queries, pool, k, chunk=chunk)
    # Brute force in float64, rounded as ties are.
    exact = queries.double() @ pool.double().T / (queries.double().norm(dim=1)[:, None] * pool.double().norm(dim=1))
    exact = (exact * 2.0**40).round().numpy() / 2.0**40
    expected = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    assert np.array_equal(index.numpy(), expected)
    np.testing.assert_allclose(cosine.numpy(), np.take_along_axis(exact, expected, axis=1), atol=1e-7)


def test_a_pool_full_of_ties_is_settled_before_it_fills_the_memory(monkeypatch):
    """Every second row of the pool is the same: candidates beyond 8 k a query are computed again on the way."""
    generator = torch.Generator().manual_seed(5)
    pool = torch.randn(2000, 24, generator=generator)
    pool[::2] = pool[0]
    queries = pool[:1] + 0.1 * torch.randn(20, 24, generator=generator)
    settled, plain = [], mining._Search._settle
    monkeypatch.setattr(mining._Search, "_settle", lambda self: settled.append(self.waiting) or plain(self))
    index, _ = nearest(queries, pool, 4, chunk=100)
    assert index.tolist() == [[0, 2, 4, 6]] * 20
    assert len(settled) > 5 and max(settled) <= 20 * (8 * 4 + 50), "one block of ties more than may wait"


@pytest.mark.parametrize("chunk", [1, 5, 64, 1000])
@pytest.mark.parametrize("search", [nearest, farthest])
def test_duplicates_go_to_the_lowest_index(search, chunk, data):
    queries, pool = data[0][:11], data[1]
    pool = torch.cat([pool, pool[torch.randperm(83, generator=torch.Generator().manual_seed(2))], pool])
    index, cosine = search(queries, pool, 3, chunk=chunk)
    first = search(queries, data[1], 1)[0]
    assert torch.equal(index[:, :1], first)
    assert (index.diff(dim=1) > 0).all() and (cosine == cosine[:, :1]).all()


def test_one_repeated_row_is_a_tie_everywhere():
    pool = torch.randn(1, 33, generator=torch.Generator().manual_seed(3)).repeat(40, 1)
    index, cosine = nearest(torch.randn(5, 33), pool, 4, chunk=9)
    assert torch.equal(index, torch.arange(4).expand(5, 4)) and (cosine == cosine[:, :1]).all()


def test_scaled_rows_tie_and_cosines_stay_within_one():
    pool = torch.tensor([[0.0, 1.0], [3.0, 3.0], [1.0, 1.0], [0.1, 0.1]])
    index, cosine = nearest(torch.tensor([[7.0, 7.0]]), pool, 3)
    assert index.tolist() == [[1, 2, 3]] and cosine.tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_takes_every_floating_type(dtype, data):
    queries, pool = (x.to(dtype) for x in data)
    index, cosine = nearest(queries, pool, 2)
    assert np.array_equal(index.numpy(), brute_force(queries, pool, 2, 1)[0]) and cosine.dtype == torch.float32


def test_no_queries_give_no_rows(data):
    index, cosine = nearest(data[0][:0], data[1], 2)
    assert index.shape == (0, 2) and cosine.shape == (0, 2)


def test_inputs_and_gradients_are_left_alone(data):
    queries, pool = data[0].clone().requires_grad_(), data[1].clone()
    _, cosine = nearest(queries, pool)
    assert not cosine.requires_grad and torch.equal(pool, data[1])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda q, p: (q, p, 84), "k must be from 1 to the size of the pool, 83, got 84"),
        (lambda q, p: (q, p, 0), "k must be"),
        (lambda q, p: (q[:, :3], p, 1), r"one width, got \(57, 3\), \(83, 24\)"),
        (lambda q, p: (q[0], p, 1), "expected queries"),
        (lambda q, p: (q, p.index_fill(0, torch.tensor(5), torch.nan), 1), "pool: row 5 holds NaN"),
        (lambda q, p: (q.index_fill(0, torch.tensor(6), torch.inf), p, 1), "queries: row 6 holds NaN or infinity"),
        (lambda q, p: (q.index_fill(0, torch.tensor(2), 0.0), p, 1), "queries: row 2 is zero"),
    ],
)
def test_bad_input_is_named(change, message, data):
    with pytest.raises(ValueError, match=message):
        nearest(*change(*data))
