"""Training: the same bits every time, and no trace of it in the process."""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.utils.deterministic
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from obliviate.errors import InvalidRecipe, NotDeterministic, NotFinite, TrainingFailed
from obliviate.events import Event
from obliviate.run.make import new_layout, new_trainer
from obliviate.states.update import captured, digest
from obliviate.training.determinism import Environment, environment_facts
from obliviate.training.first_step import probe
from obliviate.training.protocol import Trained
from obliviate.training.trainer import SECONDS_BETWEEN_EVENTS, Trainer

BLOCKS = 4
NOBODY = np.array([], dtype=np.int64)


def trainer_of(recipe, data) -> Trainer:
    return new_trainer(recipe, data, len(data), BLOCKS)


def trained(trainer, blocks=range(1, BLOCKS + 1), erased=NOBODY, start=None):
    """The blocks that were trained on, from the start or from a checkpoint."""
    items = trainer.train(start or trainer.initial(), blocks, erased)
    return [item for item in items if isinstance(item, Trained)]


def digests(*args, **kwargs):
    return [digest(each.checkpoint.model) for each in trained(*args, **kwargs)]


def dropping():
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))


class Drawing(Dataset):
    """Augments with all three global generators."""

    def __init__(self, data) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index):
        inputs, target = self.data[index]
        noise = torch.rand(4) + random.random() + float(np.random.rand())
        return inputs + noise, target


class Broken(Exception):
    """Raised by the user's own code."""


# The process is left as it was


def process():
    """Everything global that training sets for itself."""
    return (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.get_rng_state().tolist(),
        random.getstate(),
        repr(np.random.get_state()),
        torch.is_grad_enabled(),
    )


