"""Policies: what is done now, and what can wait."""

from datetime import UTC, datetime, timedelta

import pytest

from obliviate.desk.policy import (
    DUE_DAYS,
    Policy,
    Waiting,
    batches,
    due_date,
    latest_of,
    settle_by,
    steps,
)
from obliviate.erasure.plan import Pace, make_plan
from obliviate.errors import InvalidOption

NOW = datetime(2030, 5, 1, 12, tzinfo=UTC)
FAST, FASTER, EXACT = (
    {"name": "deepobliviate"},
    {"name": "deepobliviate", "epsilon": 9},
    {"name": "exact"},
)


def waiting(number, method=FAST, days=30):
    return Waiting(id=number, due=NOW + timedelta(days=days), method=method)


def plan(blocks=(3,), total=20, method="deepobliviate"):
    return make_plan(
        method=method,
        records=range(len(blocks)),
        blocks=blocks,
        ignored=[],
        pace=Pace(seconds=[1.0] * total),
    )


def now(policy=None, *requests, unsettled=(), seconds_exact=18.0, plans=None):
    return steps(
        policy or Policy(),
        requests,
        list(unsettled),
        plans=plans or [plan() for _ in batches(requests)],
        seconds_exact=seconds_exact,
        now=NOW,
    )


def test_nothing_waits_and_nothing_is_done():
    assert now() == []
    assert settle_by(Policy(), [], 0.0) is None


def test_fast_requests_are_carried_out_at_once_in_one_pass_for_each_method():
    found = now(None, waiting(1), waiting(2, FASTER), waiting(3))
    assert [(step.kind, step.method, step.requests) for step in found] == [
        ("forget", FAST, (1, 3)),
        ("forget", FASTER, (2,)),
    ]


def test_an_exact_request_waits():
    assert now(None, waiting(1, EXACT)) == []
    assert now(Policy(fast_first=False), waiting(1), waiting(2, EXACT)) == []


def test_everything_is_replayed_exactly_before_the_earliest_deadline():
    (step,) = now(None, waiting(1), waiting(2, EXACT, days=2.9), waiting(3, FASTER))
    assert (step.kind, step.method, step.requests) == ("forget", EXACT, (1, 2, 3))
    assert "deadline" in step.reason


def test_the_replay_begins_early_enough_to_be_done_in_time():
    request = waiting(1, EXACT, days=3.5)
    assert now(None, request) == []
    assert len(now(None, request, seconds_exact=0.6 * 24 * 3600)) == 1
    assert len(now(Policy(margin_days=4), request)) == 1


def test_what_was_erased_fast_is_settled_before_its_deadline():
    assert now(unsettled=[NOW + timedelta(days=4)]) == []
    (step,) = now(unsettled=[NOW + timedelta(days=2)])
    assert (step.kind, step.requests) == ("settle", ())


def test_a_deadline_that_has_passed_is_made_up_for_at_once():
    (step,) = now(unsettled=[NOW - timedelta(days=400)])
    assert step.kind == "settle"


def test_the_exact_replay_is_taken_where_it_costs_no_more():
    (step,) = now(None, waiting(1), plans=[plan(blocks=(18,))])
    assert (step.method, step.requests) == (EXACT, (1,))


def days(*offsets):
    return [NOW + timedelta(days=each) for each in offsets]


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ([0, 1, 2], 2),
        ([0, 1, 23_000], 1),  # a clock that was wrong for one call
        ([0, 1, 23_000, 23_000.9], 1),
        ([0, 1, 500, 501], 501),  # a run that lay untouched
        ([-9000, 0, 1], 1),  # a clock that was set back
        ([5], 5),
        ([], 0),
    ],
)
def test_one_call_with_a_wrong_clock_is_not_believed(offsets, expected):
    assert latest_of(NOW, days(*offsets)) == NOW + timedelta(days=expected)


def test_passes_that_are_exact_anyway_are_one_and_come_first():
    far, near = plan(), plan(blocks=(18,))
    requests = (waiting(1), waiting(2, FASTER), waiting(3, {"name": "deepobliviate", "epsilon": 1}))
    found = now(None, *requests, plans=[far, near, near])
    assert [(step.method, step.requests) for step in found] == [(EXACT, (2, 3)), (FAST, (1,))]


def test_one_exact_replay_is_taken_where_all_passes_together_cost_no_less():
    requests = (waiting(1), waiting(2, FASTER), waiting(3, EXACT))
    plans = [plan(blocks=(13,)), plan(blocks=(14,)), plan(method="exact")]
    (step,) = now(None, *requests, plans=plans, seconds_exact=9.0)
    assert (step.method, step.requests) == (EXACT, (1, 2, 3))


@pytest.mark.parametrize("days", [-1, float("inf"), float("nan")])
def test_a_margin_is_a_number_of_days(days):
    with pytest.raises(InvalidOption, match="margin_days"):
        Policy(margin_days=days)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, NOW + timedelta(days=DUE_DAYS)),
        ("2030-05-01", datetime(2030, 5, 1, 23, 59, 59, tzinfo=UTC)),
        ("2030-05-01T13:00", datetime(2030, 5, 1, 13, tzinfo=UTC)),
        ("2030-05-01T14:00:00+01:30", datetime(2030, 5, 1, 12, 30, tzinfo=UTC)),
        (datetime(2031, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)),
        (datetime(2031, 1, 1), datetime(2031, 1, 1, tzinfo=UTC)),  # noqa: DTZ001
    ],
)
def test_due_dates(text, expected):
    assert due_date(text, NOW) == expected


@pytest.mark.parametrize("text", ["2030-04-30", "2030-05-01T12:00", "1999-01-01"])
def test_a_due_date_in_the_past(text):
    with pytest.raises(InvalidOption, match="has passed"):
        due_date(text, NOW)


@pytest.mark.parametrize("text", ["", "tomorrow", "2030-13-01", 17, "20/12/2030"])
def test_what_is_no_date(text):
    with pytest.raises(InvalidOption, match="is no date"):
        due_date(text, NOW)
