"""A simulated year: small cases worked out by hand, and what must hold in every case."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import obliviate as ob
from obliviate.chain.spacing import Sizes
from obliviate.erasure.plan import expected_segments
from obliviate.errors import InvalidOption
from obliviate.forecast.costs import Basis, Costs
from obliviate.forecast.requests import DAY, HOUR, Arrivals, Load, Replays, arrivals
from obliviate.forecast.simulation import (
    Limits,
    Rhythm,
    forecasts,
    recommended,
    simulate,
)
from obliviate.methods.power_law import FIT_MIN_LENGTH

COSTS = Costs(blocks=10, block_seconds=100.0, pass_seconds=7.0, lag=2)
WEEKLY, EXACT_WEEKLY = Rhythm(every_days=7), Rhythm(every_days=7, is_fast=False)


def came(*requests, days=28):
    """Requests as (seconds, block, block, ...) of a chain of ten blocks."""
    return Arrivals(
        seconds=np.array([float(seconds) for seconds, *_ in requests]),
        places=np.array([[[(block - 0.5) / 10 for block in blocks]] for _, *blocks in requests]),
        days=days,
    )


def served(*requests, costs=COSTS, rhythm=WEEKLY, limits=None, days=28):
    return simulate(came(*requests, days=days), costs, rhythm, limits or Limits())


# Worked out by hand


@pytest.mark.parametrize("rhythm", [WEEKLY, EXACT_WEEKLY])
def test_nobody_asks(rhythm):
    nobody = Arrivals(seconds=np.zeros(0), places=np.zeros((0, 1, 1)), days=365)
    found = simulate(nobody, COSTS, rhythm, Limits())
    assert (found.requests, found.fast_passes, found.settlings) == (0, 0, 0)
    assert (found.machine_hours, found.seconds_per_request, found.blocks_replayed) == (0, 0, 0)
    assert found.to_forget is None
    assert found.to_exact is None
    assert recommended([found], Limits()) is None


def test_one_request_is_forgotten_at_once_and_settled_at_the_end_of_the_week():
    # fast: blocks 3 and 4 in 207 s; they are exact, so the settling replays 5 to 10, in 607 s
    found = served((1000, 3))
    assert (found.fast_passes, found.settlings) == (1, 1)
    assert (found.fast_seconds, found.settling_seconds) == (207, 607)
    assert found.seconds_per_request == 814
    assert found.blocks_replayed == 8
    assert found.to_forget.p50 == found.to_forget.longest == 207
    assert found.to_exact.longest == 7 * DAY + 607 - 1000
    assert found.longest_settling_seconds == 607
    assert found.machine_hours == pytest.approx(814 / HOUR * 365 / 28)


def test_who_is_only_served_exactly_waits_for_the_week_to_end():
    found = served((1000, 3), rhythm=EXACT_WEEKLY)
    assert (found.fast_passes, found.settlings) == (0, 1)
    assert (found.fast_seconds, found.settling_seconds) == (0, 807)
    assert found.to_forget == found.to_exact
    assert found.to_exact.longest == 7 * DAY + 807 - 1000


def test_a_fast_erasure_that_reaches_the_end_of_the_chain_is_exact():
    found = served((1000, 9))
    assert (found.fast_passes, found.settlings) == (1, 0)
    assert found.to_exact == found.to_forget
    assert found.to_exact.longest == 207


def test_requests_that_wait_together_cost_one_pass():
    together, apart = served((50, 3), (50, 3), (50, 3)), served((50, 3), (5000, 3), (9000, 3))
    assert (together.fast_passes, apart.fast_passes) == (1, 3)
    assert (3 * together.fast_seconds, 3 * apart.fast_seconds) == pytest.approx((207, 621))
    assert together.settlings == apart.settlings == 1


def test_requests_that_come_during_a_pass_wait_for_it_and_share_the_next():
    # the first is done at 0 + 207 s; the others, of blocks 6, 7 and 7, 8, at 207 + 307 s
    found = served((0, 3), (10, 6), (20, 7))
    assert found.fast_passes == 2
    assert found.to_forget.p50 == 207 + 307 - 20
    assert found.to_forget.longest == 207 + 307 - 10


def test_records_in_several_blocks_are_replayed_segment_by_segment():
    # 1, 2 and 6, 7: the second segment rests on a stitched state, so settling starts at 3
    found = served((0, 1, 6))
    assert found.fast_seconds == 407
    assert found.settling_seconds == 807
    # with what lies within reach of each other, they are one segment: 1, 2, 3
    assert served((0, 1, 2)).fast_seconds == 307


def test_what_is_erased_before_an_approximate_block_is_exact():
    # first 6, 7, so 8 to 10 are approximate; then 2, 3, which rest on exact states: 4 to 10 are
    assert served((0, 6), (5000, 2)).settling_seconds * 2 == 707
    # the other way round, 6 and 7 rest on approximate states
    assert served((0, 2), (5000, 6)).settling_seconds * 2 == 707


def test_whoever_waits_when_the_week_ends_is_forgotten_before_the_settling():
    # one is being replayed when the week ends; the other is forgotten next, then all are settled
    end = 7 * DAY
    found = served((end - 100, 3), (end - 50, 3))
    assert (found.fast_passes, found.settlings) == (2, 1)
    assert found.to_forget.longest == 207 + 207 - 50
    assert found.to_exact.longest == 207 + 207 + 607 + 100 - 100


def test_whoever_asks_during_a_settling_waits_for_it():
    end = 7 * DAY
    found = served((0, 3), (end + 7, 3))
    assert found.to_forget.longest == 600 + 207
    assert found.settlings == 2
    # the first a week and the settling, the other seven seconds less
    assert found.to_exact.longest == 7 * DAY + 607
    assert found.to_exact.p50 == 7 * DAY + 607 - 3.5


def test_weeks_without_requests_are_not_settled():
    found = served((0, 3), (23 * DAY, 3))
    assert found.settlings == 2
    assert found.to_exact.longest == 7 * DAY + 607


def test_a_settling_that_takes_longer_than_its_rhythm_is_followed_by_the_next():
    slow = Costs(blocks=10, block_seconds=DAY, lag=2)
    found = served((0, 1), (DAY, 1), costs=slow, rhythm=Rhythm(every_days=1, is_fast=False))
    # the second comes just when the first settling starts, and is part of it
    assert found.settlings == 1
    found = served((0, 1), (DAY + 1, 1), costs=slow, rhythm=Rhythm(every_days=1, is_fast=False))
    assert found.settlings == 2
    assert found.to_exact.longest == 20 * DAY - 1
    assert found.longest_settling_seconds == 10 * DAY


def test_what_is_late_is_counted():
    found = served((0, 3), (6 * DAY, 3), limits=Limits(due_seconds=3 * DAY))
    assert found.exact_in_time == 0.5


# A chain of epochs

EPOCHS = Costs(blocks=10, epochs=5, keep=2, back=2, block_seconds=100.0, pass_seconds=7.0, lag=2)


def came_in_epochs(*requests, days=28):
    """Requests as (seconds, block of the first epoch, block of the second, ...)."""
    return Arrivals(
        seconds=np.array([float(seconds) for seconds, *_ in requests]),
        places=np.array([[[(block - 0.5) / 10] for block in blocks] for _, *blocks in requests]),
        days=days,
    )


def test_the_fast_path_goes_back_some_epochs_and_settling_begins_in_the_first():
    request = came_in_epochs((1000, 3, 9, 9, 5, 1))
    # fast: blocks 35, 36 and 41, 42. What lies before is destroyed from block 3 on, so settling
    # replays 3 to 50, and bridges the gap from the checkpoint at 2 on
    found = simulate(request, EPOCHS, WEEKLY, Limits())
    assert (found.fast_seconds, found.settling_seconds) == (407, 4807)
    found = simulate(came_in_epochs((1000, 4, 9, 9, 5, 1)), EPOCHS, WEEKLY, Limits())
    assert (found.fast_seconds, found.settling_seconds) == (407, 7 + 100 * (47 + 1))
    last = replace(EPOCHS, back=1)
    assert simulate(request, last, WEEKLY, Limits()).fast_seconds == 207
    # exact only: no less
    assert simulate(request, EPOCHS, EXACT_WEEKLY, Limits()).settling_seconds == 4807


def test_of_a_chain_that_is_kept_in_full_the_first_segment_is_exact():
    costs = replace(EPOCHS, keep=5, back=5)
    found = simulate(came_in_epochs((1000, 3, 9, 10, 5, 1)), costs, WEEKLY, Limits())
    # 3, 4; 19, 20; 30, 31; 35, 36; 41, 42; settling from 5 on
    assert (found.fast_seconds, found.settling_seconds) == (1007, 7 + 4600)


def test_who_waits_together_in_a_chain_of_epochs_is_settled_from_the_first_of_all():
    requests = came_in_epochs((50, 7, 1, 1, 5, 1), (50, 5, 1, 1, 6, 2))
    # fast: 35 to 37 and 41 to 43; settling from 5 on, with the two blocks behind the one at 2
    found = simulate(requests, EPOCHS, WEEKLY, Limits())
    assert found.fast_passes == 1
    assert (2 * found.fast_seconds, 2 * found.settling_seconds) == (607, 4807)


@given(
    blocks=st.lists(st.integers(1, 40), min_size=1, max_size=12).map(sorted),
    lag=st.floats(0.1, 9),
)
def test_segments_are_those_that_a_plan_expects(blocks, lag):
    costs = Costs(blocks=10, epochs=4, keep=4, back=4, block_seconds=1, lag=lag)
    replays = Replays.over(np.array([blocks]), np.array(blocks[:1]), costs)
    segments = expected_segments(sorted(set(blocks)), 40, lag)
    assert replays.count[0] == sum(last - first + 1 for first, last in segments)
    assert replays.last[0] == segments[0][1]


def test_a_year_of_twenty_requests_a_day_takes_seconds():
    requests = arrivals(Load(per_day=20), epochs=20)
    basis = Basis(epoch_seconds=100, epochs=20)
    rhythms = [Rhythm(every_days=days, is_fast=fast) for days in (1, 7) for fast in (True, False)]
    started = time.process_time()
    forecasts(requests, [basis.costs(blocks) for blocks in (10, 25, 100)], rhythms, Limits())
    assert time.process_time() - started < 5


# Beside a real run


@pytest.mark.parametrize("asked", [[3], [3, 12], [12, 3], [19], [5, 9, 2], [3, 7], [12, 14, 13]])
def test_as_many_blocks_are_replayed_as_a_run_would(asked, data, recipe_of, tmp_path):
    run = ob.fit(recipe_of(), data, tmp_path / "run", blocks=20)
    at_once = ob.DeepObliviate(epsilon=1e9)  # stops at the first block where it may
    records = [int(run.trainer.layout.members(block)[0]) for block in asked]
    erased = [run.forget(records=[record], method=at_once).blocks_replayed for record in records]
    settled = run.settle().blocks_replayed
    costs = Costs(blocks=20, block_seconds=1.0, lag=FIT_MIN_LENGTH)
    places = np.array([[[(block - 0.5) / 20]] for block in asked])
    seconds = np.arange(len(asked)) * 1000.0
    came = Arrivals(seconds=seconds, places=places, days=1)
    found = simulate(came, costs, WEEKLY, Limits())
    assert found.blocks_replayed * len(asked) == pytest.approx(sum(erased) + settled)
    assert found.fast_seconds * len(asked) == pytest.approx(sum(erased))


def test_as_many_blocks_are_replayed_as_a_run_of_epochs_would(data, recipe_of, tmp_path):
    recipe = replace(recipe_of(), epochs=4, repeats=1)
    run = ob.fit(recipe, data, tmp_path / "run", blocks=12, keep=2)
    at_once = ob.DeepObliviate(epsilon=1e9)
    plans = [run.preview(records=[record]) for record in (5, 17, 30)]
    lain = np.array([[*plan.unreached, *plan.affected] for plan in plans])  # once in each epoch
    erased = [run.forget(records=[record], method=at_once) for record in (5, 17, 30)]
    settled = run.settle().blocks_replayed
    costs = Costs(blocks=12, epochs=4, keep=2, back=2, block_seconds=1.0, lag=FIT_MIN_LENGTH)
    places = ((lain - 1) % 12 + 0.5)[:, :, np.newaxis] / 12
    came = Arrivals(seconds=np.arange(3) * 1000.0, places=places, days=1)
    found = simulate(came, costs, WEEKLY, Limits())
    replayed = [each.blocks_replayed for each in erased]
    assert found.fast_seconds * 3 == pytest.approx(sum(replayed))
    bridged = int(costs.gap_before(lain.min()))
    assert found.settling_seconds * 3 == pytest.approx(settled + bridged)


# A year


YEAR = arrivals(Load(per_day=5, days=365))


def year(blocks=(20, 100), every_days=(1, 7, 28), fast=(True, False), came=YEAR):
    basis = Basis(epoch_seconds=3600, overhead_seconds=0, pass_seconds=0)
    rhythms = [Rhythm(every_days=days, is_fast=each) for days in every_days for each in fast]
    return forecasts(came, [basis.costs(each) for each in blocks], rhythms, Limits())


def test_requests_come_at_the_rate_they_should():
    # Poisson with a mean of 20,000: six standard deviations, so one seed in 10⁹ fails
    requests = len(arrivals(Load(per_day=20, days=1000, seed=3)).seconds)
    assert abs(requests - 20_000) < 6 * 20_000**0.5
    draws = arrivals(Load(per_day=2, days=100, records=3))
    assert draws.places.shape == (len(draws.seconds), 1, 3)
    assert np.all(np.diff(draws.seconds) >= 0)
    assert draws.seconds[-1] < 100 * DAY


def test_the_seed_decides():
    load = {"per_day": 3, "days": 50}
    first, again, other = (arrivals(Load(**load, seed=seed)) for seed in (1, 1, 2))
    assert year(came=first) == year(came=again)
    assert year(came=first) != year(came=other)


@pytest.mark.parametrize("fast", [True, False])
def test_settling_less_often_costs_less(fast):
    for blocks in (20, 100):
        hours = [each.machine_hours for each in year([blocks], fast=[fast])]
        assert all(often > seldom for often, seldom in pairwise(hours))


def test_more_blocks_make_the_fast_path_cheaper():
    few, many = year((20, 100), every_days=[28], fast=[True])
    assert many.fast_seconds < few.fast_seconds / 4
    assert many.to_forget.p50 < few.to_forget.p50 / 4


def test_nobody_waits_longer_for_the_fast_path():
    for fast, exact in zip(year(fast=[True]), year(fast=[False]), strict=True):
        assert fast.to_forget.p99 < exact.to_forget.p99
        assert fast.machine_hours > exact.machine_hours


requests_of = st.lists(
    st.tuples(st.floats(0, 28 * DAY), st.integers(1, 10), st.integers(1, 10)),
    min_size=1,
    max_size=30,
).map(sorted)


@given(
    requests=requests_of,
    every_days=st.floats(0.1, 40),
    block_seconds=st.floats(1, DAY),
    lag=st.floats(1, 12),
    is_fast=st.booleans(),
)
def test_everybody_is_served_and_exact_when_due_if_the_rhythm_leaves_time(
    requests, every_days, block_seconds, lag, is_fast
):
    costs = Costs(blocks=10, block_seconds=block_seconds, pass_seconds=9.0, lag=lag)
    longest = 10 * block_seconds + 9.0  # a pass over the whole chain
    # who comes just after a settling has begun waits for the next instant, for a pass that is
    # under way then, for those who wait to be forgotten, and for the settling
    enough = every_days * DAY + 3 * longest + 1
    rhythm = Rhythm(every_days=every_days, is_fast=is_fast)
    found = served(*requests, costs=costs, rhythm=rhythm, limits=Limits(due_seconds=enough))
    assert found.exact_in_time == 1
    assert 0 < found.to_forget.longest <= found.to_exact.longest <= enough
    assert found.to_forget.p50 <= found.to_forget.p95 <= found.to_forget.p99
    assert found.fast_passes + found.settlings <= 2 * len(requests)
    assert found.longest_settling_seconds <= longest


# What to take


def test_the_cheapest_that_keeps_to_the_limits_is_recommended():
    found = year()
    hour = Limits(forget_seconds=HOUR)
    best = recommended(found, hour)
    assert (best.blocks, best.every_days, best.is_fast) == (100, 28, True)
    kept = [each for each in found if each.to_forget.p99 <= HOUR]
    assert 1 < len(kept) < len(found)
    assert best.machine_hours == min(each.machine_hours for each in kept)
    # whoever can wait for a month needs no fast path
    assert not recommended(found, Limits(forget_seconds=30 * DAY)).is_fast
    assert recommended(found, Limits(forget_seconds=1)) is None


def test_what_is_exact_too_late_is_not_recommended():
    ten_days = Limits(forget_seconds=HOUR, due_seconds=10 * DAY)
    found = [simulate(YEAR, COSTS, Rhythm(every_days=days), ten_days) for days in (7, 28)]
    assert recommended(found, ten_days).every_days == 7
    most = Limits(forget_seconds=HOUR, due_seconds=10 * DAY, exact_in_time=0.2)
    assert recommended(found, most).every_days == 28


def test_a_chain_that_the_disk_cannot_hold_is_not_recommended():
    sizes = Sizes(update_bytes=1e6, keyframe_bytes=1e6)
    basis = Basis(epoch_seconds=3600, sizes=sizes)
    costs = [basis.costs(blocks) for blocks in (20, 100)]
    found = forecasts(YEAR, costs, [Rhythm(every_days=7)], Limits())
    assert recommended(found, Limits()).blocks == 100
    assert recommended(found, Limits(disk_bytes=50e6)).blocks == 20


WRONG = {
    "rate": lambda: Load(per_day=-1),
    "infinite rate": lambda: Load(per_day=float("inf")),
    "days": lambda: Load(per_day=1, days=0),
    "records": lambda: Load(per_day=1, records=0),
    "seed": lambda: Load(per_day=1, seed=-1),
    "too many": lambda: arrivals(Load(per_day=1e5)),
    "too many places": lambda: arrivals(Load(per_day=1e3, records=10), epochs=100),
    "rhythm": lambda: Rhythm(every_days=-7),
    "no rhythm": lambda: Rhythm(every_days=1e-300),
    "forget": lambda: Limits(forget_seconds=0),
    "due": lambda: Limits(due_seconds=-1),
    "share": lambda: Limits(exact_in_time=1.1),
    "disk": lambda: Limits(disk_bytes=0),
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_impossible_numbers_are_refused(make):
    with pytest.raises(InvalidOption) as refused:
        make()
    assert refused.value.hint