@pytest.fixture(params=["plain", "strict"])
def before(request):
    """A process with settings of its own."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    if request.param == "strict":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
    yield process()
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


def test_a_whole_life_leaves_the_process_as_it_was(before, tmp_path, recipe_of, data):
    recipe = recipe_of(model=dropping)
    run = ob.fit(recipe, Drawing(data), tmp_path / "run", blocks=BLOCKS)
    assert process() == before
    run.forget(records=[0], method="exact")
    assert process() == before
    run.verify()
    _ = run.model
    ob.load(run.folder, recipe, Drawing(data))
    assert process() == before


def test_between_two_events_the_process_is_as_it_was(before, recipe_of, data):
    for _ in trainer_of(recipe_of(model=dropping), Drawing(data)).train(
        trainer_of(recipe_of(model=dropping), data).initial(), [1, 2], NOBODY
    ):
        assert process() == before


@pytest.mark.parametrize("who", ["model", "dataset", "loss", "schedule", "factory"])
def test_an_error_leaves_the_process_as_it_was(before, who, recipe_of, data):
    calls = []

    def broken(*_):
        calls.append(who)
        torch.set_num_threads(2)
        random.random()
        if len(calls) > 2:
            raise Broken(who)
        return 1.0

    class BrokenLinear(nn.Linear):
        def forward(self, x):
            broken()
            return super().forward(x)

    class BrokenData(Drawing):
        def __getitem__(self, index):
            broken()
            return super().__getitem__(index)

    def broken_loss(outputs, targets):
        broken()
        return cross_entropy(outputs, targets)

    def broken_factory():
        broken()
        return nn.Linear(4, 3)

    changes = {
        "model": {"model": partial(BrokenLinear, 4, 3)},
        "dataset": {},
        "loss": {"loss": broken_loss},
        "schedule": {"schedule": broken},
        "factory": {"model": broken_factory},
    }
    dataset = BrokenData(data) if who == "dataset" else data

    def train_three_times():
        for _ in range(3):
            trained(trainer_of(recipe_of(**changes[who]), dataset))

    with pytest.raises(TrainingFailed, match=f"raised Broken: {who}"):
        train_three_times()
    assert process() == before


def test_an_abandoned_training_leaves_the_process_as_it_was(before, tmp_path, recipe_of, data):
    fitting = ob.fit.events(recipe_of(model=dropping), data, tmp_path / "run", blocks=BLOCKS)
    next(fitting)
    fitting.close()
    assert process() == before
    run = ob.fit(recipe_of(model=dropping), data, tmp_path / "run", blocks=BLOCKS)
    assert run.guarantee == "exact"


def test_training_runs_under_settings_of_its_own(recipe_of, data):
    seen = []

    def step(model, batch):
        seen.append(process()[:4])
        return cross_entropy(model(batch[0]), batch[1])

    recipe = recipe_of(step=step)
    layout = new_layout(recipe, 40, BLOCKS)
    trained(Trainer(recipe, data, layout, environment_facts() | {"threads": "2"}), [1])
    assert set(seen) == {(2, True, False, False)}


def test_an_environment_can_be_entered_again_and_again():
    before = process()
    outer, inner = Environment("cpu", threads=2), Environment("cpu", threads=1)
    with outer.entered():
        torch.rand(3)
        with inner.entered():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled()
    assert process() == before


def test_the_environment_in_words():
    facts = environment_facts()
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == "1"
    assert all(isinstance(value, str) for value in facts.values())


# The same bits


@pytest.mark.parametrize("optimizer_state", ["fresh", "carried"])
def test_nothing_outside_bears_on_the_result(recipe_of, data, optimizer_state):
    recipe = recipe_of(
        model=dropping,
        optimizer=partial(torch.optim.Adam, lr=0.01),
        optimizer_state=optimizer_state,
    )
    first = digests(trainer_of(recipe, Drawing(data)))
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    assert digests(trainer_of(recipe, Drawing(data))) == first


def test_a_block_does_not_care_how_training_got_there(recipe_of, data):
    recipe = recipe_of(
        model=dropping,
        optimizer=partial(torch.optim.Adam, lr=0.01),
        optimizer_state="carried",
        schedule=lambda step, total: 1 - step / total,
    )
    whole = trained(trainer_of(recipe, Drawing(data)))
    trainer = trainer_of(recipe, Drawing(data))
    trained(trainer, [4, 1, 3])  # whatever it was used for before
    for block in range(2, BLOCKS + 1):
        start = whole[block - 2].checkpoint
        (alone,) = trained(trainer, [block], start=start)
        assert digest(alone.checkpoint.model) == digest(whole[block - 1].checkpoint.model)
        assert alone.loss == whole[block - 1].loss


def test_another_seed_trains_another_model(recipe_of, data):
    assert digests(trainer_of(recipe_of(seed=1), data)) != digests(
        trainer_of(recipe_of(seed=2), data)
    )


def test_checkpoints_are_copies(recipe_of, data):
    trainer = trainer_of(recipe_of(), data)
    blocks = trained(trainer)
    kept = [digest(each.checkpoint.model) for each in blocks]
    assert len(set(kept)) == BLOCKS
    trained(trainer, [1, 2])
    assert [digest(each.checkpoint.model) for each in blocks] == kept


def test_blocks_before_the_first_erased_record_are_the_same(recipe_of, data):
    trainer = trainer_of(recipe_of(), data)
    erased = np.sort(trainer.layout.members(3)[:2])
    whole, without = digests(trainer), digests(trainer, erased=erased)
    assert whole[:2] == without[:2]
    assert whole[2] != without[2]
    assert whole[3] != without[3]


def test_erased_records_are_never_asked_for(recipe_of, data):
    asked = []

    class Asked(Drawing):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    erased = np.array([0, 7, 39])
    trainer = trainer_of(recipe_of(), Asked(data))
    probe(trainer, erased)
    trained(trainer, erased=erased)
    assert sorted(set(asked)) == sorted(set(range(40)) - {0, 7, 39})


def test_a_block_of_which_all_are_erased_changes_nothing(recipe_of, data):
    trainer = trainer_of(recipe_of(), data)
    erased = np.sort(trainer.layout.members(2))
    first, second, third, _ = trained(trainer, erased=erased)
    assert digest(first.checkpoint.model) == digest(second.checkpoint.model)
    assert second.loss is None
    assert digest(third.checkpoint.model) != digest(second.checkpoint.model)


def test_a_fresh_optimizer_is_fresh_in_every_block(recipe_of, data):
    """The state after a block is a function of the state before it and of the block alone."""
    momentum = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    fresh, carried = (
        trained(trainer_of(recipe_of(optimizer=momentum, optimizer_state=each), data))
        for each in ("fresh", "carried")
    )
    assert digest(fresh[0].checkpoint.model) == digest(carried[0].checkpoint.model)
    assert digest(fresh[1].checkpoint.model) != digest(carried[1].checkpoint.model)
    assert all(each.checkpoint.optimizer is None for each in fresh)
    assert all(each.checkpoint.optimizer for each in carried)


# Randomness of later steps


def test_dropout_of_later_steps_does_not_shift_when_a_record_is_erased(recipe_of, data):
    """Nor does augmentation of other records: a replay stays coupled to the original."""
    seen = {}

    def step(model, batch):
        drawn = (torch.rand(3).tolist(), random.random(), np.random.rand())
        seen.setdefault(name, []).append((batch[0].clone(), drawn))
        return cross_entropy(model(batch[0]), batch[1])

    trainer = trainer_of(recipe_of(step=step, repeats=2, model=dropping), Drawing(data))
    steps = dict(trainer.layout.batches(1, NOBODY))
    gone = steps[0]  # the whole first batch, so that a step is skipped
    name = "whole"
    trained(trainer, [1, 2])
    name = "without"
    trained(trainer, [1, 2], erased=np.sort(gone))
    per_step = [
        len(batch) - int(np.isin(batch, gone).sum())
        for block in (1, 2)
        for _, batch in trainer.layout.batches(block, NOBODY)
    ]
    left = [each for each, size in zip(seen["whole"], per_step, strict=True) if size]
    assert len(left) == len(seen["without"]) < len(seen["whole"])
    for (batch, drawn), (batch_without, drawn_without) in zip(left, seen["without"], strict=True):
        assert drawn_without == drawn
        rows = {tuple(row) for row in batch.tolist()}
        assert {tuple(row) for row in batch_without.tolist()} <= rows


def test_every_step_and_every_epoch_draws_anew(recipe_of, data):
    drawn = []

    def step(model, batch):
        drawn.append(torch.rand(1).item())
        return cross_entropy(model(batch[0]), batch[1])

    trained(trainer_of(recipe_of(step=step, repeats=2), data))
    assert len(set(drawn)) == len(drawn) == 4 * 2 * 3


def test_augmentation_differs_from_epoch_to_epoch(recipe_of, data):
    seen = []

    def step(model, batch):
        seen.extend(tuple(row) for row in batch[0].tolist())
        return cross_entropy(model(batch[0]), batch[1])

    trained(trainer_of(recipe_of(step=step, repeats=3), Drawing(data)), [1])
    assert len(set(seen)) == 30


def test_every_record_of_a_batch_is_augmented_for_itself(recipe_of, data):
    seen = []

    def step(model, batch):
        seen.extend(tuple(row) for row in batch[0].tolist())
        return cross_entropy(model(batch[0]), batch[1])

    alike = TensorDataset(torch.zeros(40, 4), data.tensors[1])
    trained(trainer_of(recipe_of(step=step), Drawing(alike)))
    assert len(set(seen)) == 40


def test_a_model_made_for_inference_is_trained_in_training_mode(recipe_of, data):
    recipe, ready = recipe_of(model=dropping), recipe_of(model=lambda: dropping().eval())
    assert digests(trainer_of(ready, data)) == digests(trainer_of(recipe, data))


# Schedules


@pytest.mark.parametrize("erased", [(), (0, 1, 2, 3)])
def test_a_schedule_sees_the_steps_of_the_whole_chain(recipe_of, data, erased):
    calls = []

    def schedule(step, total):
        calls.append((step, total))
        return 1.0

    trainer = trainer_of(recipe_of(schedule=schedule, repeats=2), data)
    total = trainer.layout.total_steps(1)
    trained(trainer, erased=np.array(erased, dtype=np.int64))
    assert {each for _, each in calls} == {total}
    assert [step for step, _ in calls] == sorted({step for step, _ in calls})
    if not erased:
        assert [step for step, _ in calls] == list(range(total))
    calls.clear()
    trained(trainer, [3])
    assert [step for step, _ in calls] == list(
        range(trainer.layout.first_step(3), trainer.layout.first_step(4))
    )


def test_a_schedule_scales_every_group_and_does_not_compound(recipe_of, data):
    """A factor of 1/2 throughout is training at half the rate."""
    halved = recipe_of(schedule=lambda *_: 0.5)
    plain = recipe_of(optimizer=partial(torch.optim.SGD, lr=0.05))
    assert digests(trainer_of(halved, data)) == digests(trainer_of(plain, data))


def test_a_rate_of_zero_trains_nothing(recipe_of, data):
    trainer = trainer_of(recipe_of(schedule=lambda *_: 0.0), data)
    assert set(digests(trainer)) == {digest(trainer.initial().model)}


# What is yielded


def test_a_long_block_tells_how_far_it_has_come(recipe_of, data):
    def step(model, batch):
        time.sleep(SECONDS_BETWEEN_EVENTS * 0.7)
        return cross_entropy(model(batch[0]), batch[1])

    trainer = trainer_of(recipe_of(step=step, batch_size=2), data)
    items = list(trainer.train(trainer.initial(), [2], NOBODY))
    assert isinstance(items[-1], Trained)
    events = [item for item in items if isinstance(item, Event)]
    assert len(events) >= 2
    done = [event.done for event in events]
    assert done == sorted(set(done))
    assert 0 < done[0] <= done[-1] < 1
    assert items[-1].seconds >= 5 * SECONDS_BETWEEN_EVENTS * 0.7


def test_the_loss_of_a_block_is_the_mean_over_its_steps(recipe_of, data):
    losses = []

    def step(model, batch):
        loss = cross_entropy(model(batch[0]), batch[1])
        losses.append(float(loss.detach()))
        return loss

    (block,) = trained(trainer_of(recipe_of(step=step), data), [1])
    assert block.loss == pytest.approx(np.mean(losses))


# What cannot be trained


def faulty_step(value):
    def step(model, batch):
        return value(cross_entropy(model(batch[0]), batch[1]))

    return step


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_training(recipe_of, data, value):
    trainer = trainer_of(recipe_of(step=faulty_step(lambda loss: loss * value)), data)
    with pytest.raises(NotFinite, match="block 1: the loss is"):
        trained(trainer)


CALLS = itertools.count(1)


def unseeded():
    return torch.tensor(float(next(CALLS)))  # a clock may say the same twice


def test_a_step_that_cannot_be_repeated_is_noticed(recipe_of, data):
    trainer = trainer_of(recipe_of(step=faulty_step(lambda loss: loss * unseeded())), data)
    with pytest.raises(NotDeterministic, match="a loss differs"):
        probe(trainer, NOBODY)


def test_a_dataset_that_cannot_be_repeated_is_noticed(recipe_of, data):
    generator = np.random.default_rng()

    class Fresh(Drawing):
        def __getitem__(self, index):
            inputs, target = self.data[index]
            return inputs + generator.normal(), target

    with pytest.raises(NotDeterministic, match="a batch differs"):
        probe(trainer_of(recipe_of(), Fresh(data)), NOBODY)


class WithExtra(nn.Linear):
    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass


def frozen():
    return nn.Linear(4, 3).requires_grad_(False)


def sparse():
    model = nn.Linear(4, 3)
    model.register_buffer("mask", torch.eye(3).to_sparse())
    return model


class Waves(nn.Linear):
    """A layer with a phase in double precision."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.phase = nn.Parameter(torch.zeros(3, dtype=torch.complex128))

    def forward(self, x):
        return super().forward(x) + self.phase.real.float()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"model": partial(WithExtra, 4, 3)}, "is not a tensor"),
        ({"model": sparse}, "only dense tensors"),
        ({"model": frozen, "optimizer": partial(torch.optim.SGD, lr=1.0)}, "requires a gradient"),
        ({"loss": partial(cross_entropy, reduction="none")}, "shape"),
        ({"step": faulty_step(lambda loss: loss.expand(2).clone())}, "shape"),
    ],
    ids=["extra state", "sparse", "frozen", "loss per record", "two losses"],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    tmp_path, recipe_of, data, changes, fault
):
    with pytest.raises((InvalidRecipe, TrainingFailed), match=fault):
        ob.fit(recipe_of(**changes), data, tmp_path / "run", blocks=BLOCKS)
    assert not (tmp_path / "run").exists()


