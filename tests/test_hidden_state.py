"""What a checkpoint does not hold must not decide a state."""

import copy
import itertools
from functools import partial

import pytest
import torch
from torch import nn

import obliviate as ob
from obliviate import errors
from tests.models import BLOCKS, CLASSES, images, mlp, recipe, records_in


class Warming(nn.Module):
    """Counts its steps in an attribute, and behaves otherwise after some of them."""

    def __init__(self):
        super().__init__()
        self.linear, self.steps, self.history = nn.Linear(64, CLASSES), 0, []

    def forward(self, x):
        self.steps += self.training
        self.history.append(self.steps)
        self.extra = self.steps
        return self.linear(x.flatten(1)) * (0.1 if self.steps <= 2 else 1.0 + 0.1 * self.extra)


class Averaging(nn.Module):
    """Keeps a running mean in a buffer that its state dict leaves out."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, CLASSES)
        self.register_buffer("mean", torch.zeros(64), persistent=False)

    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * x.mean(0).detach()
        return self.linear(x - self.mean)


class MovingLoss(nn.Module):
    """A loss with a buffer and a counter."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.calls = 0

    def forward(self, outputs, targets):
        self.calls += 1
        self.scale *= 1.05
        return self.scale * self.calls * 0.1 * nn.functional.cross_entropy(outputs, targets)


class Drifting(torch.optim.SGD):
    """Counts its steps in an attribute, where no state dict sees it."""

    steps = 0

    def step(self, closure=None):
        self.steps += 1
        for group in self.param_groups:
            group["weight_decay"] = 0.01 * self.steps
        return super().step(closure)


