"""What could not be trained, replayed or forgotten is refused before a run is made, by name."""

from __future__ import annotations

import warnings
from collections import UserDict
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from obliviate import errors
from obliviate.methods.slices import singles
from obliviate.run.make import new_trainer

SGD = partial(torch.optim.SGD, lr=0.1)


class Centers(nn.Module):
    """Cross-entropy by the distance to learnable centers."""

    def __init__(self):
        super().__init__()
        self.centers = nn.Parameter(torch.eye(3))

    def forward(self, codes, targets):
        return F.cross_entropy(-torch.cdist(codes, self.centers).square(), targets)


CENTERS = Centers()


class Demanding(torch.optim.SGD):
    """Asks for the loss again."""

    def step(self, closure):
        closure()
        return super().step()


class NoRate(torch.optim.Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(0.05 * parameter.grad)


class Counting(torch.optim.SGD):
    """Counts its steps where no state has them."""

    calls = 0

    def step(self, closure=None):
        self.calls += 1
        return super().step(closure)


class LateBuffer(nn.Linear):
    def forward(self, x):
        if not hasattr(self, "table"):
            self.register_buffer("table", torch.zeros(3))
        return super().forward(x) + self.table


class LateLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), None

    def forward(self, x):
        if self.head is None:
            self.head = nn.Linear(8, 3)
        return self.head(self.body(x))


class Expanded(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)
        self.register_buffer("mask", torch.ones(1, 4).expand(3, -1))


class HalfSaved(nn.Linear):
    def state_dict(self, *args, **kwargs):
        return {name: each.half() for name, each in super().state_dict(*args, **kwargs).items()}


class LeavingOut(nn.Linear):
    def state_dict(self, *args, **kwargs):
        return {"weight": super().state_dict(*args, **kwargs)["weight"]}


def meta():
    with torch.device("meta"):
        return nn.Linear(4, 3)


def even(model, batch):
    """Refuses what is odd, as some libraries for augmentation do."""
    assert len(batch[0]) % 2 == 0, "batch size should be even"
    return F.cross_entropy(model(batch[0]), batch[1])


def spread(model, batch):
    """Is undefined for one record."""
    outputs = model(batch[0])
    return F.cross_entropy(outputs, batch[1]) + outputs.std(dim=0).mean()


