"""Every baseline keeps the contract, and does on a case with a known answer what its paper says."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from obliviate.datasets import digits
from obliviate.errors import Diverged, InvalidOption, UnknownMethod, Unsupported
from obliviate.events import finish
from obliviate.lab.baselines import registry
from obliviate.lab.baselines.amnesiac import Amnesiac
from obliviate.lab.baselines.finetune import FineTune
from obliviate.lab.baselines.neggrad import NegGrad
from obliviate.lab.baselines.npo import NPO
from obliviate.lab.baselines.random_labels import OtherLabels, RandomLabels
from obliviate.lab.baselines.registry import unlearner_of
from obliviate.lab.baselines.retrain import Retrain
from obliviate.lab.baselines.rewinding import Rewinding
from obliviate.lab.baselines.salun import SalUn
from obliviate.lab.baselines.scrub import Scrub
from obliviate.lab.baselines.texts import text_losses
from obliviate.lab.baselines.tuning import Part, Tuning
from obliviate.models import IGNORED, CausalLM, next_token_loss
from obliviate.states.update import captured, digest
from obliviate.testing import UnlearnerContract
from obliviate.testing.linear import LinearRecipe

PACKAGE = Path(__file__).with_name("package_with_method")
FORGOTTEN, RETAINED = np.arange(20), np.arange(20, 200)


class TestRetrain(UnlearnerContract):
    unlearner = Retrain()


class TestFineTune(UnlearnerContract):
    unlearner = FineTune(epochs=1)


class TestNegGrad(UnlearnerContract):
    unlearner = NegGrad(epochs=1, alpha=0.9, lr=0.05)


class TestRandomLabels(UnlearnerContract):
    unlearner = RandomLabels(epochs=1)


class TestSalUn(UnlearnerContract):
    unlearner = SalUn(epochs=1, share=0.25)


class TestScrub(UnlearnerContract):
    unlearner = Scrub(epochs=2, max_epochs=1)


class TestAmnesiac(UnlearnerContract):
    unlearner = Amnesiac(epochs=1)


class TestNPO(UnlearnerContract):
    unlearner = NPO(epochs=2, lr=0.1)

    def project(self):
        return texts()


@pytest.fixture
def another_package(monkeypatch):
    """A distribution with a baseline of its own is installed."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    registry.BASELINES.refresh()
    yield
    registry.BASELINES.refresh()


@pytest.mark.usefixtures("another_package")
class TestOfAnotherPackage(UnlearnerContract):
    @property
    def unlearner(self):
        return unlearner_of("nothing")


@pytest.mark.usefixtures("another_package")
def test_what_cannot_be_used_is_named_and_the_rest_works():
    assert registry.names()[-3:] == ["nothing", "broken", "absent"]
    assert unlearner_of("retrain") == Retrain()  # whoever announces that name too
    faults = registry.faults()
    assert "no Unlearner" in faults["broken"]
    assert "cannot be imported" in faults["absent"]
    assert "that name is taken" in faults["retrain"]
    with pytest.raises(UnknownMethod, match="no baseline 'magic'"):
        unlearner_of("magic")
    with pytest.raises(InvalidOption, match="the baseline retrain takes no 'epochs'"):
        unlearner_of("retrain:epochs=1")


class Bigrams(nn.Module):
    """The next token by the last one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(12, 6), nn.Linear(6, 12)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(tokens))


def next_token(logits, targets):
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def texts():
    """Texts of a small language: 60 of ten tokens, whose first two are no target."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(12, (60, 11), generator=generator)
    targets = tokens[:, 1:].clone()
    targets[:, :2] = -100
    recipe = ob.Recipe(
        model=Bigrams,
        optimizer=partial(torch.optim.SGD, lr=0.5),
        loss=next_token,
        batch_size=5,
        epochs=2,
        seed=3,
    )
    data = TensorDataset(tokens[:, :-1], targets)
    return ob.Project(recipe=recipe, data=data, blocks=4)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


def project_of(**changes):
    """200 digits, of which the first 20 have wrong labels, and a network that learns by heart."""
    data, test = digits()
    inputs, targets = (each[:200].clone() for each in data.tensors)
    targets[FORGOTTEN] = (targets[FORGOTTEN] + 1) % 10
    options = {
        "model": mlp,
        "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-4),
        "loss": nn.functional.cross_entropy,
        "batch_size": 20,
        "epochs": 12,
        "seed": 5,
    }
    recipe = ob.Recipe(**(options | changes))
    return ob.Project(recipe=recipe, data=TensorDataset(inputs, targets), test=test, blocks=2)


