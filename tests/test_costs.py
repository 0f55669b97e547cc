"""Costs: what follows for a chain from what is known of one training."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils.data import Subset

import obliviate as ob
from obliviate.chain.spacing import Sizes
from obliviate.errors import InvalidOption
from obliviate.forecast.costs import Basis, Costs
from obliviate.forecast.requests import Load, arrivals
from obliviate.forecast.simulation import trade
from obliviate.forecast.year import basis_of_run

SIZES = Sizes(update_bytes=10, keyframe_bytes=30, moments_bytes=100)


def test_costs_follow_from_what_is_known():
    basis = Basis(epoch_seconds=1000, overhead_seconds=0.5, pass_seconds=3, lag=4, sizes=SIZES)
    assert basis.costs(100) == Costs(
        blocks=100,
        block_seconds=10.5,
        pass_seconds=3,
        lag=4,
        # keyframes at 0, 17, 34, 51, 68, 85 and 100
        disk_bytes=100 * (10 + 100) + 7 * 30,
    )
    assert Basis(epoch_seconds=1).costs(10).disk_bytes is None


def test_of_a_chain_of_epochs_the_last_are_kept():
    basis = Basis(epoch_seconds=1000, overhead_seconds=0, epochs=20, sizes=SIZES)
    usual, most = basis.costs(25), basis.costs(25, keep=20)
    assert (usual.length, usual.keep, usual.back) == (500, 4, 4)
    assert usual.block_seconds == 40
    # in full: 100 blocks, keyframes at 416, 432, ... 496 and 500; before: at 400, 391, ... 4, and 0
    assert usual.disk_bytes == 100 * 110 + 7 * 30 + 45 * 130 + 30
    assert most.disk_bytes > 3 * usual.disk_bytes
    assert basis.costs(25, keep=6, back=2).back == 2
    measured = replace(basis, keep=7, blocks=25)
    assert measured.costs(25).keep == measured.costs(25).back == 7


def test_keeping_more_takes_disk_and_spares_settling():
    sizes = Sizes(update_bytes=1e6, keyframe_bytes=1e6)
    basis = Basis(epoch_seconds=100, epochs=20, sizes=sizes)
    requests = arrivals(Load(per_day=1), epochs=20)
    few, usual, most = (trade(requests, basis.costs(25, keep=keep)) for keep in (1, 4, 20))
    assert few.disk_bytes < usual.disk_bytes < most.disk_bytes / 3
    assert few.fast_seconds < usual.fast_seconds < most.fast_seconds
    assert most.settling_seconds < usual.settling_seconds
    assert usual.settling_seconds == pytest.approx(few.settling_seconds, rel=0.01)
    only = trade(requests, basis.costs(25, keep=20, back=1))
    assert only.fast_seconds == few.fast_seconds


def test_a_gap_is_bridged_from_the_last_checkpoint_before_it():
    costs = Basis(epoch_seconds=1, epochs=4).costs(5, keep=2)  # checkpoints at 10, 8, 6, 4, 2, 0
    gaps = [int(costs.gap_before(block)) for block in range(1, 21)]
    assert gaps == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1] + [0] * 10
    sparse = Basis(epoch_seconds=1, epochs=3).costs(7, keep=1)  # at 14, 11, 8, 5, 2, 0
    gaps = [int(sparse.gap_before(block)) for block in range(1, 16)]
    assert gaps == [0, 1, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0]


def test_no_epoch_has_more_blocks_than_records():
    basis = Basis(epoch_seconds=1, records=48, epochs=3)
    assert basis.costs(48).blocks == 48
    with pytest.raises(InvalidOption, match="49 blocks are more than the run's 48 records"):
        basis.costs(49)


EPOCHS = Basis(epoch_seconds=1, epochs=4)
WRONG = {
    "training": lambda: Basis(epoch_seconds=0),
    "overhead": lambda: Basis(epoch_seconds=1, overhead_seconds=-1),
    "pass": lambda: Basis(epoch_seconds=1, pass_seconds=float("nan")),
    "lag": lambda: Basis(epoch_seconds=1, lag=0),
    "state": lambda: Basis(epoch_seconds=1, sizes=Sizes(update_bytes=1, keyframe_bytes=-1)),
    "too many": lambda: Basis(epoch_seconds=1).costs(10**300),
    "too many in all": lambda: EPOCHS.costs(300_000),
    "blocks": lambda: Basis(epoch_seconds=1).costs(0),
    "no epochs": lambda: Basis(epoch_seconds=1, epochs=0),
    "keep of more than there are": lambda: EPOCHS.costs(5, keep=5),
    "keep of none": lambda: EPOCHS.costs(5, keep=0),
    "back behind what is kept": lambda: EPOCHS.costs(5, keep=2, back=3),
    "back behind what is usual": lambda: EPOCHS.costs(5, back=3),
    "back to none": lambda: EPOCHS.costs(5, back=0),
}


def test_a_run_of_epochs_shows_what_another_would_take(data, recipe_of, tmp_path):
    adam = partial(torch.optim.Adam, lr=0.001)
    recipe = replace(recipe_of(), optimizer=adam, optimizer_state="carried", epochs=5, repeats=1)
    run = ob.fit(recipe, data, tmp_path / "run", blocks=6, keep=2)
    basis = basis_of_run(run)
    assert (basis.epochs, basis.keep, basis.blocks, basis.records) == (5, 2, 6, len(data))
    taken = run.stock().size_bytes()
    assert basis.costs(6).disk_bytes == pytest.approx(taken, rel=0.02)
    whole = ob.fit(recipe, data, tmp_path / "whole", blocks=6, keep=5).stock().size_bytes()
    assert basis.costs(6, keep=5).disk_bytes == pytest.approx(whole, rel=0.15)
    run.forget(records=[5], method=ob.DeepObliviate(epsilon=1e9))
    forgotten = basis_of_run(run)  # moments are no part of what is stitched
    assert forgotten.sizes.moments_bytes == pytest.approx(basis.sizes.moments_bytes, rel=0.3)
    run.settle()
    assert basis_of_run(run).costs(6).disk_bytes == pytest.approx(taken, rel=0.02)


def test_an_extended_run_is_taken_for_one_that_was_made_at_once(data, recipe_of, tmp_path):
    recipe, half = replace(recipe_of(), epochs=3, repeats=1), len(data) // 2
    old, new = Subset(data, range(half)), Subset(data, range(half, len(data)))
    with ob.fit(recipe, old, tmp_path / "run", blocks=6, keep=3) as run:
        run.extend(new, blocks=6, epochs=1, over="all")
        basis = basis_of_run(run)
    # half of the records were seen four times, the others once, in 24 blocks that are all kept
    assert (basis.epochs, basis.keep, basis.blocks, basis.records) == (2, 2, 12, len(data))


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_impossible_numbers_are_refused(make):
    with pytest.raises(InvalidOption) as refused:
        make()
    assert refused.value.hint
