"""Plans: what an erasure will touch and cost."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obliviate.erasure.plan import Pace, expected_segments, make_plan

SECONDS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]


def plan(method="deepobliviate", block_of=((17, 3),), ignored=(), **pace):
    places = dict(block_of)
    return make_plan(
        method=method,
        records=list(places),
        blocks=list(places.values()),
        ignored=ignored,
        pace=Pace(**({"seconds": SECONDS, "expected_lag": 2} | pace)),
    )


def test_a_fast_erasure_replays_a_few_blocks_from_the_affected_one_on():
    planned = plan()
    assert planned.start == 3
    assert planned.segments == ((3, 4),)
    assert planned.blocks_replayed == 2
    assert planned.seconds == 4 + 8
    assert planned.seconds_exact == 4 + 8 + 16 + 32


def test_an_exact_erasure_replays_to_the_end():
    planned = plan(method="exact")
    assert planned.segments == ((3, 6),)
    assert planned.seconds == planned.seconds_exact == 60


def test_an_exact_replay_starts_before_the_first_block_that_is_not_exact():
    planned = plan(method="exact", first_approximate=2)
    assert planned.start == 2
    assert planned.segments == ((2, 6),)
    assert planned.seconds == 62
    assert plan(method="exact", first_approximate=5).start == 3


def test_a_fast_erasure_may_rest_on_an_approximate_state():
    planned = plan(first_approximate=2)
    assert planned.start == 3
    assert planned.seconds_exact == 62


def test_settling_replays_from_the_first_block_that_is_not_exact():
    planned = plan(method="exact", block_of=(), first_approximate=4)
    assert planned.start == 4
    assert planned.segments == ((4, 6),)
    assert planned.records == ()


@pytest.mark.parametrize("method", ["exact", "deepobliviate"])
def test_where_nothing_is_to_be_done_nothing_is_planned(method):
    planned = plan(method=method, block_of=(), ignored=[9, 2])
    assert planned.start is None
    assert planned.segments == ()
    assert planned.blocks_replayed == planned.seconds == planned.seconds_exact == 0
    assert planned.ignored == (2, 9)


def test_records_and_blocks_are_listed_in_order_and_once():
    planned = plan(block_of={30: 5, 2: 1, 17: 5, 4: 1})
    assert planned.records == (2, 4, 17, 30)
    assert planned.affected == (1, 5)
    assert planned.start == 1
    assert planned.segments == ((1, 2), (5, 6))
    assert planned.blocks == 6


def test_the_last_block_alone():
    assert plan(block_of={0: 6}).segments == ((6, 6),)
    assert plan(block_of={0: 6}, method="exact").segments == ((6, 6),)


def test_a_chain_of_one_block():
    planned = plan(block_of={0: 1}, seconds=[3.0])
    assert planned.segments == ((1, 1),)
    assert planned.seconds == planned.seconds_exact == 3


def test_a_pace_adds_up_stretches():
    pace = Pace(seconds=SECONDS)
    assert [pace.between(1, 6), pace.between(3, 4), pace.between(6, 6)] == [63, 12, 32]


@given(
    blocks=st.integers(1, 60),
    data=st.data(),
    lag=st.floats(0, 70),
)
def test_expected_segments_are_the_runs_of_all_blocks_within_reach(blocks, data, lag):
    affected = sorted(data.draw(st.sets(st.integers(1, blocks), max_size=8)))
    reach = max(1, round(lag))
    replayed = {at for first in affected for at in range(first, min(first + reach, blocks + 1))}
    segments = expected_segments(affected, blocks, lag)
    assert {at for first, last in segments for at in range(first, last + 1)} == replayed
    for first, last in segments:
        assert first in affected
        assert first <= last <= blocks
    for (_, last), (first, _) in pairwise(segments):
        assert first > last + 1


@given(
    affected=st.sets(st.integers(1, 6), min_size=1),
    first_approximate=st.none() | st.integers(1, 6),
    lag=st.integers(1, 8),
)
def test_no_fast_erasure_is_expected_to_cost_more_than_the_exact_one(
    affected, first_approximate, lag
):
    changes = {
        "block_of": dict(enumerate(affected)),
        "first_approximate": first_approximate,
        "expected_lag": lag,
    }
    fast, exact = plan(**changes), plan(method="exact", **changes)
    assert fast.seconds <= exact.seconds == fast.seconds_exact == exact.seconds_exact
    assert exact.start <= fast.start == min(affected)