@pytest.fixture(scope="module")
def project():
    return project_of()


def prepared_by(unlearner, project, folder):
    return finish(unlearner_of(unlearner).prepare(project, folder))


def measured(prepared, project, records):
    """Mean loss and accuracy of some records."""
    inputs, targets = (each[torch.from_numpy(records)] for each in project.data.tensors)
    outputs = prepared.predict(inputs)
    loss = float(nn.functional.cross_entropy(outputs, targets))
    return loss, float((outputs.argmax(dim=1) == targets).float().mean())


@pytest.fixture(scope="module")
def trained(project, tmp_path_factory):
    """The project, trained once for all who ask what a rule does to it, and its state."""
    prepared = prepared_by("retrain", project, tmp_path_factory.mktemp("trained"))
    return prepared, prepared.state()


@pytest.fixture
def original(trained):
    """The model as it was trained, whatever a test before has made of it."""
    prepared, state = trained
    prepared.load(state)
    return prepared


def forget_by(unlearner, original):
    """Let it forget by the rule of a baseline."""
    work = finish(unlearner_of(unlearner).forget(original, original.request(FORGOTTEN)))
    original.model.eval()
    return work


def tuning_of(prepared, records=FORGOTTEN, name="mine", lr=None):
    """A request to a model, as a baseline is given it, and nothing done yet."""
    return Tuning(prepared, prepared.request(records), name=name, lr=lr)


def weights_of(module):
    return {name: each.detach().clone() for name, each in module.named_parameters()}


# What their papers say


def test_training_and_retraining_give_the_bits_of_a_run(project, tmp_path):
    prepared = prepared_by("retrain", project, tmp_path)
    for at, exclude in enumerate(([], FORGOTTEN.tolist())):
        if exclude:
            cost = finish(prepared.forget(FORGOTTEN))
            assert (cost.records, cost.share) == (180 * 12, 1.0)
        path = tmp_path / str(at)
        with ob.fit(
            project.recipe, project.data, path, blocks=project.blocks, exclude=exclude
        ) as run:
            assert digest(captured(prepared.model.state_dict())) == run.digest


@pytest.mark.parametrize(
    "unlearner",
    [
        "finetune",
        "neggrad:epochs=3,lr=0.05",
        "random_labels:epochs=3",
        "salun:epochs=3",
        "scrub:max_epochs=9,lr=0.05",
    ],
)
def test_the_forgotten_get_worse_and_the_retained_stay(unlearner, project, original):
    before, kept = (measured(original, project, each) for each in (FORGOTTEN, RETAINED))
    forget_by(unlearner, original)
    after, left = (measured(original, project, each) for each in (FORGOTTEN, RETAINED))
    assert after[0] > before[0] + 0.5
    assert after[1] < before[1]
    assert after[1] < left[1]  # their error rises above that of the retained
    assert left[1] >= kept[1] - 0.05


def test_fine_tuning_is_the_loop_that_one_would_write(project, original):
    model = mlp()
    model.load_state_dict(original.model.state_dict())
    order = tuning_of(original, name="finetune")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    for epoch in range(2):
        batches = order.batches(RETAINED, epoch)
        assert sorted(np.concatenate(batches)) == RETAINED.tolist()
        for batch in batches:
            inputs, targets = (each[torch.from_numpy(batch)] for each in project.data.tensors)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    work = forget_by("finetune:epochs=2,lr=0.02", original)
    assert (work.steps, work.records) == (18, 360)
    for name, weight in weights_of(model).items():
        torch.testing.assert_close(weights_of(original.model)[name], weight)


def test_random_labels_are_never_their_own_and_all_others(original):
    labels = OtherLabels(tuning_of(original))
    records, own = np.arange(3000), torch.arange(3000) % 10
    others = labels.of(records, own)
    assert labels.classes == 10
    assert bool(((others >= 0) & (others < 10)).all())
    shifts = torch.bincount((others - own) % 10, minlength=10)
    assert int(shifts[0]) == 0
    assert int(shifts[1:].min()) > 250  # 333 are expected, with a standard deviation of 17
    assert labels.of(records[:1], torch.tensor([-100])).tolist() == [-100]