def test_a_model_in_double_complex_precision_is_trained_or_refused(tmp_path, recipe_of, data):
    try:
        run = ob.fit(recipe_of(model=Waves), data, tmp_path / "run", blocks=BLOCKS)
    except InvalidRecipe:
        assert not (tmp_path / "run").exists()
    else:
        assert digest(captured(run.model.state_dict())) == run.digest


def test_a_factory_that_gives_no_module_is_refused(recipe_of, data):
    with pytest.raises(InvalidRecipe, match="model\\(\\) gave dict"):
        trainer_of(recipe_of(model=dict), data)


def test_batches_that_are_no_pairs_need_a_step(recipe_of, data):
    inputs, targets = data.tensors
    triples = TensorDataset(inputs, targets, targets)
    with pytest.raises(InvalidRecipe, match="not \\(inputs, targets\\)"):
        probe(trainer_of(recipe_of(), triples), NOBODY)
    recipe = recipe_of(step=lambda model, batch: cross_entropy(model(batch[0]), batch[2]))
    probe(trainer_of(recipe, triples), NOBODY)


def test_a_probe_leaves_no_trace(recipe_of, data):
    probed, fresh = (trainer_of(recipe_of(model=dropping), data) for _ in range(2))
    probe(probed, NOBODY)
    assert digests(probed) == digests(fresh)


def test_one_record_is_too_few_for_batch_norm(recipe_of, data):
    recipe = recipe_of(model=lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)))
    trainer = trainer_of(replace(recipe, batch_size=1), data)
    with pytest.raises(InvalidRecipe, match="no batch is large enough"):
        probe(trainer, NOBODY)
