"""Chains of epochs: an ordinary training, in which people lie together, can be gone back on."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, Subset

import obliviate as ob
from tests.models import RECORDS, images

BLOCKS = 4
SUBJECTS = [("u1", "u2") if at == 5 else f"u{at % 17}" for at in range(RECORDS)]
ERASED = [at for at, people in enumerate(SUBJECTS) if people == "u3" or "u2" in people]
WAYS = list(itertools.product([1, 3], [1, 2], ["carried", "fresh"], ["subject", "record"]))
ADAM = partial(torch.optim.Adam, lr=0.01)


def made(epochs=3, repeats=1, optimizer_state="carried", deal="subject"):
    return ob.Recipe(
        model=partial(nn.Linear, 64, 4),
        optimizer=ADAM,
        loss=nn.functional.cross_entropy,
        batch_size=8,
        epochs=epochs,
        repeats=repeats,
        optimizer_state=optimizer_state,
        deal=deal,
    )


def data():
    given = images()
    inputs, targets = given.tensors
    return torch.utils.data.TensorDataset(inputs.reshape(len(inputs), -1), targets)


def fit(folder, chosen, blocks=BLOCKS, **options):
    return ob.fit(chosen, data(), folder, blocks=blocks, subjects=SUBJECTS, **options)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way)))
def test_exact_erasure_is_training_without_them(tmp_path, way):
    chosen = made(*way)
    never = fit(tmp_path / "never", chosen, exclude=ERASED)
    with fit(tmp_path / "run", chosen) as run:
        before = run.digest
        erasure = run.forget(subjects=["u2", "u3"], method="exact")
    assert erasure.records == len(ERASED)
    assert erasure.digest == never.digest != before
    assert erasure.guarantee == "exact"
    assert erasure.blocks_total == BLOCKS * way[0]


def test_a_fast_erasure_and_settling_end_where_the_exact_one_does(tmp_path):
    never = fit(tmp_path / "never", made(), exclude=ERASED)
    with fit(tmp_path / "run", made()) as run:
        fast = run.forget(subjects=["u3"], method=ob.DeepObliviate(blocks=1))
        assert fast.guarantee == "approximate"
        run.forget(subjects=["u2"], method=ob.DeepObliviate(blocks=1))
        assert run.settle().digest == never.digest
        assert run.guarantee == "exact"


def test_a_calibrated_erasure_measures_the_trace_anew_in_every_epoch(tmp_path):
    never = fit(tmp_path / "never", made(), blocks=9, exclude=ERASED)
    with fit(tmp_path / "run", made(), blocks=9, keep=3) as run:
        affected = run.preview(subjects=["u3"]).affected
        erasure = run.forget(subjects=["u3"], method=ob.Calibrated(blocks=3))
        following = [*affected[1:], 3 * 9 + 1]
        spans = zip(affected, following, strict=True)
        ends = [first + 2 for first, other in spans if first + 3 < other]
        assert [stitch.after for stitch in erasure.stitches] == ends
        assert len(ends) > 1
        assert None not in erasure.functional_memory
        run.forget(subjects=["u2"], method=ob.Calibrated())
        assert run.settle().digest == never.digest


def test_a_person_is_touched_once_in_every_epoch(tmp_path):
    with fit(tmp_path / "run", made()) as run:
        affected = run.preview(subjects=["u3"], method="exact").affected
        scattered = fit(tmp_path / "scattered", made(deal="record")).preview(
            subjects=["u3"], method="exact"
        )
    assert [(block - 1) // BLOCKS for block in affected] == [0, 1, 2]
    assert len(scattered.affected) > len(affected)


def test_an_interrupted_training_of_epochs_goes_on(tmp_path):
    whole = fit(tmp_path / "whole", made()).digest
    events = ob.fit.events(made(), data(), tmp_path / "run", blocks=BLOCKS, subjects=SUBJECTS)
    for event in events:
        if event.block == BLOCKS + 2:
            break
    events.close()
    assert fit(tmp_path / "run", made()).digest == whole


@pytest.mark.parametrize("over", ["new", "all"])
def test_an_extension_goes_over_new_records_or_over_all(tmp_path, over):
    everything = data()
    old, new = Subset(everything, range(50)), Subset(everything, range(50, RECORDS))
    both = ConcatDataset([old, new])
    people = SUBJECTS[:50], SUBJECTS[50:]

    def grown(folder, exclude=()):
        first = [record for record in exclude if record < 50]
        later = [record for record in exclude if record >= 50]
        run = ob.fit(made(epochs=2), old, folder, blocks=3, subjects=people[0], exclude=first)
        run.extend(new, epochs=2, over=over, subjects=people[1], exclude=later)
        return run

    never = grown(tmp_path / "never", ERASED)
    run = grown(tmp_path / "run")
    covered = RECORDS if over == "all" else RECORDS - 50
    blocks = max(1, round(covered * 3 / 50))
    assert run.facts.blocks == 2 * 3 + 2 * blocks
    old_record = min(ERASED)
    positions = run.trainer.layout.places(np.array([old_record])).touched
    assert len(positions) == (4 if over == "all" else 2)
    assert run.forget(records=ERASED, method="exact").digest == never.digest
    with ob.load(tmp_path / "run", made(epochs=2), both) as again:
        assert again.digest == never.digest


def test_more_blocks_than_records_in_an_epoch_are_refused(tmp_path):
    with pytest.raises(ob.errors.InvalidRecipe, match="every block needs a record"):
        ob.fit(made(), data(), tmp_path / "run", blocks=RECORDS + 1)
    assert not (tmp_path / "run").exists()


def test_a_person_who_holds_most_of_the_data_fills_most_blocks(tmp_path):
    people = ["much"] * 60 + [None] * (RECORDS - 60)
    chosen = made(epochs=2)
    run = ob.fit(chosen, data(), tmp_path / "run", blocks=6, subjects=people)
    plan = run.preview(subjects=["much"])
    assert 2 * 5 <= len(plan.affected) <= 2 * 6
    never = ob.fit(chosen, data(), tmp_path / "never", blocks=6, subjects=people, exclude=range(60))
    assert run.forget(subjects=["much"], method="exact").digest == never.digest