def test_salun_changes_the_weights_of_its_mask_alone(project, original):
    before = weights_of(original.model)
    inputs, targets = (each[:20] for each in project.data.tensors)
    parameters = dict(original.model.named_parameters())
    loss = nn.functional.cross_entropy(original.model(inputs), targets)
    sizes = [each.abs() for each in torch.autograd.grad(loss, list(parameters.values()))]
    median = torch.cat([each.reshape(-1) for each in sizes]).median()
    forget_by("salun:epochs=1", original)
    after = weights_of(original.model)
    changed = [(before[name] != after[name]) for name in parameters]
    for size, is_changed in zip(sizes, changed, strict=True):
        # a bit below: the order of a sum may move what is at the median by its last bits
        assert bool((size[is_changed] >= median * (1 - 1e-4)).all())
    share = sum(map(torch.sum, changed)) / sum(map(torch.numel, changed))
    assert 0.3 < float(share) <= 0.5


def test_scrub_goes_away_from_its_teacher_on_the_forgotten(project, original):
    teacher, student = (mlp().requires_grad_(False) for _ in range(2))
    part = Part(records=FORGOTTEN, batch=[each[:20] for each in project.data.tensors])
    scrub = Scrub(temperature=2.0, alpha=0.5, gamma=3.0)
    wanted, given = (model(part.batch[0]).double() / 2 for model in (teacher, student))
    ratio = wanted.log_softmax(1) - given.log_softmax(1)
    distance = (wanted.softmax(1) * ratio).sum(1).mean() * 4
    told = float(scrub.divergence(part, student, teacher))
    assert told == pytest.approx(float(distance), rel=1e-4)
    assert float(scrub.divergence(part, teacher, teacher)) == pytest.approx(0, abs=1e-6)
    entropy = nn.functional.cross_entropy(student(part.batch[0]), part.batch[1])
    told = float(scrub.agreement(part, student, teacher))
    assert told == pytest.approx(float(0.5 * distance + 3 * entropy), rel=1e-4)
    teacher.load_state_dict(original.model.state_dict())
    forget_by("scrub:max_epochs=9,lr=0.05", original)
    kept = Part(records=RETAINED, batch=[each[20:] for each in project.data.tensors])
    with torch.no_grad():
        apart, together = (scrub.divergence(each, original.model, teacher) for each in (part, kept))
    assert float(apart) > 3 * float(together)


def test_scrub_goes_back_to_the_epoch_whose_error_is_that_of_the_unseen(project, original):
    rewinding = Rewinding(tuning_of(original))
    states = []
    for scale in (1.0, 0.5, -1.0):  # the last one is wrong nearly everywhere
        with torch.no_grad():
            original.model[3].weight.mul_(scale)
        states.append(weights_of(original.model))
        rewinding.note()
    inputs, targets = project.test.tensors
    wanted = project.data.tensors[1][:20]
    is_wrong = (original.predict(inputs).argmax(dim=1) != targets).double()
    by_hand = [float(is_wrong[targets == each].mean()) for each in wanted]
    assert rewinding.reference() == pytest.approx(np.mean(by_hand))
    assert rewinding.rewind() == 2
    rewinding._errors[0] = rewinding._errors[2] = 2.0
    assert rewinding.rewind() == 1
    assert torch.equal(original.model[3].weight, states[1]["3.weight"])


def test_scrub_that_goes_back_leaves_an_earlier_epoch(trained):
    original, state = trained
    ends = []
    for options in ("epochs=1", "epochs=3", "epochs=6", "epochs=6,rewind=true"):
        original.load(state)
        forget_by(f"scrub:lr=0.05,max_epochs=9,{options}", original)
        ends.append(digest(original.state()))
    assert len(set(ends[:3])) == 3
    assert ends[3] != ends[2]  # wrong labels are unlearned: at first they are wrong less often


def test_amnesiac_takes_back_exactly_the_steps_of_the_forgotten(project, tmp_path):
    prepared = prepared_by("amnesiac", project, tmp_path)
    before, initial = weights_of(prepared.model), prepared.trainer.initial().model
    updates = {int(each.stem): load_file(each) for each in tmp_path.iterdir()}
    assert prepared.disk_bytes == sum(each.stat().st_size for each in tmp_path.iterdir())
    for name, weight in before.items():  # all of them together are what training did
        total = initial[name] + sum(each[name] for each in updates.values())
        torch.testing.assert_close(weight, total, rtol=1e-4, atol=1e-5)
    layout, nobody = prepared.trainer.layout, np.empty(0, dtype=np.int64)
    batches = [
        records
        for block in range(1, layout.blocks + 1)
        for _, records in layout.batches(block, nobody)
    ]
    assert len(batches) == len(updates)
    touched = [at for at, records in enumerate(batches) if 3 in records]
    assert len(touched) == 12  # one step in each epoch
    cost = finish(prepared.forget(np.array([3])))
    assert (cost.steps, cost.records, cost.share) == (0, 0, 0)
    for name, weight in weights_of(prepared.model).items():
        expected = before[name]
        for at in touched:
            expected = expected - updates[at][name]
        assert torch.equal(weight, expected)
    left = {int(each.stem) for each in tmp_path.iterdir()}
    assert left == set(updates) - set(touched)  # what they did is kept no longer
    finish(prepared.forget(np.array([4])))
    assert {int(each.stem) for each in tmp_path.iterdir()} < left


