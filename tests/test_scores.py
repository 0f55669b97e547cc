"""Scoring: how well a state remembers records, for every kind of loss."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from obliviate.errors import InvalidRecipe, TrainingFailed
from obliviate.methods.sample import CONTROLS, Sample, control_ids, merged
from obliviate.methods.scorer import Scorer
from obliviate.methods.scores import margins
from obliviate.run.make import new_trainer
from obliviate.states.update import captured, digest

RECORDS, BLOCKS = 40, 4
SGD = partial(torch.optim.SGD, lr=0.1)


def seeded(shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scorer_of(model, targets, inputs=None, erased=3, data=None, **options):
    """A scorer of the first records of block 2, its state and its model."""
    inputs = seeded((RECORDS, 4)) if inputs is None else inputs
    recipe = ob.Recipe(model=model, optimizer=SGD, batch_size=4, seed=3, **options)
    data = TensorDataset(inputs, targets) if data is None else data
    trainer = new_trainer(recipe, data, RECORDS, BLOCKS)
    state = trainer.initial().model
    ids = np.sort(trainer.layout.members(2)[:erased])
    twin = model()
    twin.load_state_dict(state)
    return Scorer(trainer, state, ids, ids), state, twin.eval(), inputs, targets


CLASSES = torch.arange(RECORDS) % 3


def test_classifiers_are_scored_by_their_margins():
    scorer, state, model, inputs, targets = scorer_of(
        partial(nn.Linear, 4, 3), CLASSES, loss=nn.functional.cross_entropy
    )
    assert scorer.kind == "margin"
    erased, controls = scorer.scores(state)
    for sample, scores in ((scorer.erased, erased), (scorer.controls, controls)):
        logits = model(inputs[sample.ids]).detach().double()
        for row, record, score in zip(logits, sample.ids, scores, strict=True):
            others = [row[at] for at in range(3) if at != targets[record]]
            expected = row[targets[record]] - torch.stack(others).logsumexp(0)
            assert score == pytest.approx(float(expected), abs=1e-6)
    assert scorer.erased_mean(state) == pytest.approx(erased.mean())


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])),
        partial(nn.functional.cross_entropy, label_smoothing=0.1),
        lambda *pair: 1.0 * nn.functional.cross_entropy(*pair),
    ],
    ids=["weighted", "smoothed", "wrapped"],
)
def test_cross_entropy_is_known_in_any_dress(loss):
    scorer, *_ = scorer_of(partial(nn.Linear, 4, 3), CLASSES, loss=loss)
    assert scorer.kind == "margin"


def test_another_loss_on_classes_is_taken_as_it_is():
    scorer, state, model, inputs, targets = scorer_of(
        partial(nn.Linear, 4, 3), CLASSES, loss=nn.functional.multi_margin_loss
    )
    assert scorer.kind == "loss"
    ids = scorer.erased.ids
    loss = nn.functional.multi_margin_loss(model(inputs[ids]), targets[ids], reduction="none")
    assert scorer.scores(state)[0] == pytest.approx((-loss).tolist(), abs=1e-6)


def test_regression_is_scored_by_its_loss():
    targets = seeded((RECORDS, 1), 2)
    scorer, state, model, inputs, _ = scorer_of(
        partial(nn.Linear, 4, 1), targets, loss=nn.functional.mse_loss
    )
    assert scorer.kind == "loss"
    ids = scorer.erased.ids
    expected = -((model(inputs[ids]) - targets[ids]) ** 2).detach().reshape(-1)
    assert scorer.scores(state)[0] == pytest.approx(expected.tolist(), abs=1e-6)


class Tokens(nn.Module):
    """Predicts a token at every place."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 5), nn.Linear(5, 7)

    def forward(self, tokens):
        return self.head(self.embed(tokens))


def test_tokens_are_scored_by_the_mean_over_a_record():
    tokens = torch.randint(7, (RECORDS, 6), generator=torch.Generator().manual_seed(1))
    scorer, state, model, _, _ = scorer_of(
        Tokens,
        tokens.roll(-1, 1),
        inputs=tokens,
        loss=lambda z, y: nn.functional.cross_entropy(z.transpose(1, 2), y),
    )
    assert scorer.kind == "loss"
    ids = scorer.erased.ids
    expected = nn.functional.cross_entropy(
        model(tokens[ids]).transpose(1, 2), tokens.roll(-1, 1)[ids], reduction="none"
    ).mean(dim=1)
    assert scorer.scores(state)[0] == pytest.approx((-expected).tolist(), abs=1e-6)


class Transposed(Tokens):
    """With the classes where cross-entropy looks for them."""

    def forward(self, tokens):
        return super().forward(tokens).transpose(1, 2)


