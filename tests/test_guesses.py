"""Guesses: what is left of a settled run tells no guess at an erased record from another.

Before that it does, which shows that the attack is worth something: the hash of the update that the
record was trained in, the digest of the model before, each of them finds it among all others. The
test that it does not any more is whether the right guess stands alone at the top. If nothing tells
the guesses apart, that happens by chance in one of as many tests as there are guesses, at most.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from tests.guesses import Attacker, Left, scores
from tests.models import SGD, images, recipe, records_in

BLOCKS, BLOCK = 6, 5
CASES = [
    ("exact", False),
    ("deepobliviate", False),
    ("deepobliviate", True),
    ("calibrated", False),
]


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


@pytest.fixture
def place(tmp_path):
    """The folder of a run and its data."""
    return tmp_path / "run", images()


def attacked(place, method, *, is_sealed, guesses):
    """How guesses score on a run: before anything was erased, and after it is settled.

    Returns:
        Both scores, and the place of the right guess among all others.
    """
    folder, data = place
    seal = ob.KeyFile.create(folder.parent / "key") if is_sealed else None
    made = recipe(linear, SGD, batch_size=12, repeats=1)
    # whose content is sampled, and hashed, has most to lose
    run = ob.fit(made, data, folder, blocks=BLOCKS, seal=seal)
    sampled = sorted(run.facts.samples)
    blocks = run.trainer.layout.places(np.array(sampled)).earliest
    record = next((r for r, block in zip(sampled, blocks, strict=True) if block == BLOCK), None)
    record = records_in(run, BLOCK)[0] if record is None else record
    held = Left.by(folder)
    run.ledger.flush()
    shutil.copytree(folder, folder.parent / "before")
    truth = data.tensors[0][record].clone()
    run.forget(records=[record], method=method)
    run.settle()
    assert {each.state for each in run.ledger.erasures.all()} == {"settled"}
    run.ledger.close()
    others = torch.randn(guesses - 1, *truth.shape, generator=torch.Generator().manual_seed(9))
    at = int(torch.randint(guesses, (1,), generator=torch.Generator().manual_seed(5)))
    every = torch.cat([others[:at], truth[None], others[at:]])
    retained = TensorDataset(data.tensors[0].clone(), data.tensors[1])
    after = Attacker(folder, made, retained, record, BLOCK)
    before = Attacker(folder.parent / "before", made, retained, record, BLOCK)
    few = every[max(0, at - 5) : at + 5]
    return scores(before, held, few), scores(after, Left.by(folder), every), at


def is_told(found, at) -> bool:
    """Whether the right guess stands out from all others."""
    return bool((found[at] > np.delete(found, at)).all())


@pytest.mark.parametrize(("method", "is_sealed"), CASES)
def test_the_right_guess_is_not_told_from_others(place, method, is_sealed):
    before, after, at = attacked(place, method, is_sealed=is_sealed, guesses=100)
    assert np.argmax(before) == min(at, 5)
    assert before.max() >= 1000 > np.sort(before)[-2]
    assert after.max() < 1000
    assert not is_told(after, at)
    # as many clues as one guess in twenty finds by chance: sizes of objects are often equal
    assert np.mean(after >= after[at]) >= 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("method", "is_sealed"), CASES)
def test_nor_from_ten_thousand(place, method, is_sealed):
    _, after, at = attacked(place, method, is_sealed=is_sealed, guesses=10_000)
    assert after.max() < 1000
    assert not is_told(after, at)
    # the ranks of the right one lie in the middle 99.9 % of what chance gives
    share = np.mean(after < after[at]) + np.mean(after == after[at]) / 2
    assert 0.0005 < share < 0.9995
