"""A frozen base: in no checkpoint, hashed once, and the same wherever the run is opened."""

import json
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

import obliviate as ob
from obliviate import errors
from obliviate.evidence import gathered, page
from obliviate.states.update import captured, digest, size_bytes
from obliviate.training import base as bases
from tests.models import CLASSES, MODELS, MOMENTUM, OPTIMIZERS, Guarded, images, recipe, records_in

BLOCKS = 8
FAST = ob.DeepObliviate(epsilon=9)


class Adapted(nn.Module):
    """A frozen backbone with BatchNorm, an adapter beside one of its layers, and a head."""

    def __init__(self):
        super().__init__()
        self.body, self.norm, self.deep = nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Linear(32, 32)
        for part in (self.body, self.norm, self.deep):
            part.requires_grad_(requires_grad=False)
        self.down, self.up = nn.Linear(32, 2, bias=False), nn.Linear(2, 32, bias=False)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x):
        x = torch.relu(self.norm(self.body(x.flatten(1))))
        return self.head(torch.relu(self.deep(x) + self.up(self.down(x))))


FROZEN = {"body.weight", "body.bias", "norm.weight", "norm.bias", "deep.weight", "deep.bias"}


class Counted:
    """A factory that counts its calls."""

    def __init__(self, make=Adapted):
        self.make, self.calls = make, 0

    def __call__(self):
        self.calls += 1
        return self.make()


@pytest.fixture
def hashed(monkeypatch):
    """The tensors of bases that were hashed."""
    seen, real = [], bases._digest
    monkeypatch.setattr(bases, "_digest", lambda tensor: seen.append(tensor) or real(tensor))
    return seen


def fit(made, folder, **options):
    return ob.fit(made, images(), folder, **({"blocks": BLOCKS} | options))