def test_ignored_tokens_are_no_hindrance():
    """They give records different weights in a batch's mean, but each has a loss of its own."""
    tokens = torch.randint(7, (RECORDS, 6), generator=torch.Generator().manual_seed(1))
    targets = tokens.roll(-1, 1).where(torch.arange(6) < 1 + tokens[:, :1] % 5, -100)
    scorer, state, model, _, _ = scorer_of(
        Transposed, targets, inputs=tokens, loss=nn.functional.cross_entropy
    )
    record = int(scorer.erased.ids[0])
    kept = targets[record] >= 0
    logits = model(tokens[record : record + 1]).detach()[0].T[kept]
    expected = nn.functional.cross_entropy(logits, targets[record][kept])
    assert scorer.scores(state)[0][0] == pytest.approx(-float(expected), abs=1e-6)


def test_a_step_is_scored_on_one_record_at_a_time():
    sizes = []

    def step(model, batch):
        sizes.append(len(batch[0]))
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    targets = seeded((RECORDS, 1), 2)
    scorer, state, model, inputs, _ = scorer_of(partial(nn.Linear, 4, 1), targets, step=step)
    assert scorer.kind == "single"
    sizes.clear()
    ids = scorer.erased.ids
    expected = -((model(inputs[ids]) - targets[ids]) ** 2).detach().reshape(-1)
    assert scorer.scores(state)[0] == pytest.approx(expected.tolist(), abs=1e-6)
    assert set(sizes) == {1}


def contrastive(outputs, _targets):
    """Every record against all others of the batch."""
    alike = outputs @ outputs.T
    return nn.functional.cross_entropy(alike, torch.arange(len(outputs)))


def own_score(model, batch):
    return model(batch[0]).norm(dim=1)


def test_a_loss_over_the_batch_is_refused_with_a_remedy():
    options = {"model": partial(nn.Linear, 4, 3), "targets": CLASSES, "loss": contrastive}
    with pytest.raises(InvalidRecipe, match="no form for single records") as caught:
        scorer_of(**options)
    assert "score=" in caught.value.hint
    scorer, state, model, inputs, _ = scorer_of(**options, score=own_score)
    assert scorer.kind == "score"
    expected = model(inputs[scorer.erased.ids]).norm(dim=1).tolist()
    assert scorer.scores(state)[0] == pytest.approx(expected, abs=1e-6)


def test_a_loss_that_needs_company_is_refused_with_a_remedy():
    def loss(outputs, _targets):
        assert len(outputs) > 1, "alone"
        return outputs.var()

    with pytest.raises(InvalidRecipe, match="cannot be taken of a single record"):
        scorer_of(partial(nn.Linear, 4, 3), CLASSES, loss=loss)


def test_a_score_of_a_wrong_shape_is_refused():
    with pytest.raises(InvalidRecipe, match=r"score gave shape \[\]"):
        scorer_of(
            partial(nn.Linear, 4, 3), CLASSES, loss=contrastive, score=lambda m, b: m(b[0]).sum()
        )


def test_scoring_draws_no_randomness_and_leaves_the_live_model_alone():
    def noisy():
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 3))

    recipe = ob.Recipe(
        model=noisy, optimizer=SGD, loss=nn.functional.cross_entropy, batch_size=4, seed=3
    )
    trainer = new_trainer(recipe, TensorDataset(seeded((RECORDS, 4)), CLASSES), RECORDS, BLOCKS)
    state, live = trainer.initial().model, captured(trainer.model.state_dict())
    ids = np.sort(trainer.layout.members(2)[:3])
    before = torch.get_rng_state()
    scorer = Scorer(trainer, state, ids, ids)
    first, second = scorer.scores(state), scorer.scores(state)
    assert [a.tolist() for a in first] == [a.tolist() for a in second]
    assert torch.equal(torch.get_rng_state(), before)
    assert digest(trainer.model.state_dict()) == digest(live)


# Which records


class Gone(Dataset):
    """A dataset that raises for some records."""

    def __init__(self, gone=()):
        self.gone, self.read = set(gone), []

    def __len__(self):
        return RECORDS

    def __getitem__(self, index):
        if index in self.gone:
            raise KeyError(f"record {index} is gone")
        self.read.append(index)
        return seeded((RECORDS, 4))[index], CLASSES[index]


def scorer_without(count, controls=()):
    data = Gone()
    options = {"model": partial(nn.Linear, 4, 3), "targets": CLASSES, "data": data}
    options["loss"] = nn.functional.cross_entropy
    whole, state, *_ = scorer_of(**options)
    data.gone = {*whole.erased.ids[:count].tolist(), *whole.controls.ids[list(controls)].tolist()}
    return scorer_of(**options)[0], whole, state


