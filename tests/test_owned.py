"""What erased records alone have trained goes with them, whatever wears it off later."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from obliviate.methods.idling import Idling
from obliviate.run.make import new_layout

USERS, ITEMS, WIDTH, BLOCKS = 80, 12, 4, 20
PAPER = ob.DeepObliviate(blocks=4)
OURS = ob.Calibrated(blocks=4)


class Factors(nn.Module):
    """A row for each user, beside rows of items that everybody trains."""

    def __init__(self, *, sparse=False, zero=False):
        super().__init__()
        self.user = nn.Embedding(USERS, WIDTH, sparse=sparse)
        self.item = nn.Embedding(ITEMS, WIDTH, sparse=sparse)
        if zero:
            nn.init.zeros_(self.user.weight)

    def forward(self, user, item):
        return (self.user(user)[:, None] * self.item(item)).sum(-1)


def liking(model, batch):
    user, item = batch
    return -nn.functional.logsigmoid(model(user, item)).mean()


def score(model, batch):
    return model(*batch).mean(1)


def people():
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.arange(USERS), torch.randint(ITEMS, (USERS, 5), generator=generator))


def halved(step, total):
    return 1.0 if step < total / 2 else 0.5


def members(*blocks):
    recipe = ob.Recipe(model=Factors, step=liking, optimizer=torch.optim.SGD, batch_size=2, seed=1)
    layout = new_layout(recipe, USERS, BLOCKS)
    return [int(layout.members(block)[0]) for block in blocks]


ERASED = members(4)[0]


def left(folder, method, records=(ERASED,), **options):
    """Of what the erased did to the rows, the share that is left; and the erasure."""
    made = {"step": liking, "score": score, "batch_size": 2, "repeats": 4, "seed": 1} | options
    recipe = ob.Recipe(**({"model": Factors} | made))
    never = ob.fit(recipe, people(), folder / "never", blocks=BLOCKS, exclude=records)
    run = ob.fit(recipe, people(), folder / "run", blocks=BLOCKS)
    rows = torch.tensor(records)
    before = (run.model.user.weight - never.model.user.weight).detach()[rows].flatten()
    erasure = run.forget(records=records, method=method)
    after = (erasure.model.user.weight - never.model.user.weight).detach()[rows].flatten()
    assert float(before.norm()) > 0
    assert erasure.guarantee == "approximate"
    return float(after.norm() / before.norm()), erasure


SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
OPTIMIZERS = {
    "sgd": partial(SGD, lr=1.0),
    "decay": partial(SGD, lr=1.0, weight_decay=0.005),
    "momentum": partial(SGD, lr=0.3, momentum=0.9),
    "momentum-decay": partial(SGD, lr=0.3, momentum=0.9, weight_decay=0.005),
    "adam": partial(ADAM, lr=0.02),
    "adam-decay": partial(ADAM, lr=0.001, weight_decay=0.01),
    "adamw": partial(ADAMW, lr=0.02, weight_decay=0.1),
    # at a larger rate decay alone would take a row to 0, around which its sign is rounding
    "rmsprop": partial(torch.optim.RMSprop, lr=0.0002, weight_decay=0.001),
}


OFTEN = {("decay", "fresh"), ("momentum-decay", "carried"), ("adam-decay", "fresh")}
PAIRS = [
    pytest.param(*pair, marks=() if pair in OFTEN else pytest.mark.slow)
    for pair in itertools.product(OPTIMIZERS, ["fresh", "carried"])
]


@pytest.mark.parametrize(("name", "kept"), PAIRS)
def test_the_row_of_an_erased_user_is_what_an_exact_replay_makes_of_it(tmp_path, name, kept):
    residue, erasure = left(
        tmp_path, OURS, optimizer=OPTIMIZERS[name], optimizer_state=kept, schedule=halved
    )
    assert residue <= 0.01
    assert f"{WIDTH} entries that erased records alone had trained: " in erasure.stop_reason


@pytest.mark.parametrize("name", ["decay", "adamw"])
def test_the_papers_stitch_turns_no_sign(tmp_path, name):
    residue, _ = left(tmp_path, PAPER, optimizer=OPTIMIZERS[name])
    assert residue <= 0.01


@pytest.mark.parametrize(
    "optimizer", [partial(SGD, lr=1.0), partial(torch.optim.SparseAdam, lr=0.02)], ids=str
)
def test_rows_with_sparse_gradients(tmp_path, optimizer):
    made = {"model": partial(Factors, sparse=True), "optimizer": optimizer}
    assert left(tmp_path, OURS, **made)[0] <= 0.01


@pytest.mark.parametrize("method", [PAPER, OURS], ids=["paper", "ours"])
def test_rows_that_began_at_zero(tmp_path, method):
    """Decay leaves zero as it is, but not what the erased made of it."""
    made = {"model": partial(Factors, zero=True), "optimizer": OPTIMIZERS["decay"]}
    assert left(tmp_path, method, **made)[0] <= 0.01


def test_rows_of_several_users_over_a_jump(tmp_path):
    residue, erasure = left(tmp_path, PAPER, members(2, 12), optimizer=OPTIMIZERS["decay"])
    assert len(erasure.segments) == 2
    assert residue <= 0.01


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_moments_of_a_row_do_not_come_back_behind_a_stitch(tmp_path, name):
    """The replay goes on with what the optimizer had gathered, but for the rows of the erased."""
    options = {"optimizer": OPTIMIZERS[name], "optimizer_state": "carried", "schedule": halved}
    residue, erasure = left(tmp_path, PAPER, members(2, 12), **options)
    assert len(erasure.segments) == 2
    assert residue <= 1e-5


def test_an_optimizer_that_asks_for_more_is_no_obstacle(tmp_path):
    class Asking(SGD):
        """Steps only beside parameters of two dimensions."""

        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.mT  # noqa: B018
                    assert parameter.ndim == 2
            return super().step(closure)

    _, erasure = left(tmp_path, OURS, optimizer=partial(Asking, lr=1.0, weight_decay=0.005))
    assert erasure.guarantee == "approximate"


def test_a_killed_erasure_ends_as_it_would_have(tmp_path):
    made = {"optimizer": OPTIMIZERS["momentum-decay"], "optimizer_state": "carried"}
    recipe = ob.Recipe(
        model=Factors, step=liking, score=score, batch_size=2, repeats=4, seed=1, **made
    )
    whole = ob.fit(recipe, people(), tmp_path / "whole", blocks=BLOCKS)
    digest = whole.forget(records=[ERASED], method=PAPER).digest
    run = ob.fit(recipe, people(), tmp_path / "run", blocks=BLOCKS)
    events = run.forget.events(records=[ERASED], method=PAPER)
    for event in events:
        if event.residual_memory is not None and event.done >= 2:
            break
    events.close()
    run.ledger.close()
    run = ob.load(tmp_path / "run", recipe, people())
    assert run.forget(records=[ERASED], method=PAPER).digest == digest


class Counted(SGD):
    """Counts its steps."""

    steps = 0

    def step(self, closure=None):
        Counted.steps += 1
        return super().step(closure)


def idling(folder, optimizer, kept, **options):
    """A trainer of a run, three entries of two tensors, and a schedule of its blocks."""
    made = {"model": Factors, "step": liking, "batch_size": 2, "repeats": 4, "seed": 1} | options
    recipe = ob.Recipe(**made, optimizer=optimizer, optimizer_state=kept)
    run = ob.fit(recipe, people(), folder, blocks=BLOCKS)
    places = {"user.weight": torch.tensor([1, 40]), "item.weight": torch.tensor([3])}
    return run, places


def values_of(run, block, places):
    state = run.chain().state(block)
    return {name: state[name].reshape(-1)[at] for name, at in places.items()}


@pytest.mark.parametrize("kept", ["fresh", "carried"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_idle_side_by_side_as_each_does_by_itself(tmp_path, name, kept):
    """Two states whose optimizers have made different numbers of steps, and are in motion."""
    run, places = idling(tmp_path / "run", OPTIMIZERS[name], kept, schedule=halved)
    chain, nobody, blocks = run.chain(), np.array([], dtype=np.int64), range(11, BLOCKS + 1)
    values = [values_of(run, block, places) for block in (4, 9)]
    packed = [chain.optimizer(block) for block in (4, 9)]
    both = Idling(run.trainer, packed).after(places, values, blocks, nobody)
    for number in range(2):
        (alone,) = Idling(run.trainer, [packed[number]]).after(
            places, [values[number]], blocks, nobody
        )
        assert all(torch.equal(both[number][each], alone[each]) for each in places)
        if name == "momentum" and kept == "carried":
            assert any(not torch.equal(alone[each], values[number][each]) for each in places)


@pytest.mark.parametrize("kept", ["fresh", "carried"])
def test_what_does_not_move_any_more_takes_no_steps(tmp_path, kept):
    """Else forgetting from a long chain would take so many steps of the optimizer as training."""
    momentum = partial(Counted, lr=0.3, momentum=0.1)
    run, places = idling(tmp_path / "run", momentum, kept, repeats=20)
    nobody, start = np.array([], dtype=np.int64), values_of(run, 4, places)
    Counted.steps = 0
    (left,) = Idling(run.trainer, [run.chain().optimizer(4)]).after(
        places, [start], range(5, BLOCKS + 1), nobody
    )
    steps = run.trainer.layout.steps(5) * (BLOCKS - 4)
    assert Counted.steps < steps / 4
    assert any(not torch.equal(left[each], start[each]) for each in places) == (kept == "carried")


@pytest.mark.parametrize("name", ["decay", "adamw"])
def test_what_decays_is_followed_to_the_end(tmp_path, name):
    """Also where the rate is nothing in some block on the way: then it goes on."""
    pausing = lambda step, total: 0.0 if total / 4 < step < total / 2 else 1.0  # noqa: E731
    run, places = idling(tmp_path / "run", OPTIMIZERS[name], "fresh", schedule=pausing)
    nobody, start = np.array([], dtype=np.int64), values_of(run, 4, places)
    idle = Idling(run.trainer, [None])
    (half,) = idle.after(places, [start], range(1, BLOCKS // 2 + 1), nobody)
    (whole,) = idle.after(places, [start], range(1, BLOCKS + 1), nobody)
    assert all((whole[each].abs() < half[each].abs()).all() for each in places)


@pytest.mark.parametrize("kept", ["fresh", "carried"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_few_entries_after_the_others_idle_as_all_do_together(tmp_path, name, kept):
    run, places = idling(tmp_path / "run", OPTIMIZERS[name], kept, schedule=halved)
    nobody, start = np.array([], dtype=np.int64), values_of(run, 4, places)
    idle = Idling(run.trainer, [run.chain().optimizer(4)])
    (whole,) = idle.after(places, [start], range(5, BLOCKS + 1), nobody)
    for part in (slice(None, 1), slice(1, None)):
        some = {each: at[part] for each, at in places.items() if len(at[part])}
        few = {each: start[each][part] for each in some}
        (found,) = idle.after(some, [few], range(5, BLOCKS + 1), nobody)
        assert all(torch.equal(found[each], whole[each][part]) for each in some)


def test_entries_are_found_in_parts(tmp_path, monkeypatch):
    """A record's first block has trained all entries of a model: they are not looked at at once."""
    found = []
    for name, most in (("whole", 1 << 20), ("parts", 3)):
        monkeypatch.setattr("obliviate.methods.owned._PART", most)
        run, _ = idling(tmp_path / name, OPTIMIZERS["momentum"], "carried", score=score)
        erasure = run.forget(records=[ERASED], method=PAPER)
        found.append((run.digest, erasure.stop_reason))
    assert found[0] == found[1]
    assert "entries that erased records alone had trained" in found[0][1]
