"""What is kept of a chain of epochs: the last ones in full, before them keyframes far apart."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from obliviate.states.update import digest
from tests.models import RECORDS, Guarded, images

BLOCKS, EPOCHS = 6, 4
SUBJECTS = [f"u{at % 18}" for at in range(RECORDS)]
LENGTH = BLOCKS * EPOCHS
FAST = ob.DeepObliviate(blocks=1)


def made(**options):
    given = {
        "model": partial(nn.Linear, 64, 4),
        "optimizer": partial(torch.optim.Adam, lr=0.01),
        "loss": nn.functional.cross_entropy,
        "batch_size": 4,
        "epochs": EPOCHS,
        "optimizer_state": "carried",
    }
    return ob.Recipe(**given | options)


def data():
    inputs, targets = images().tensors
    return TensorDataset(inputs.reshape(len(inputs), -1), targets)


def fit(folder, recipe=None, **options):
    given = {"blocks": BLOCKS, "subjects": SUBJECTS, "keep": 1}
    return ob.fit(recipe or made(), data(), folder, **given | options)


def without(folder, *people, **options):
    gone = [at for at, who in enumerate(SUBJECTS) if who in people]
    return fit(folder, exclude=gone, **options).digest


def in_last_epoch(run, *, late):
    """A person whose block of the last epoch is not its first, and comes early or late."""
    first = LENGTH - BLOCKS + 1
    found = {run.preview(subjects=[who], method="exact").affected[-1]: who for who in set(SUBJECTS)}
    blocks = sorted(block for block in found if block > first)
    return found[blocks[-2 if late else 0]]


def held(run):
    return [entry.block for entry in run.chain().entries if entry.update or entry.keyframe]


def test_only_the_last_epochs_are_kept_in_full(tmp_path):
    run = fit(tmp_path / "run")
    entries = run.chain().entries
    full = [entry.block for entry in entries if entry.update]
    assert full == list(range(LENGTH - BLOCKS + 1, LENGTH + 1))
    before = [entry.block for entry in entries if entry.keyframe and entry.block not in full]
    assert before == list(range(0, LENGTH - BLOCKS + 1, 2))
    assert all(entry.digest for entry in entries)
    assert [entry.block for entry in entries if entry.optimizer] == [*before[1:], *full]
    whole = fit(tmp_path / "whole", keep=EPOCHS)
    assert whole.digest == run.digest
    assert whole.stock().size_bytes() > 1.5 * run.stock().size_bytes()


@pytest.mark.parametrize("optimizer_state", ["carried", "fresh"])
def test_exact_erasure_bridges_the_gaps(tmp_path, optimizer_state):
    recipe = made(optimizer_state=optimizer_state)
    never = without(tmp_path / "never", "u3", recipe=recipe)
    run = fit(tmp_path / "run", recipe)
    before = held(run)
    erasure = run.forget(subjects=["u3"], method="exact")
    assert (erasure.digest, erasure.guarantee) == (never, "exact")
    assert held(run) == before
    assert run.verify().passed


def test_every_block_is_verified_over_the_gaps(tmp_path):
    run = fit(tmp_path / "run")
    found = run.verify()
    assert found.passed
    assert found.reproduced == tuple(range(LENGTH + 1))
    assert run.verify(blocks=[3, 4, LENGTH]).reproduced == (3, 4, LENGTH)


def test_a_training_that_was_stopped_in_a_gap_goes_on(tmp_path):
    whole = fit(tmp_path / "whole").digest
    events = ob.fit.events(
        made(), data(), tmp_path / "run", blocks=BLOCKS, subjects=SUBJECTS, keep=1
    )
    for event in events:
        if event.block == 5:
            break
    events.close()
    assert fit(tmp_path / "run").digest == whole


def test_a_lost_keyframe_is_made_again_over_a_gap(tmp_path):
    run = fit(tmp_path / "run")
    key = run.chain().entries[4].keyframe.key
    (path,) = (tmp_path / "run" / "vault").rglob(f"*{key}*")
    path.unlink()
    assert not run.verify(blocks=[5]).passed
    assert run.verify(blocks=[5], repair=True).passed
    assert run.verify().passed


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("keep", [1, EPOCHS])
def test_after_going_back_one_epoch_nothing_holds_the_trace(tmp_path, keep, late):
    run = fit(tmp_path / "run", keep=keep)
    chain, person = run.chain(), in_last_epoch(run, late=late)
    first, *_, unreached, last = run.preview(subjects=[person], method="exact").affected
    base = max(unreached, (EPOCHS - keep) * BLOCKS)
    traced = {entry.digest for entry in chain.entries[first:]}
    old = {stored.key for entry in chain.entries[first:] for stored in entry.objects}
    states = {block: chain.state(block) for block in range(first, LENGTH) if chain.is_held(block)}
    erasure = run.forget(subjects=[person], method=ob.DeepObliviate(blocks=1, back=1))
    assert erasure.segments == ((last, last),)
    assert erasure.guarantee == "approximate"
    chain = run.chain()
    assert {entry.origin for entry in chain.entries[first:base]} == {"dropped"}
    assert {entry.origin for entry in chain.entries[base:last]} == {"stitched"}
    for block in range(first, LENGTH + 1):
        if chain.is_held(block):
            state = chain.state(block)
            assert digest(state) not in traced
            if block in states:
                assert any(not torch.equal(state[name], states[block][name]) for name in state)
    # what is left of the old objects are updates that others made, without a state to stand on
    left = {stored.key for entry in chain.entries for stored in entry.objects} & old
    updates = {entry.update.key for entry in chain.entries if entry.update}
    assert left <= updates
    assert run.ledger.faults() == []
    assert run.stock(check=True).lost == ()


def test_a_second_person_is_forgotten_from_an_earlier_block(tmp_path):
    run = fit(tmp_path / "run")
    late, early = in_last_epoch(run, late=True), in_last_epoch(run, late=False)
    never = without(tmp_path / "never", late, early)
    run.forget(subjects=[late], method=FAST)
    second = run.forget(subjects=[early], method=FAST)
    assert second.guarantee == "approximate"
    assert second.blocks_replayed == 1
    with pytest.raises(ob.errors.UnknownSubject):
        run.preview(subjects=[late])
    settled = run.settle()
    assert (settled.digest, settled.guarantee) == (never, "exact")
    assert run.verify().passed
    assert held(run) == held(fit(tmp_path / "other"))


def test_an_exact_erasure_after_a_fast_one_is_exact(tmp_path):
    run = fit(tmp_path / "run")
    never = without(tmp_path / "never", "u3", "u4")
    run.forget(subjects=["u3"], method=FAST)
    assert run.forget(subjects=["u4"], method="exact").digest == never
    assert run.guarantee == "exact"


def test_all_epochs_are_gone_back_to_where_all_are_kept(tmp_path):
    run = fit(tmp_path / "run", keep=EPOCHS)
    erasure = run.forget(subjects=["u3"], method=FAST)
    assert erasure.blocks_replayed == EPOCHS
    assert run.settle().digest == without(tmp_path / "never", "u3")


def test_going_back_further_than_what_is_kept_is_refused(tmp_path):
    run = fit(tmp_path / "run", keep=2)
    for call in (run.preview, run.forget):
        with pytest.raises(ob.errors.InvalidOption, match="keeps the last 2 in full"):
            call(subjects=["u3"], method=ob.DeepObliviate(back=3))
    assert len(run.preview(subjects=["u3"], method=ob.DeepObliviate(back=2)).affected) == 2
    assert run.guarantee == "exact"


@pytest.mark.parametrize("keep", [0, EPOCHS + 1, 1.5, "all"])
def test_a_keep_that_is_no_number_of_epochs_is_refused(tmp_path, keep):
    with pytest.raises(ob.errors.InvalidOption, match="keep is"):
        fit(tmp_path / "run", keep=keep)
    assert not (tmp_path / "run").exists()


def test_what_is_kept_cannot_be_changed_afterwards(tmp_path):
    fit(tmp_path / "run")
    with pytest.raises(ob.errors.InvalidOption, match="keeps 1 epochs in full"):
        fit(tmp_path / "run", keep=2)


def stopped(events, block):
    """Leave an erasure behind a block, as a process does that is killed there."""
    for event in events:
        if event.task == "replay" and event.block == block and event.residual_memory is not None:
            break
    events.close()


def test_a_fast_erasure_that_was_stopped_goes_on(tmp_path):
    run = fit(tmp_path / "run")
    person = in_last_epoch(run, late=False)
    whole = fit(tmp_path / "whole").forget(subjects=[person], method=ob.DeepObliviate(blocks=2))
    first = run.preview(subjects=[person], method=FAST).start
    stopped(run.forget.events(subjects=[person], method=ob.DeepObliviate(blocks=2)), first)
    again = ob.load(tmp_path / "run", made(), data())
    erasure = again.forget(subjects=[person], method=ob.DeepObliviate(blocks=2))
    assert (erasure.digest, erasure.segments) == (whole.digest, whole.segments)
    assert again.settle().digest == without(tmp_path / "never", person)


@pytest.mark.parametrize("block", [7, 8, 11, LENGTH - 2])
def test_an_exact_replay_that_was_stopped_in_a_gap_goes_on(tmp_path, block):
    run = fit(tmp_path / "run")
    stopped(run.forget.events(subjects=["u3"], method="exact"), block)
    again = ob.load(tmp_path / "run", made(), data())
    erasure = again.forget(subjects=["u3"], method="exact")
    assert erasure.digest == without(tmp_path / "never", "u3")
    assert again.verify().passed
    assert again.ledger.faults() == []


def test_nobody_who_was_erased_is_read_again(tmp_path):
    guarded = Guarded(data())
    run = ob.fit(
        made(), guarded, tmp_path / "run", blocks=BLOCKS, subjects=SUBJECTS, keep=1, exclude=[0]
    )
    guarded.forbidden |= {0}
    for person, method in (("u3", FAST), ("u4", "exact"), ("u5", FAST)):
        run.forget(subjects=[person], method=method)
        guarded.forbidden |= {at for at, who in enumerate(SUBJECTS) if who == person}
    run.settle()
    assert run.verify(data=True).passed


def test_what_is_not_kept_cannot_be_measured(tmp_path):
    run = fit(tmp_path / "run")
    before = run.digest
    with pytest.raises(ob.errors.InvalidOption, match="nothing can be measured"):
        run.forget(subjects=["u3"], method=ob.Exact(functional=True))
    assert run.digest == before
    assert run.ledger.erasures.all() == []
    whole = fit(tmp_path / "whole", keep=EPOCHS)
    assert whole.forget(subjects=["u3"], method=ob.Exact(functional=True)).functional_memory