def test_npo_is_its_formula_and_levels_off(tmp_path):
    npo, torch_batch = NPO(beta=0.7), texts().data.tensors
    batch = [each[:4] for each in torch_batch]
    torch.manual_seed(0)
    model, original = Bigrams().double(), Bigrams().double()

    def texts_losses(module):
        logs = module(batch[0]).log_softmax(-1)
        chosen = logs.gather(2, batch[1].clamp(min=0)[..., None])[..., 0]
        return -(chosen * (batch[1] >= 0)).sum(1)

    torch.testing.assert_close(text_losses(model, batch).double(), texts_losses(model))
    probability, before = (torch.exp(-texts_losses(each)) for each in (model, original))
    formula = (2 / 0.7) * torch.log(1 + (probability / before.detach()) ** 0.7).mean()
    told = npo.loss(batch, model, original)
    torch.testing.assert_close(told.double(), formula)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(told, parameters)
    by_hand = torch.autograd.grad(formula, parameters)
    torch.testing.assert_close(gradients, by_hand)
    # at the original it is ascent; where a text is forgotten it vanishes, as ascent does not
    ascent = torch.autograd.grad(-texts_losses(model).mean(), parameters)
    start = torch.autograd.grad(npo.loss(batch, model, model), parameters)
    torch.testing.assert_close(start, ascent)
    sure = Bigrams().double()
    sure.load_state_dict(model.state_dict())
    with torch.no_grad():
        sure.head.bias[batch[1][batch[1] >= 0].unique()] -= 40.0
        sure.head.bias[0] += 60.0  # what is left of their probability
    ends = [
        sum(float(each.norm()) for each in torch.autograd.grad(loss, list(sure.parameters())))
        for loss in (npo.loss(batch, sure, model), -texts_losses(sure).mean())
    ]
    assert ends[0] < 1e-6
    assert ends[1] > 1


class Named(Bigrams):
    """Called as models of Transformers are, whose outputs have names."""

    def forward(self, input_ids, labels):
        logits = super().forward(input_ids)
        loss = next_token(logits[:, :-1], labels[:, 1:])
        return SimpleNamespace(logits=logits, loss=loss)


class NamedTexts(torch.utils.data.Dataset):
    def __init__(self, inputs, targets):
        self.tokens = torch.cat([inputs, targets[:, -1:]], dim=1)
        self.labels = torch.cat([inputs[:, :1], targets], dim=1)

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, record):
        return {"input_ids": self.tokens[record], "labels": self.labels[record]}


def loss_of_named(model, batch):
    return model(**batch).loss


def test_npo_is_the_same_where_outputs_have_names(tmp_path):
    pairs = texts()
    recipe = replace(pairs.recipe, model=Named, loss=None, step=loss_of_named)
    named = replace(pairs, recipe=recipe, data=NamedTexts(*pairs.data.tensors))
    weights = []
    for project in (pairs, named):
        prepared = prepared_by("npo:epochs=2,lr=0.5", project, tmp_path)
        finish(prepared.forget(np.arange(5)))
        weights.append(weights_of(prepared.model))
    torch.testing.assert_close(*weights)


def test_texts_of_our_own_language_model_are_read_as_it_is_trained_on_them():
    torch.manual_seed(0)
    model, tokens = CausalLM(length=8, width=16), torch.randint(256, (3, 8))
    labels = tokens.clone()
    labels[:, :3] = IGNORED
    batch = {"tokens": tokens, "labels": labels}
    losses = text_losses(model, batch)
    assert losses.shape == (3,)
    assert torch.isclose(losses.sum() / (3 * 5), next_token_loss(model, batch))


def test_npo_forgets_texts(tmp_path):
    project = texts()
    prepared = prepared_by("npo:lr=0.5", project, tmp_path)
    sets = [[each[at] for each in project.data.tensors] for at in (slice(5), slice(5, 60))]
    with torch.no_grad():
        before = [float(text_losses(prepared.model, each).mean()) for each in sets]
        finish(prepared.forget(np.arange(5)))
        after = [float(text_losses(prepared.model, each).mean()) for each in sets]
    assert after[0] > before[0] + 1
    assert after[0] - before[0] > 3 * (after[1] - before[1])


