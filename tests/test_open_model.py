"""A model is opened without the data, and only where it is the one that was trained."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import obliviate as ob
from obliviate.errors import (
    ForeignRecipe,
    InvalidRecipe,
    KeyMissing,
    Mismatch,
    RunDamaged,
    RunMissing,
    RunOutdated,
)
from tests.exports import BLOCKS, LINEAR, Tied, card_in, same, with_model


@pytest.fixture
def run(tmp_path, recipe_of, data):
    """A run that is trained."""
    with ob.fit(recipe_of(), data, tmp_path / "run", blocks=BLOCKS) as run:
        yield run


def test_an_outdated_ledger_gives_no_model(run):
    run.close()
    older = (run.folder / "ledger.sqlite").read_bytes()
    run.forget(records=[1], method="exact")
    run.close()
    for name in ("ledger.sqlite-wal", "ledger.sqlite-shm"):
        (run.folder / name).unlink(missing_ok=True)
    (run.folder / "ledger.sqlite").write_bytes(older)
    with pytest.raises(RunOutdated):
        ob.open_model(run.folder, model=LINEAR)


def test_what_is_not_what_was_exported_is_named(tmp_path, run):
    place = tmp_path / "export"
    run.export(place)
    weights = place / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(Mismatch):
        ob.open_model(place, model=LINEAR)
    weights.write_bytes(whole[:-1])
    with pytest.raises(RunDamaged):
        ob.open_model(place, model=LINEAR)
    weights.unlink()
    with pytest.raises(RunDamaged):
        ob.open_model(place, model=LINEAR)


def test_a_model_that_cannot_be_opened_says_why(tmp_path, run):
    run.export(tmp_path / "export")
    for path in (tmp_path / "export", run.folder):
        for other in (partial(nn.Linear, 5, 3), partial(nn.Linear, 4, 3, bias=False), Tied):
            with pytest.raises(ForeignRecipe, match="another module"):
                ob.open_model(path, model=other)
        with pytest.raises(InvalidRecipe):
            ob.open_model(path, model=nn.Linear(4, 3).weight)
    with pytest.raises(RunMissing):
        ob.open_model(tmp_path / "nowhere", model=LINEAR)


def test_a_sealed_run_is_opened_with_its_key(tmp_path, recipe_of, data):
    seal = ob.KeyFile.create(tmp_path / "key")
    run = ob.fit(recipe_of(), data, tmp_path / "run", blocks=BLOCKS, seal=seal)
    model = run.model
    (tmp_path / "key").rename(tmp_path / "moved")
    with pytest.raises(KeyMissing):
        ob.open_model(run.folder, model=LINEAR)
    moved = ob.KeyFile(tmp_path / "moved")
    assert same(ob.open_model(run.folder, model=LINEAR, seal=moved), model)


class Adapted(nn.Module):
    """A frozen base and what is trained on it."""

    def __init__(self, scale=1.0) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(4, 8).requires_grad_(requires_grad=False), nn.Linear(8, 3)
        with torch.no_grad():
            self.base.weight *= scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.base(x).relu())


def test_a_frozen_base_is_exported_too_and_has_to_be_the_same(tmp_path, recipe_of, data):
    run = with_model(Adapted, tmp_path, recipe_of, data)
    run.export(tmp_path / "export")
    card = card_in(tmp_path / "export")
    assert card["digest"] == run.digest != card["state_digest"]
    for path in (tmp_path / "export", run.folder):
        assert same(ob.open_model(path, model=Adapted), run.model)
    other = partial(Adapted, 2.0)
    assert same(ob.open_model(tmp_path / "export", model=other), run.model)  # it brings its own
    with pytest.raises(ForeignRecipe, match="frozen base"):
        ob.open_model(run.folder, model=other)