@pytest.mark.parametrize("count", [1, 3])
def test_erased_records_that_are_gone_are_left_out(count):
    scorer, whole, state = scorer_without(count)
    assert scorer.missing == count
    assert scorer.erased.ids.tolist() == whole.erased.ids[count:].tolist()
    erased, controls = scorer.scores(state)
    assert erased == pytest.approx(whole.scores(state)[0][count:])
    assert controls == pytest.approx(whole.scores(state)[1])


def test_a_control_that_is_gone_is_an_error():
    with pytest.raises(TrainingFailed, match="is gone"):
        scorer_without(0, controls=[0])


def test_every_record_is_read_once():
    data = Gone()
    scorer, state, *_ = scorer_of(
        partial(nn.Linear, 4, 3), CLASSES, data=data, loss=nn.functional.cross_entropy
    )
    scorer.scores(state)
    assert (
        len(data.read) == len(set(data.read)) == len(scorer.erased.ids) + len(scorer.controls.ids)
    )


def test_a_record_without_a_finite_score_is_left_out():
    inputs = seeded((RECORDS, 4))
    scorer, *_ = scorer_of(
        partial(nn.Linear, 4, 3), CLASSES, inputs=inputs, loss=nn.functional.cross_entropy
    )
    inputs[scorer.erased.ids[0]] = float("nan")
    again, *_ = scorer_of(
        partial(nn.Linear, 4, 3), CLASSES, inputs=inputs, loss=nn.functional.cross_entropy
    )
    assert again.missing == 1
    assert again.erased.ids.tolist() == scorer.erased.ids[1:].tolist()


def layout(records=400, blocks=10):
    recipe = ob.Recipe(
        model=partial(nn.Linear, 4, 3), optimizer=SGD, loss=nn.functional.cross_entropy
    )
    data = TensorDataset(torch.zeros(records, 4), torch.zeros(records, dtype=torch.int64))
    return new_trainer(recipe, data, records, blocks).layout


def test_controls_are_retained_records_of_the_same_blocks():
    place = layout()
    erased = np.sort(np.concatenate([place.members(3)[:2], place.members(7)[:2]]))
    gone = np.union1d(erased, place.members(3)[2:6])
    found = control_ids(place, 0, erased, gone)
    assert len(found) == CONTROLS
    assert not np.intersect1d(found, gone).size
    assert set(place.places(found).earliest.tolist()) == {3, 7}


def test_controls_come_from_the_nearest_blocks_where_few_are_left():
    place = layout()
    erased = np.sort(place.members(5)[:-3])
    found = control_ids(place, 0, erased, erased)
    assert len(found) == len(erased)
    blocks = place.places(found).earliest
    assert (blocks == 5).sum() == 3
    assert set(blocks.tolist()) == {4, 5, 6}


def test_margins_are_log_odds():
    probabilities = torch.tensor([[0.7, 0.2, 0.1]])
    found = margins(probabilities.log(), torch.tensor([0]))
    assert float(found) == pytest.approx(np.log(0.7 / 0.3))


def test_nothing_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer_of(partial(nn.Linear, 4, 3), CLASSES, loss=nn.functional.cross_entropy)


# In one pass


def sample_of(*batches):
    sizes = tuple(len(batch[0]) for batch in batches)
    return Sample(ids=np.arange(sum(sizes)), batches=batches, sizes=sizes)


def test_batches_of_tensors_become_one():
    parts = [(seeded((count, 4)), torch.arange(count)) for count in (3, 2)]
    whole = merged(sample_of(*parts), at_once=5)
    assert whole.sizes == (5,)
    ((inputs, targets),) = whole.batches
    assert torch.equal(inputs, torch.cat([parts[0][0], parts[1][0]]))
    assert targets.tolist() == [0, 1, 2, 0, 1]
    assert whole.ids.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("batches", "at_once"),
    [
        ([(seeded((3, 4)), torch.arange(3)), (seeded((2, 4)), torch.arange(2))], 4),
        ([(seeded((3, 4)), torch.arange(3)), (seeded((2, 5)), torch.arange(2))], 9),
        ([(["a", "b"], torch.arange(2)), (["c"], torch.arange(1))], 9),
        ([], 9),
    ],
    ids=["too many", "other lengths", "no tensors", "nothing"],
)
def test_what_does_not_fit_together_stays_apart(batches, at_once):
    sample = sample_of(*batches)
    assert merged(sample, at_once) is sample


def test_scores_do_not_depend_on_who_is_scored_beside_them():
    scorer, state, *_ = scorer_of(partial(nn.Linear, 4, 3), CLASSES, loss=nn.CrossEntropyLoss())
    together, controls = scorer.scores(state)
    assert together.mean() == pytest.approx(scorer.erased_mean(state), abs=1e-9)
    assert (len(together), len(controls)) == (len(scorer.erased.ids), len(scorer.controls.ids))