REFUSED = {
    "a loss with parameters": ({"loss": CENTERS}, "has parameters of its own"),
    "hidden in a function": (
        {"loss": lambda outputs, targets: 2 * CENTERS(outputs, targets)},
        "has parameters of its own",
    ),
    "hidden in a step": (
        {"step": lambda model, batch: CENTERS(model(batch[0]), batch[1])},
        "has parameters of its own",
    ),
    "an optimizer of another model": (
        {"optimizer": lambda _: SGD(nn.Linear(4, 3).parameters())},
        "none of the model's",
    ),
    "an optimizer of nothing": (
        {"optimizer": lambda ps: SGD([each.requires_grad_(False) for each in ps])},
        "no parameter that requires a gradient",
    ),
    "an empty list of optimizers": ({"optimizer": lambda _: []}, "optimizer gave no optimizer"),
    "a list with something else": ({"optimizer": lambda ps: [SGD(ps), 3]}, "optimizer gave int"),
    "two optimizers of the same": (
        {"optimizer": lambda ps: [SGD(each) for each in [list(ps)] * 2]},
        "2 parameters belong to several optimizers",
    ),
    "no optimizer": ({"optimizer": lambda _: None}, "optimizer gave NoneType"),
    "a closure": ({"optimizer": partial(Demanding, lr=0.1)}, "a closure"),
    "LBFGS": ({"optimizer": torch.optim.LBFGS}, "a closure"),
    "a schedule without a rate": (
        {"optimizer": NoRate, "schedule": lambda step, total: 1.0},
        "no learning rate",
    ),
    "uncarried counts": (
        {"optimizer": partial(Counting, lr=0.1), "optimizer_state": "carried"},
        "keeps state in its attribute 'calls'",
    ),
    "a schedule of nothing": ({"schedule": lambda step, total: None}, r"schedule\(.*gave None"),
    "a schedule of infinity": (
        {"schedule": lambda step, total: float("inf")},
        "must give a finite number",
    ),
    "a buffer made late": ({"model": partial(LateBuffer, 4, 3)}, "made 'table'"),
    "a layer made late": ({"model": LateLayer}, "made 'head.bias'"),
    "an expanded buffer": ({"model": Expanded}, "'mask' is expanded"),
    "a state dict of copies": ({"model": partial(HalfSaved, 4, 3)}, "gives a copy of"),
    "a state dict that leaves out": ({"model": partial(LeavingOut, 4, 3)}, "leaves out 'bias'"),
    "tensors without memory": ({"model": meta}, "without memory"),
    "an even batch": ({"step": even}, "with 3 of 4 records cannot be trained on"),
    "two records or more": ({"step": spread}, "with 1 of 4 records cannot be trained on"),
    "a loss without a graph": (
        {"loss": lambda outputs, targets: F.cross_entropy(outputs, targets).detach()},
        "does not depend on any parameter",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_could_not_be_forgotten_is_refused_and_nothing_is_written(
    tmp_path, recipe_of, data, what
):
    changes, fault = REFUSED[what]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="std\\(\\): degrees of freedom")
        with pytest.raises(errors.InvalidRecipe, match=fault):
            ob.fit(recipe_of(**changes), data, tmp_path / "run", blocks=4)
    assert not (tmp_path / "run").exists()


DECLARED = {
    "loss is a class": {"loss": nn.CrossEntropyLoss},
    "schedule is a class": {"schedule": torch.optim.lr_scheduler.CosineAnnealingLR},
    "an optimizer that exists": {"optimizer": SGD(nn.Linear(1, 1).parameters())},
    "device is None": {"device": None},
    "device is a number": {"device": 0},
    "device is meta": {"device": "meta"},
    "smallest batch of none": {"smallest_batch": 0},
}


@pytest.mark.parametrize("what", DECLARED)
def test_what_cannot_be_declared_is_refused(recipe_of, what):
    (name,) = DECLARED[what]
    with pytest.raises(errors.InvalidRecipe, match=name):
        recipe_of(**DECLARED[what])


def test_numbers_and_devices_of_other_libraries_are_taken(recipe_of):
    made = recipe_of(
        batch_size=np.int64(4),
        seed=np.int32(3),
        device=torch.device("cpu"),
        repeats=torch.tensor(1),
    )
    assert made == recipe_of()
    assert type(made.batch_size) is int


@pytest.mark.parametrize("step", [even, spread])
def test_a_step_may_say_that_there_is_nothing_to_learn(tmp_path, recipe_of, data, step):
    def careful(model, batch):
        return None if len(batch[0]) % 2 else step(model, batch)

    made = recipe_of(step=careful)
    run = ob.fit(made, data, tmp_path / "run", blocks=4)
    records = [0, 1, 2, 20, 33]
    erasure = run.forget(records=records, method="exact")
    never = ob.fit(made, data, tmp_path / "never", blocks=4, exclude=records)
    assert erasure.digest == never.digest


def test_batches_that_are_too_small_for_a_loss_are_skipped(tmp_path, recipe_of, data):
    made = recipe_of(step=spread, smallest_batch=2, batch_size=2)
    run = ob.fit(made, data, tmp_path / "run", blocks=4)
    records = run.trainer.layout.members(2)[::2].tolist()
    erasure = run.forget(records=records, method="exact")
    assert erasure.guarantee == "exact"
    never = ob.fit(made, data, tmp_path / "never", blocks=4, exclude=records)
    assert erasure.digest == never.digest


def test_an_optimizer_without_a_rate_trains(tmp_path, recipe_of, data):
    run = ob.fit(recipe_of(optimizer=NoRate), data, tmp_path / "run", blocks=4)
    assert run.forget(records=[3], method="exact").guarantee == "exact"


class Rarely(torch.optim.SGD):
    """Makes a step at every hundredth call: never, in blocks of a few steps."""

    calls = 0

    def step(self, closure=None):
        self.calls += 1
        return super().step(closure) if self.calls % 100 == 0 else None


def test_a_block_that_changes_nothing_is_told(tmp_path, recipe_of, data):
    made = recipe_of(optimizer=partial(Rarely, lr=0.1), optimizer_state="fresh")
    with pytest.warns(errors.NothingLearned, match="was trained on, and changed no parameter"):
        ob.fit(made, data, tmp_path / "run", blocks=4)


def test_a_rate_of_zero_is_no_fault(tmp_path, recipe_of, data):
    """Warming up from nothing, or fading to it."""
    made = recipe_of(schedule=lambda step, total: 0.0 if step < total / 2 else 1.0)
    ob.fit(made, data, tmp_path / "run", blocks=4)


# Batches that are mappings, but no dicts


class Encoding(UserDict):
    """What a tokenizer gives."""


class Texts(Dataset):
    def __init__(self, kind):
        self.kind = kind
        self.ids = torch.randint(0, 30, (40, 9), generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return 40

    def __getitem__(self, index):
        ids = self.ids[index]
        return self.kind(input_ids=ids, labels=(ids[0] > 14).long())


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(30, 8), nn.Linear(8, 2)

    def forward(self, input_ids, labels):
        return F.cross_entropy(self.head(self.embedding(input_ids).mean(1)), labels)


def encoded(recipe_of):
    return recipe_of(model=Bag, step=lambda model, batch: model(**batch))


def test_a_mapping_of_another_kind_gives_what_a_dict_gives(tmp_path, recipe_of):
    found = {}
    for kind in (dict, Encoding):
        run = ob.fit(encoded(recipe_of), Texts(kind), tmp_path / kind.__name__, blocks=4)
        erasure = run.forget(records=[3], method="calibrated")
        found[kind] = erasure.digest, erasure.functional_memory
    assert found[dict] == found[Encoding]


def test_records_of_a_mapping_have_scores_of_their_own(recipe_of):
    trainer = new_trainer(encoded(recipe_of), Texts(Encoding), 40, 4)
    batch = trainer.reader.batch(np.arange(4))
    assert isinstance(batch, Encoding)
    assert [len(each["labels"]) for each in singles(batch, 4)] == [1, 1, 1, 1]


def test_a_batch_that_cannot_be_taken_apart_is_refused():
    class Opaque:
        """Knows its records, and shows none of them."""

    with pytest.raises(errors.InvalidRecipe, match="cannot be taken apart"):
        singles(Opaque(), 4)


class Movable:
    """A batch of graphs, say: it knows how to move itself."""

    def __init__(self, features, targets):
        self.features, self.targets, self.device = features, targets, None

    def to(self, device):
        moved = Movable(self.features.to(device), self.targets.to(device))
        moved.device = device
        return moved


def test_batches_that_can_move_themselves_are_moved():
    from obliviate.training.batches import moved

    batch = moved([Movable(torch.ones(2), torch.ones(2))], "cpu")
    assert batch[0].device == "cpu"


# The first steps


def test_more_than_the_first_step_is_tried(tmp_path, recipe_of):
    """A generator that only some records draw from."""
    generator = torch.Generator()

    class Some(Dataset):
        def __len__(self):
            return 4000

        def __getitem__(self, index):
            noise = torch.randn(4, generator=generator) if index % 7 == 0 else 0.0
            return torch.full((4,), index / 4000) + noise, index % 3

    with pytest.raises(errors.NotDeterministic, match="a batch differs"):
        ob.fit(recipe_of(), Some(), tmp_path / "run", blocks=10)
    assert not (tmp_path / "run").exists()


def test_inputs_that_require_a_gradient_are_no_parameters(tmp_path, recipe_of, data):
    inputs, targets = data.tensors
    made = TensorDataset(inputs.clone().requires_grad_(), targets)
    ob.fit(replace(recipe_of(), seed=5), made, tmp_path / "run", blocks=4)
