"""What came of an erasure keeps its form on the way into the ledger and back."""

import json
from dataclasses import fields, replace

import pytest

from obliviate.errors import RunDamaged
from obliviate.ledger.outcome import DESTROYED, Ending, Outcome, Stitch

STITCH = Stitch(
    after=3,
    until=9,
    rho=0.5,
    exponent=0.6,
    exponent_deviation=0.1,
    predicted=None,
    low=None,
    high=None,
    reached=None,
    control=0.0,
    noise=0.25,
    has_passed=True,
    verdict="passed",
)
ENDING = Ending(
    records=2,
    references=40,
    level=0.9,
    before=3.0,
    target=-1.0,
    low=-2.0,
    high=0.5,
    reached=-0.5,
    inside=0.5,
    wrong=0.25,
    reference=(2.0, 1.5),
    accuracy=(0.75, 0.5),
    is_met=True,
    verdict="met",
    scores=((2.0, 4.0), (-1.0, 0.0)),
    expected=(-2.0, 0.0),
)
FULL = Outcome(
    stop_reason="the slope is flat",
    guarantee="approximate",
    digest="aa",
    digest_before="bb",
    segments=((1, 3), (7, 7)),
    residual_memory=(1.0, 0.5, float("inf"), 0.1),
    predicted_tail=0.25,
    functional_memory=(None, 0.5, 0.25, 0.125),
    control_memory=(0.0, 0.0, 0.0, 0.0),
    stitches=(STITCH,),
    ending=ENDING,
    too_shallow=("they are remembered",),
    seconds=1.5,
    reproduced=(0, 3),
)


def kept(outcome):
    return Outcome.from_json(json.loads(json.dumps(outcome.to_json())))


def test_the_example_sets_every_field():
    assert all(getattr(FULL, each.name) != each.default for each in fields(Outcome))


@pytest.mark.parametrize("outcome", [FULL, Outcome(stop_reason="it failed")])
def test_json_keeps_an_outcome(outcome):
    assert kept(outcome) == outcome


def test_blocks_are_counted_over_all_segments():
    assert FULL.replayed == (1, 2, 3, 7)
    assert FULL.blocks_replayed == 4


def test_what_lasts_tells_nothing_that_was_measured():
    lasting = FULL.lasting("cc", is_exact=False)
    assert lasting == Outcome(
        stop_reason=DESTROYED,
        guarantee="approximate",
        segments=FULL.segments,
        seconds=1.5,
        reproduced=(0, 3),
    )
    assert lasting.lasting("cc", is_exact=False) == lasting
    assert FULL.lasting("aa", is_exact=True) == replace(
        lasting, digest="aa", stop_reason=FULL.stop_reason
    )


@pytest.mark.parametrize(
    "change",
    [{"stitches": [{"rho": 1}]}, {"segments": [7]}, {"segments": 3}, {"colour": "red"}],
)
def test_what_is_no_outcome_is_named(change):
    with pytest.raises(RunDamaged, match="outcome of an erasure"):
        Outcome.from_json({**FULL.to_json(), **change})
