"""An erased record is never read again, in any order of calls."""

import random

import numpy as np
import pytest

import obliviate as ob
from tests.models import BLOCKS, Guarded, images, recipe, records_in

EAGER = ob.Calibrated(tolerance=100)


def guarded_run(folder, **options):
    data = Guarded(images())
    return data, ob.fit(recipe("dropout-cnn", **options), data, folder, blocks=BLOCKS)


def test_the_guard_bites(tmp_path):
    data, run = guarded_run(tmp_path)
    (record,) = records_in(run, 4)
    data.forbidden.add(record)
    with pytest.raises(ob.ObliviateError, match=f"record {record} was read"):
        run.forget(records=records_in(run, 2), method="exact")


def test_excluded_records_are_not_read_even_by_fit(tmp_path):
    data = Guarded(images())
    data.forbidden = {0, 5, 71}
    run = ob.fit(recipe(), data, tmp_path, blocks=BLOCKS, exclude=[0, 5, 71])
    assert run.verify().passed


CHAINS = {
    "one pass": ({}, {}),
    "epochs with gaps": ({"epochs": 3, "repeats": 1}, {"keep": 2}),
}


@pytest.mark.parametrize(
    "order", [0, 1, *(pytest.param(each, marks=pytest.mark.slow) for each in (2, 3))]
)
@pytest.mark.parametrize("kind", CHAINS)
def test_any_sequence_of_calls(tmp_path, kind, order):
    rng, (options, kept) = random.Random(order), CHAINS[kind]
    made, data = recipe("dropout-cnn", "momentum-carried", **options), Guarded(images())
    run = ob.fit(made, data, tmp_path, blocks=BLOCKS, **kept)
    fast = [ob.DeepObliviate(epsilon=0.01), ob.DeepObliviate(epsilon=9)]
    fast += [ob.DeepObliviate(epsilon=9, back=1)] if kept else [EAGER]
    victims = rng.sample(range(len(data)), 20)
    for _ in range(8):
        call = rng.choice(["fast", "fast", "exact", "settle", "verify", "reload", "fit"])
        if call in ("fast", "exact"):
            asked = [victims.pop() for _ in range(rng.randint(1, 2))]
            method = "exact" if call == "exact" else rng.choice(fast)
            run.forget(records=asked, method=method)
            data.forbidden.update(asked)
        elif call == "settle":
            assert run.settle().guarantee == "exact"
        elif call == "verify":
            assert run.verify().passed
        elif call == "reload":
            run = ob.load(tmp_path, made, data)
        else:
            run = ob.fit(made, data, tmp_path, blocks=BLOCKS, **kept)
    run.settle()
    erased = sorted(data.forbidden)
    np.testing.assert_array_equal(run.ledger.records.erased(), erased)
    never = ob.fit(made, data, tmp_path / "never", blocks=BLOCKS, exclude=erased)
    assert run.digest == never.digest


def test_a_second_request_does_not_bring_the_first_person_back(tmp_path):
    data, run = guarded_run(tmp_path)
    late, early = records_in(run, 5, 2)
    run.forget(records=[late])
    data.forbidden.add(late)
    run.forget(records=[early])
    data.forbidden.add(early)
    assert run.settle().guarantee == "exact"
    never = ob.fit(
        recipe("dropout-cnn"), data, tmp_path / "never", blocks=BLOCKS, exclude=[late, early]
    )
    assert run.digest == never.digest
