"""The same numbers on every machine, to the tolerance that golden.py states for each."""

import json

import numpy as np
import pytest

from tests.faults import golden
from tests.faults.record import record

KEPT = json.loads(golden.FILE.read_text(encoding="utf-8"))


def test_every_item_has_its_golden_numbers():
    assert {name: kept["tolerance"] for name, kept in KEPT.items()} == {
        n: kind for n, (kind, _) in golden.ITEMS.items()
    }


@pytest.mark.parametrize("name", golden.ITEMS)
def test_the_golden_numbers(name):
    tolerance, compute = golden.ITEMS[name]
    rtol, atol = golden.TOLERANCES[tolerance]
    found, expected = np.array(compute()), np.array(KEPT[name]["values"])
    close = np.isclose(found, expected, rtol=rtol, atol=atol)
    record("golden numbers", len(expected), int(close.sum()) if found.shape == expected.shape else 0, name)
    assert close.all(), (
        f"{found[~close]} instead of {expected[~close]}, tolerance {tolerance}: rtol {rtol}, atol {atol}"
    )


def test_a_golden_number_that_moves_is_seen():
    """The tolerances are narrow: a relative change of 1 in 500 of what decides an outcome is none of them."""
    for name, kept in KEPT.items():
        rtol, atol = golden.TOLERANCES[kept["tolerance"]]
        largest = max(map(abs, kept["values"]))
        assert atol + rtol * largest <= 0.02 * largest, name
