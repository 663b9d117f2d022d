"""What is measured of a completion."""

from __future__ import annotations

import pytest

from pmd.services.rollout.completion import repetition


@pytest.mark.parametrize(
    ("token_ids", "share"),
    [
        ([], 0.0),
        ([7, 7, 7], 0.0),
        ([1, 2, 3, 4, 5, 6], 0.0),
        ([7] * 13, 0.9),  # ten 4-grams, one of them new
        ([1, 2, 3, 4, 1, 2, 3, 4, 1], 1 / 3),  # 1234, 2341, 3412, 4123, then 1234 and 2341 again
    ],
)
def test_repetition_is_the_share_of_4_grams_that_occurred_before(token_ids: list[int], share: float) -> None:
    assert repetition(token_ids) == pytest.approx(share)
