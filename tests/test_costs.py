"""Costs: what follows for a chain from what is known of one training."""

from __future__ import annotations

import pytest

from obliviate.errors import InvalidOption
from obliviate.forecast.costs import Basis, Costs


def test_costs_follow_from_what_is_known():
    basis = Basis(
        training_seconds=1000,
        overhead_seconds=0.5,
        pass_seconds=3,
        lag=4,
        update_bytes=10,
        keyframe_bytes=30,
    )
    assert basis.costs(100, 6) == Costs(
        blocks=100, block_seconds=10.5, pass_seconds=3, lag=4, disk_bytes=100 * 10 + 6 * 30
    )
    assert Basis(training_seconds=1).costs(10, 3).disk_bytes is None


def test_no_chain_has_more_blocks_than_records():
    basis = Basis(training_seconds=1, records=48)
    assert basis.costs(48, 2).blocks == 48
    with pytest.raises(InvalidOption, match="49 blocks are more than the run's 48 records"):
        basis.costs(49, 2)


WRONG = {
    "training": lambda: Basis(training_seconds=0),
    "overhead": lambda: Basis(training_seconds=1, overhead_seconds=-1),
    "pass": lambda: Basis(training_seconds=1, pass_seconds=float("nan")),
    "lag": lambda: Basis(training_seconds=1, lag=0),
    "state": lambda: Basis(training_seconds=1, keyframe_bytes=-1),
    "too many": lambda: Basis(training_seconds=1).costs(10**300, 3),
    "blocks": lambda: Basis(training_seconds=1).costs(0, 0),
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_impossible_numbers_are_refused(make):
    with pytest.raises(InvalidOption) as refused:
        make()
    assert refused.value.hint