@pytest.mark.parametrize("state", ["adam-fresh", "adam-carried"])
def test_erased_exactly_is_never_trained_on(tmp_path, state):
    made = recipe(Adapted, state, epochs=2, repeats=1)
    run = fit(made, tmp_path / "run")
    records = records_in(run, 3, 7)
    assert run.verify().passed
    fast = run.forget(records=records, method=FAST)
    assert fast.guarantee == "approximate"
    assert run.settle().guarantee == "exact"
    never = fit(made, tmp_path / "never", exclude=records)
    assert run.digest == never.digest
    assert run.verify().passed
    for one, other in zip(run.model.parameters(), never.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_has_what_is_trained_and_all_buffers(tmp_path):
    run = fit(recipe(Adapted), tmp_path)
    whole = run.model.state_dict()
    for block in (0, 1, BLOCKS):
        state = run.chain().state(block)
        assert state.keys() == whole.keys() - FROZEN
    assert run.digest == digest(captured({name: whole[name] for name in state}))
    assert run.trainer.parameters == {"down.weight", "up.weight", "head.weight", "head.bias"}
    moved = run.chain().state(0)["norm.running_mean"], whole["norm.running_mean"]
    assert not torch.equal(*moved)
    assert torch.equal(whole["body.weight"], run.trainer.model.body.weight)


def test_the_base_is_hashed_once_when_a_run_is_made_and_once_when_it_is_opened(tmp_path, hashed):
    made = recipe(Adapted)
    run = fit(made, tmp_path / "run")
    assert len(hashed) == len(FROZEN)
    run.forget(records=records_in(run, 3), method="exact")
    run.verify()
    assert len(hashed) == len(FROZEN)
    again = ob.load(run.folder, made, images())
    assert len(hashed) == 2 * len(FROZEN)
    again.forget(records=records_in(run, 5), method=FAST)
    again.settle()
    assert again.model
    assert len(hashed) == 2 * len(FROZEN)


def test_another_base_is_refused_and_what_differs_is_named(tmp_path):
    def other():
        model = Adapted()
        with torch.no_grad():
            model.deep.bias[0] += 1
        return model

    run = fit(recipe(Adapted), tmp_path / "run")
    with pytest.raises(errors.ForeignRecipe, match=r"of 6 frozen tensors, 1 hold.*'deep.bias'"):
        ob.load(run.folder, recipe(other), images())
    assert ob.load(run.folder, recipe(Adapted), images()).digest == run.digest


def test_a_base_that_is_another_each_time_is_refused(tmp_path):
    drawn = torch.Generator().manual_seed(1)

    def drawing():
        model = Adapted()
        with torch.no_grad():
            model.body.weight.normal_(generator=drawn)
        return model

    with pytest.raises(errors.NotDeterministic, match=r"'body\.weight', which is frozen"):
        fit(recipe(drawing), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_base_is_told(tmp_path):
    run = fit(recipe(Adapted), tmp_path / "run")
    told = run.status().base
    assert len(told) == 64
    evidence = gathered(run.folder)
    assert evidence.base == evidence.recipe["base"] == told
    assert told in page(evidence)
    assert "base tensors" not in evidence.recipe
    assert json.loads(run.facts.fingerprint["base tensors"]).keys() == FROZEN
    plain = fit(recipe(), tmp_path / "plain", blocks=2)
    assert plain.status().base is None
    assert "frozen base" not in page(gathered(plain.folder))


class Killed(Exception):
    """The process is gone."""


def test_a_killed_training_goes_on(tmp_path):
    def dying(model, batch):
        calls.append(batch)
        if len(calls) == 25:
            raise Killed
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    calls = []
    made = recipe(Adapted, "adam-carried", step=dying)
    with pytest.raises(errors.TrainingFailed):
        fit(made, tmp_path / "run")
    run = fit(made, tmp_path / "run")
    assert len(calls) > 25
    assert run.digest == fit(made, tmp_path / "whole").digest


def test_calibrated_by_references(tmp_path):
    data, made = Guarded(images(160)), recipe(Adapted, MOMENTUM, epochs=3, repeats=1)
    run = ob.fit(made, data, tmp_path, blocks=10, reference=images(60, seed=9))
    records = records_in(run, 3, each=4)
    data.forbidden = set()
    erasure = run.forget(records=records, method="calibrated")
    assert erasure.ending.references == 60
    data.forbidden = set(records)
    assert run.settle().guarantee == "exact"


# Which parameters are frozen


class TiedToTrained(nn.Module):
    """A frozen layer that is another view of a trained weight, and one that is the same one."""

    def __init__(self):
        super().__init__()
        self.trained, self.head = nn.Linear(64, 64), nn.Linear(64, CLASSES)
        self.turned, self.same = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
        self.turned.weight = nn.Parameter(self.trained.weight.detach().t(), requires_grad=False)
        self.same.weight = self.trained.weight

    def forward(self, x):
        return self.head(self.same(torch.tanh(self.turned(self.trained(x.flatten(1))))))


def test_what_is_tied_to_a_trained_parameter_is_trained(tmp_path):
    made = recipe(TiedToTrained, partial(torch.optim.SGD, lr=0.01))
    run = fit(made, tmp_path / "run")
    assert run.chain().state(0).keys() == run.model.state_dict().keys()
    assert run.status().base is None
    erasure = run.forget(records=records_in(run, 3), method="exact")
    never = fit(made, tmp_path / "never", exclude=records_in(run, 3))
    assert erasure.digest == never.digest


class Teacher(nn.Module):
    """Keeps an average of its weights, in parameters that are frozen, beside a frozen layer."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, 16).requires_grad_(requires_grad=False)
        self.live, self.slow = nn.Linear(16, CLASSES), nn.Linear(16, CLASSES)
        self.slow.requires_grad_(requires_grad=False).load_state_dict(self.live.state_dict())

    def forward(self, x):
        return self.live(self.body(x.flatten(1)))

    def follow(self, *, is_hidden):
        with torch.no_grad():
            for slow, live in zip(self.slow.parameters(), self.live.parameters(), strict=True):
                (slow.data if is_hidden else slow).lerp_(live, 0.2)


def teaching(model, batch, *, is_hidden=False, after=0):
    outputs = model(batch[0])
    soft = model.slow(model.body(batch[0].flatten(1))).softmax(1)
    loss = nn.functional.cross_entropy(outputs, batch[1])
    if not after or len(SEEN) > after:
        model.follow(is_hidden=is_hidden)
    SEEN.append(None)
    return loss + nn.functional.cross_entropy(outputs, soft)


SEEN = []


@pytest.mark.parametrize("is_hidden", [False, True], ids=["in place", "by its data"])
def test_what_steps_write_to_without_a_gradient_is_in_every_checkpoint(tmp_path, is_hidden):
    made = recipe(Teacher, step=partial(teaching, is_hidden=is_hidden))
    run = fit(made, tmp_path / "run")
    assert run.chain().state(0).keys() == run.model.state_dict().keys() - {
        "body.weight",
        "body.bias",
    }
    assert run.verify().passed
    again = ob.load(run.folder, made, images())
    erasure = again.forget(records=records_in(run, 3), method="exact")
    never = fit(made, tmp_path / "never", exclude=records_in(run, 3))
    assert erasure.digest == never.digest
    assert torch.equal(again.model.slow.weight, never.model.slow.weight)


def test_what_steps_write_to_later_on_is_refused(tmp_path):
    SEEN.clear()
    with pytest.raises(errors.InvalidRecipe, match=r"block \d+: 'slow.bias'.*make it a buffer"):
        fit(recipe(Teacher, step=partial(teaching, after=20)), tmp_path / "run")


class Packed(nn.Module):
    """A frozen weight in eight bits, which brings its scale into the state dict."""

    dtype = torch.float8_e4m3fn

    def __init__(self):
        super().__init__()
        weight = torch.randn(32, 64)
        self.scale = weight.abs().amax() / 4
        self.weight = nn.Parameter((weight / self.scale).to(self.dtype), requires_grad=False)
        self.head = nn.Linear(32, CLASSES)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight.scale"] = self.scale

    def forward(self, x):
        return self.head(torch.relu(x.flatten(1) @ (self.weight.float() * self.scale).T))


class Bytes(Packed):
    """The same in integers, which cannot even require a gradient."""

    dtype = torch.uint8


class Halves(Packed):
    """The same in complex numbers of a kind that no state can have."""

    dtype = torch.complex128

    def forward(self, x):
        return self.head(torch.relu(x.flatten(1) @ (self.weight.real.float() * self.scale).T))


class Doubled(Packed):
    """The same as a tensor that is made of two others."""

    def __init__(self):
        super().__init__()
        part = self.weight.detach().float()
        self.weight = nn.Parameter(TwoTensor(part, part.clone()), requires_grad=False)

    def forward(self, x):
        return self.head(torch.relu(x.flatten(1) @ (self.weight.a * self.scale).T))


@pytest.mark.parametrize("kind", [Packed, Bytes, Halves, Doubled], ids=lambda kind: kind.__name__)
def test_a_base_may_have_any_dtype(tmp_path, kind):
    made = recipe(kind, OPTIMIZERS["adam-fresh"][0])
    run = fit(made, tmp_path / "run")
    assert run.chain().state(0).keys() == {"head.weight", "head.bias"}
    again = ob.load(run.folder, made, images())
    again.forget(records=records_in(run, 3), method=FAST)
    again.settle()
    assert again.digest == fit(made, tmp_path / "n", exclude=records_in(run, 3)).digest
    assert type(again.model.weight) is type(kind().weight)
    assert again.model.weight.dtype == kind().weight.dtype


# What it costs


def test_the_factory_is_called_as_seldom_as_possible(tmp_path):
    factory = Counted()
    made = recipe(factory, MOMENTUM, epochs=2, repeats=1)
    run = fit(made, tmp_path / "run")
    assert factory.calls == 2  # one is trained, one shows that the factory gives new ones
    run.forget(records=[3], method="calibrated")
    run.verify([2, 3])
    run.settle()
    assert factory.calls == 2
    factory.calls = 0
    again = ob.load(run.folder, made, images())
    assert factory.calls == 1
    again.forget(records=[4], method="exact")
    assert again.verify().passed
    assert factory.calls == 1
    again.forget(records=[5], method="calibrated")
    again.forget(records=[6], method="calibrated")
    assert factory.calls == 2  # one more, to score states on
    assert again.model is not again.model
    assert factory.calls == 4
    again.extend(images(20, seed=1), blocks=2)
    assert factory.calls == 4
    assert again.settle().guarantee == "exact"
    assert factory.calls == 4


def test_a_factory_of_a_model_without_a_base_is_called_as_seldom(tmp_path):
    factory = Counted(MODELS["batch-norm-cnn"])
    made = recipe(factory)
    run = fit(made, tmp_path / "run", blocks=4)
    assert factory.calls == 2
    again = ob.load(run.folder, made, images())
    again.forget(records=[3], method="exact")
    assert again.verify().passed
    assert factory.calls == 3


def test_references_need_no_further_model(tmp_path):
    factory = Counted()
    made = recipe(factory, MOMENTUM, epochs=2, repeats=1)
    fit(made, tmp_path, reference=images(40, seed=9))
    assert factory.calls == 2


def test_a_module_to_score_on_shares_the_base_and_a_served_one_does_not(tmp_path):
    run = fit(recipe(Adapted), tmp_path)
    live, spare, served = run.trainer.model, run.trainer.spare_module(), run.model
    for name in FROZEN:
        at = [each.state_dict()[name].data_ptr() for each in (live, spare, served)]
        assert at[0] == at[1] != at[2]
    with torch.no_grad():
        served.body.weight.add_(1)  # as merging adapters does
    records = records_in(run, 3)
    erasure = run.forget(records=records, method="exact")
    never = fit(recipe(Adapted), tmp_path / "never", exclude=records)
    assert erasure.digest == never.digest


def test_a_block_costs_what_its_adapters_cost(tmp_path):
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(64, 8000).requires_grad_(requires_grad=False)
            self.head = nn.Linear(8000, CLASSES)

        def forward(self, x):
            return self.head(self.body(x.flatten(1)).relu())

    run = fit(recipe(Wide, partial(torch.optim.SGD, lr=1e-3)), tmp_path)
    adapters, chain = size_bytes(run.chain().state(0)), run.chain()
    assert run.stock().size_bytes() < 1.2 * adapters * (BLOCKS + len(chain.entries) // 4)
    assert size_bytes(run.model.state_dict()) > 10 * adapters