HIDDEN = {
    "attribute": {"model": Warming},
    "buffer": {"model": Averaging},
    "loss": {"loss": MovingLoss()},
    "optimizer": {"optimizer": partial(Drifting, lr=0.05)},
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_hidden_state_does_not_leak_into_a_replay(tmp_path, kind):
    made = recipe(**HIDDEN[kind])
    run = ob.fit(made, images(), tmp_path / "run", blocks=BLOCKS)
    assert run.verify().passed
    erasure = run.forget(records=records_in(run, 3), method="exact")
    never = ob.fit(made, images(), tmp_path / "never", blocks=BLOCKS, exclude=records_in(run, 3))
    assert erasure.digest == never.digest


def test_a_factory_that_gives_old_modules_is_refused(tmp_path):
    backbone = nn.Linear(64, 8)

    def shared():
        return nn.Sequential(nn.Flatten(), backbone, nn.Linear(8, CLASSES))

    def copied():
        return nn.Sequential(nn.Flatten(), copy.deepcopy(backbone), nn.Linear(8, CLASSES))

    before = copy.deepcopy(backbone.state_dict())
    with pytest.raises(errors.InvalidRecipe, match="make new modules"):
        ob.fit(recipe(shared), images(), tmp_path / "run", blocks=BLOCKS)
    run = ob.fit(recipe(copied), images(), tmp_path / "run", blocks=BLOCKS)
    for name, value in before.items():
        assert torch.equal(run.chain().state(0)[f"1.{name}"], value)


class FrozenNorm(nn.Module):
    """BatchNorm that is never trained, as in a frozen backbone, and one without momentum."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(64, 8), nn.Linear(8, CLASSES)
        self.frozen, self.still = nn.BatchNorm1d(8), nn.BatchNorm1d(8, momentum=0.0)
        for layer in (self.frozen, self.still):
            layer.running_mean.fill_(0.3)
            layer.running_var.fill_(2.0)

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x):
        return self.head(torch.relu(self.still(self.frozen(self.body(x.flatten(1))))))


def test_statistics_that_training_leaves_alone_are_left_alone(tmp_path):
    run = ob.fit(recipe(FrozenNorm), images(), tmp_path, blocks=12)
    model = run.forget(records=records_in(run, 3), method=ob.DeepObliviate(epsilon=9)).model
    for layer in (model.frozen, model.still):
        assert torch.equal(layer.running_mean, torch.full((8,), 0.3))
        assert torch.equal(layer.running_var, torch.full((8,), 2.0))


def test_a_step_that_takes_gradients_of_its_own_can_be_stitched(tmp_path):
    def penalised(model, batch):
        x = batch[0].requires_grad_()
        outputs = model(x)
        (slope,) = torch.autograd.grad(outputs.sum(), x, create_graph=True)
        return nn.functional.cross_entropy(outputs, batch[1]) + 0.01 * slope.square().mean()

    made = recipe("batch-norm-cnn", step=penalised)
    run = ob.fit(made, images(), tmp_path, blocks=12)
    erasure = run.forget(records=records_in(run, 3), method=ob.DeepObliviate(epsilon=9))
    assert erasure.guarantee == "approximate"


AROUND = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


@pytest.mark.parametrize("around", AROUND)
def test_what_the_caller_is_in_the_middle_of_changes_nothing(tmp_path, around):
    with AROUND[around]():
        run = ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS)
        run.forget(records=[5], method="exact")
    never = ob.fit(recipe(), images(), tmp_path / "never", blocks=BLOCKS, exclude=[5])
    assert run.digest == never.digest


def test_two_calls_on_one_run_do_not_mix(tmp_path):
    run = ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS)
    events = run.forget.events(records=records_in(run, 2), method="exact")
    next(events)
    with pytest.raises(errors.RunLocked, match="in the middle of training"):
        run.verify([1])
    for _ in events:
        pass
    never = ob.fit(
        recipe(), images(), tmp_path / "never", blocks=BLOCKS, exclude=records_in(run, 2)
    )
    assert run.digest == never.digest
    assert run.verify().passed


def test_an_abandoned_call_lets_go_and_is_finished_by_the_next(tmp_path):
    run = ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS)
    for _ in run.forget.events(records=records_in(run, 2), method="exact"):
        break
    erasure = run.forget(records=records_in(run, 2), method="exact")
    assert (erasure.records, erasure.number) == (1, 1)
    assert run.forget(records=records_in(run, 4), method="exact").number == 2


class Unlucky(nn.Module):
    """A parameter that becomes NaN though the loss does not tell."""

    def __init__(self):
        super().__init__()
        self.linear, self.odd = nn.Linear(64, CLASSES), nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return self.linear(x.flatten(1)) + torch.sqrt(self.odd * 0).sum()


def test_a_state_that_is_not_finite_is_never_kept(tmp_path):
    with pytest.raises(errors.NotFinite, match=r"parameter 'odd' is no longer finite"):
        ob.fit(recipe(Unlucky, batch_size=12, repeats=1), images(), tmp_path / "run", blocks=BLOCKS)


def test_an_initial_state_that_changed_is_found(tmp_path):
    scale = [1.0]

    def factory():
        model = mlp()
        with torch.no_grad():
            model[1].weight.mul_(scale[0])
        return model

    run = ob.fit(recipe(factory), images(), tmp_path, blocks=BLOCKS)
    assert 0 in run.verify().reproduced
    scale[0] = 2.0
    assert 0 in ob.load(tmp_path, recipe(factory), images()).verify().failed


def test_another_processor_is_not_called_exact(tmp_path):
    run = ob.fit(recipe(), images(), tmp_path, blocks=BLOCKS)
    run.facts.environment["processor"] = "ABACUS"
    erasure = run.forget(records=records_in(run, 3), method="exact")
    assert erasure.guarantee == run.guarantee == "approximate"
    assert "made with processor ABACUS" in erasure.stop_reason
    again = ob.load(tmp_path, recipe(), images())
    assert again.settle().guarantee == "exact"  # where the run was made, it can be had


def test_only_methods_that_are_known_are_taken(tmp_path):
    class Own(ob.DeepObliviate):
        pass

    run = ob.fit(recipe(), images(), tmp_path, blocks=BLOCKS)
    with pytest.raises(errors.UnknownMethod, match="Own"):
        run.forget(records=[1], method=Own())
    assert run.forget(records=[1], method="exact").guarantee == "exact"


def test_what_a_killed_process_left_to_destroy_is_destroyed_on_opening(tmp_path, monkeypatch):
    run = ob.fit(recipe(), images(), tmp_path, blocks=BLOCKS)
    real, calls = type(run.vault).destroy, itertools.count()

    def dying(vault, key):
        if next(calls) == 0:
            raise KeyboardInterrupt
        real(vault, key)

    monkeypatch.setattr(type(run.vault), "destroy", dying)
    with pytest.raises(KeyboardInterrupt):
        run.forget(records=records_in(run, 2), method="exact")
    assert run.ledger.objects.keys("condemned")
    opened = ob.load(tmp_path, recipe(), images())
    assert not opened.ledger.objects.keys("condemned")
    assert set(opened.vault) == opened.ledger.objects.keys("live")


def test_hashes_of_erased_records_are_gone_from_the_file_at_once(tmp_path):
    run = ob.fit(recipe(), images(), tmp_path, blocks=BLOCKS)
    record, content = next(iter(run.ledger.run().samples.items()))
    run.forget(records=[record], method="exact")
    for path in tmp_path.glob("ledger.sqlite*"):
        assert content.encode() not in path.read_bytes()


def test_a_reader_is_not_told_of_damage_when_the_run_was_rewritten(tmp_path):
    run = ob.fit(recipe(), images(), tmp_path, blocks=BLOCKS)
    reader = ob.load(tmp_path, recipe(), images())
    events = reader.verify.events()
    next(events)
    run.forget(records=records_in(run, 1), method="exact")
    for _ in events:
        pass
    verification = reader.verify()
    assert verification.passed
    assert verification.reproduced == tuple(range(BLOCKS + 1))


def test_a_resumed_erasure_that_cannot_go_on_waits_and_is_named(tmp_path):
    class Moody(type(images())):
        fails = False

        def __getitem__(self, index):
            if self.fails:
                raise OSError("no connection")
            return super().__getitem__(index)

    data = Moody(*images().tensors)
    run = ob.fit(recipe(), data, tmp_path / "run", blocks=BLOCKS)
    for _ in run.forget.events(records=records_in(run, 2), method="exact"):
        break
    data.fails = True
    with pytest.raises(errors.TrainingFailed, match=r"erasure 1, begun .*: block 3.*no connection"):
        run.settle()
    assert [facts.state for facts in run.ledger.requests.all()] == ["requested"]
    data.fails = False
    assert len(run.work(everything=True)) == 1
    assert [facts.state for facts in run.ledger.requests.all()] == ["settled"]
    assert run.status().erased == 1


def test_texts_are_looked_at_too(tmp_path):
    class Texts(torch.utils.data.Dataset):
        def __init__(self, word):
            self.word = word

        def __len__(self):
            return 40

        def __getitem__(self, index):
            return {"text": f"{self.word} {index}", "label": index % CLASSES}

    def step(model, batch):
        x = torch.stack([torch.full((64,), float(len(text))) for text in batch["text"]])
        return nn.functional.cross_entropy(model(x), batch["label"])

    made = recipe(lambda: nn.Linear(64, CLASSES), step=step, loss=None)
    ob.fit(made, Texts("cat"), tmp_path, blocks=4)
    with pytest.raises(errors.ForeignData, match="other data"):
        ob.load(tmp_path, made, Texts("dog"))
