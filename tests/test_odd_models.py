"""Models with odd parts are erased from rightly, exactly and fast."""

from functools import partial

import pytest
import torch
from torch import nn

import obliviate as ob
from obliviate.methods.power_law import FIT_MIN_LENGTH
from tests.models import BLOCKS, CLASSES, Guarded, images, recipe, records_in

FAST = ob.DeepObliviate(epsilon=9)
MORE_BLOCKS = 12


class Tied(nn.Module):
    """Two layers that share one weight, in different directions."""

    def __init__(self):
        super().__init__()
        self.inwards = nn.Linear(64, 64)
        self.outwards = nn.Linear(64, 64, bias=False)
        self.outwards.weight = self.inwards.weight
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x):
        return self.head(self.outwards(torch.tanh(self.inwards(x.flatten(1)))))


class SharedModule(nn.Module):
    """One module under two names, BatchNorm and all."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Tanh())
        self.second = self.first
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x):
        return self.head(self.second(self.first(x.flatten(1))))


class Frozen(nn.Module):
    """A frozen backbone under a head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(64, 32).requires_grad_(requires_grad=False)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x):
        return self.head(torch.relu(self.backbone(x.flatten(1))))


class Half(nn.Module):
    """Parameters in bfloat16."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, 16).to(torch.bfloat16)
        self.head = nn.Linear(16, CLASSES).to(torch.bfloat16)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x.flatten(1).to(torch.bfloat16)))).float()


class Counting(nn.Module):
    """Integer and boolean buffers that training changes, and a float one: a running mean."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, CLASSES)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("seen", torch.zeros(CLASSES, dtype=torch.bool))
        self.register_buffer("mean", torch.zeros(64))

    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            self.steps += 1
            self.seen[self.steps % CLASSES] = True
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return self.head(x - self.mean)


class Scalar(nn.Module):
    """A parameter without dimensions, an empty one, and one that is never used."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.nothing = nn.Parameter(torch.empty(0, 3))
        self.unused = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x):
        return self.scale * self.head(x.flatten(1))


ODD = [Tied, SharedModule, Frozen, Half, Counting, Scalar]


@pytest.fixture(params=ODD, ids=lambda model: model.__name__)
def made(request):
    return recipe(request.param, partial(torch.optim.SGD, lr=0.05, momentum=0.9))


def fit(made, folder, **options):
    return ob.fit(made, images(), folder, **({"blocks": MORE_BLOCKS} | options))


def test_erased_exactly_is_never_trained_on(made, tmp_path):
    run = fit(made, tmp_path / "run")
    records = records_in(run, 3, 7)
    before = run.digest
    assert run.verify().passed
    erasure = run.forget(records=records, method="exact")
    never = fit(made, tmp_path / "never", exclude=records)
    assert erasure.digest == never.digest != before


def test_the_fast_result_is_what_the_paper_says(made, tmp_path):
    run = fit(made, tmp_path)
    original = [run.chain().state(block) for block in range(MORE_BLOCKS + 1)]
    frozen = run.model.state_dict().keys() - original[0].keys()
    erasure = run.forget(records=records_in(run, 3), method=FAST)
    (_, last), *_ = erasure.segments
    assert 3 + FIT_MIN_LENGTH - 1 <= last < MORE_BLOCKS
    replayed, result = run.chain().state(last), erasure.model.state_dict()
    for name, value in result.items():
        if name in run.trainer.buffers | frozen:
            continue  # no sum of what blocks did to it
        if value.is_floating_point():
            paper = replayed[name].double() + (original[-1][name] - original[last][name]).double()
            tolerance = 0.02 if value.dtype == torch.bfloat16 else 1e-5
            assert torch.allclose(value.double(), paper, atol=tolerance, rtol=tolerance), name
        else:
            assert torch.equal(value, original[-1][name]), name
        assert value.dtype == original[-1][name].dtype
    assert all((v >= 0).all() for name, v in result.items() if name.endswith("running_var"))
    assert run.settle().guarantee == "exact"


def test_what_is_tied_stays_tied(tmp_path):
    made = recipe(Tied)
    run = fit(made, tmp_path)
    model = run.forget(records=records_in(run, 3), method=FAST).model
    assert model.inwards.weight is model.outwards.weight
    state = run.chain().state(MORE_BLOCKS)
    assert state["inwards.weight"] is state["outwards.weight"]


def test_what_is_frozen_costs_nothing_and_does_not_change(tmp_path):
    run = fit(recipe(Frozen), tmp_path)
    first = run.model.backbone.weight
    assert run.chain().state(0).keys() == {"head.weight", "head.bias"}
    run.forget(records=records_in(run, 3), method=FAST)
    assert torch.equal(run.model.backbone.weight, first)
    assert torch.equal(run.trainer.model.backbone.weight, first)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_general_dataset_gives_what_tensors_give_with_and_without_workers(tmp_path, workers):
    made = recipe("dropout-cnn", workers=workers)
    general = ob.fit(made, Guarded(images()), tmp_path / "general", blocks=BLOCKS)
    tensors = ob.fit(recipe("dropout-cnn"), images(), tmp_path / "tensors", blocks=BLOCKS)
    assert general.digest == tensors.digest
    for run in (general, tensors):
        run.forget(records=[7], method="exact")
    assert general.digest == tensors.digest


@pytest.mark.parametrize("blocks", [1, 36])
def test_one_block_and_blocks_of_two_records(tmp_path, blocks):
    run = fit(recipe("batch-norm-cnn"), tmp_path / "run", blocks=blocks)
    run.forget(records=[9], method=FAST)
    run.forget(records=[30], method="exact")
    never = fit(recipe("batch-norm-cnn"), tmp_path / "never", blocks=blocks, exclude=[9, 30])
    assert run.digest == never.digest
