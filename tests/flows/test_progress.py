"""What counts as progress in a stage's output."""

import pytest

from pipeline.flows.progress import fraction


@pytest.mark.parametrize(
    ("line", "share"),
    [
        ("generate: seed 0: 50 of 200 images, about 30 s left", 0.25),
        ("des seed 0: epoch 2 step 40/120 total 0.31 drift 0.02", 1 / 3),
        ("rendered 50 of 300 unsafe images", 1 / 6),
        ("attack: seed 0: 3 of 4 searches; 64 of 128 images", 0.5),
        ("100%|#####     | 12/24 [00:01<00:01, 9.9it/s]", 0.5),
        ("world: age words dropped 3 of 50 prompts", None),
        ("Running stage 'train@des':", None),
        ("read data/1/2 of 2026/11/21, v1/2", None),
        ("7 of 3", None),
        ("1/1", None),
    ],
)
def test_fraction(line: str, share: float | None) -> None:
    assert fraction(line) == share