# What a project may be


def test_what_diverges_is_said_and_changes_nothing(tmp_path):
    prepared = prepared_by("neggrad:lr=1e6,epochs=1,alpha=0.1", project_of(epochs=1), tmp_path)
    before = digest(captured(prepared.model.state_dict()))
    with pytest.raises(Diverged, match="the baseline neggrad diverged: after"):
        finish(prepared.forget(FORGOTTEN))
    assert digest(captured(prepared.model.state_dict())) == before
    assert not prepared.model.training
    assert not len(prepared.gone)


def two_steps(model, batch, optimizers):
    inputs, targets = batch
    loss = nn.functional.cross_entropy(model(inputs), targets)
    optimizers[0].zero_grad()
    loss.backward()
    optimizers[0].step()
    return loss


@pytest.mark.parametrize(
    ("unlearner", "changes", "missing"),
    [
        ("finetune", {"loss": None, "step": two_steps}, "a step that makes its own steps"),
        ("amnesiac:epochs=1", {"loss": None, "step": two_steps}, "a step that makes its own steps"),
        ("amnesiac", {"ema": 0.9}, "averages of them"),
        ("npo", {}, "needs a language model: outputs of shape"),
    ],
)
def test_what_a_project_lacks_is_named(unlearner, changes, missing, tmp_path):
    with pytest.raises(Unsupported, match=missing):
        prepared_by(unlearner, project_of(**changes), tmp_path)


def test_what_other_kinds_of_projects_lack_is_named(tmp_path, data):
    for unlearner in ("random_labels", "scrub"):
        with pytest.raises(Unsupported, match=f"{unlearner} needs classification"):
            prepared_by(unlearner, texts(), tmp_path)
    linear = ob.Project(recipe=LinearRecipe(batch_size=4), data=data, blocks=2)
    with pytest.raises(Unsupported, match="a loss with a gradient, which the trainer"):
        prepared_by("finetune", linear, tmp_path)
    with pytest.raises(Unsupported, match="single steps"):
        prepared_by("amnesiac", linear, tmp_path)
    assert prepared_by("retrain", linear, tmp_path).cost.share == 1
    alone = project_of(epochs=1, loss=None, step=two_steps)
    assert prepared_by("amnesiac", alone, tmp_path).disk_bytes  # it makes no step of its own
    smoothed = partial(nn.functional.cross_entropy, label_smoothing=0.5)
    recipe = replace(texts().recipe, loss=lambda a, b: smoothed(a.flatten(0, 1), b.flatten()))
    with pytest.raises(Unsupported, match="a loss that is the mean cross entropy"):
        prepared_by("npo", replace(texts(), recipe=recipe), tmp_path)
    with pytest.raises(Unsupported, match="test records"):
        prepared_by("scrub:rewind=true", replace(project_of(), test=None), tmp_path)


def by_step(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"microbatches": 3},
        {"microbatches": 3, "weigh": lambda batch: len(batch[1])},
        {"loss": None, "step": by_step},
        {"collate": torch.utils.data.default_collate},
    ],
)
def test_the_same_recipe_in_other_words_tunes_alike(changes, tmp_path):
    said, other = (
        prepared_by("neggrad:epochs=1,lr=0.05", each, tmp_path)
        for each in (project_of(epochs=1), project_of(epochs=1, **changes))
    )
    for prepared in (said, other):
        finish(prepared.forget(FORGOTTEN))
    for name, weight in weights_of(said.model).items():
        torch.testing.assert_close(weights_of(other.model)[name], weight, rtol=1e-3, atol=1e-4)


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"ema": 0.9, "clip_norm": 1.0},
        {"model": batch_norm},
        {"optimizer_state": "fresh", "optimizer": torch.optim.Adam},
    ],
)
def test_a_single_person_is_forgotten_whatever_the_recipe(changes, tmp_path):
    project = project_of(epochs=2, **changes)
    for unlearner in ("neggrad:epochs=1,lr=0.01", "scrub:epochs=2,lr=0.01"):
        prepared = prepared_by(unlearner, project, tmp_path)
        cost = finish(prepared.forget(np.array([3])))
        assert cost.steps
        assert measured(prepared, project, RETAINED)[1] > 0.3


@pytest.mark.parametrize(
    "text",
    ["finetune:epochs=0", "neggrad:alpha=0", "npo:beta=-1", "salun:share=2", "scrub:rewind=3"],
)
def test_options_that_cannot_be_are_refused(text):
    with pytest.raises(InvalidOption):
        unlearner_of(text)
