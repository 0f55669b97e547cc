"""The arithmetic of a planned training: bytes, seconds and money follow from sizes and rates."""

import json

import pytest
from typer.testing import CliRunner

from obliviate import errors
from obliviate.cli import app
from obliviate.forecast.estimate import HASHED_BYTES_PER_SECOND, Plan, estimate_of

LARGE = {"parameters": 8e9, "trainable": 40e6, "steps": 2000, "step_seconds": 2.0, "blocks": 50}


def estimated(**changes):
    return estimate_of(Plan(**(LARGE | changes)))


def test_only_what_is_trained_is_in_a_checkpoint():
    found = estimated()
    assert found.state_bytes == 40e6 * 4
    assert found.base_bytes == (8e9 - 40e6) * 2
    assert found.opening_seconds == found.base_bytes / HASHED_BYTES_PER_SECOND
    # 50 updates of 0.6 states and moments of 0.85 x 2; keyframes at 0, 14, 28, 42 and 50
    assert found.chain_bytes == pytest.approx(160e6 * (50 * (0.6 + 1.7) + 5 * 0.85), rel=1e-4)


def test_forgetting_takes_the_blocks_that_are_replayed_and_money_as_long_as_that():
    found = estimated(moments=0.0, lag=5, block_overhead=0.0, gpus=8, gpu_hour_price=3.0)
    block = 2000 * 2.0 / 50
    # those of the last blocks replay fewer: 1, 2, 3 or 4 of the 50 instead of 5
    assert found.forget.seconds == pytest.approx(block * (5 - 10 / 50), rel=0.15)
    # the exact replay goes on behind them, from block 26 on if she is in the middle
    assert found.settle.seconds == pytest.approx(block * 1035 / 50, rel=0.15)
    for cost in (found.forget, found.settle):
        assert cost.price == pytest.approx(cost.seconds / 3600 * 8 * 3.0)


def test_a_slow_bucket_adds_what_is_moved():
    near, far = estimated(), estimated(store_rate=100e6)
    assert far.forget.seconds - near.forget.seconds == pytest.approx(far.forget.moved_bytes / 100e6)
    assert far.settle.moved_bytes == near.settle.moved_bytes > far.forget.moved_bytes


def test_the_ledger_grows_with_records_and_epochs():
    found = estimated(records=10_000_000, epochs=20)
    assert found.ledger_bytes / 10_000_000 == pytest.approx(122.2, rel=0.01)  # as measured
    assert found.ledger_seconds == pytest.approx(206, rel=0.01)
    assert estimated().ledger_bytes == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trainable": 9e9}, "more than the model's"),
        ({"blocks": 3000}, "more than the 2000 steps"),
        ({"parameters": 0.0}, "parameters"),
        ({"step_seconds": float("nan")}, "step seconds"),
        ({"gpu_hour_price": -1.0}, "gpu hour price"),
        ({"gpus": 0}, "gpus"),
        ({"store_rate": 0.0}, "rate of the vault"),
        ({"keep": 4}, "keep"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(changes, said):
    with pytest.raises(errors.InvalidOption, match=said):
        estimated(**changes)


WORDS = ("estimate", "--parameters", "8e9", "--trainable", "40e6", "--blocks", "50")
FAST = ("--steps", "2000", "--step-seconds", "0.02")
LENGTH = ("--steps", "2000", "--step-seconds", "2")


def test_the_command_answers_people_and_machines():
    priced = (*WORDS, *LENGTH, "--gpu-hour-price", "3", "--records", "1000000")
    answer = json.loads(CliRunner().invoke(app, [*priced, "--json"]).stdout)
    assert answer["forget"]["price"] > 0
    assert answer["chain_bytes"] == estimated().chain_bytes
    said = CliRunner().invoke(app, list(priced)).stdout
    assert "to forget, fast" in said
    assert "making the ledger" in said
    crowded = CliRunner().invoke(app, ["estimate", "--parameters", "1e9", *FAST]).stdout
    assert "storing keeps" in crowded


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("forecast",), "--rate"),
        (("estimate",), "--parameters"),
        (WORDS, "--steps"),
        ((*WORDS, *LENGTH, "--rate", "2/day"), "--rate"),
        ((*WORDS[:-1], "50,60", *LENGTH), "--blocks"),
    ],
)
def test_a_command_that_says_too_little_or_too_much_changes_nothing(words, said):
    found = CliRunner().invoke(app, [*words, "--json"])
    assert found.exit_code == 2
    assert said in found.stdout
