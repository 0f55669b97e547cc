"""SISA: placement and its costs, votes, and forgetting that is training without, bit for bit."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

import obliviate as ob
from obliviate import errors
from obliviate.events import finish
from obliviate.lab.baselines.registry import unlearner_of
from obliviate.lab.baselines.shard import Shard
from obliviate.lab.baselines.sharding import (
    Placement,
    records_trained,
    retrained_share,
    slice_epochs,
)
from obliviate.lab.baselines.sisa import Sisa
from obliviate.lab.baselines.voting import log_shares
from obliviate.states.update import digest
from obliviate.testing import UnlearnerContract
from obliviate.training.determinism import environment_facts
from tests.models import Guarded, images, recipe

NOBODY = np.empty(0, dtype=np.int64)
RECORDS, EPOCHS, SHARDS, SLICES = 54, 2, 3, 3  # six records a slice, one epoch a step
SISA = Sisa(shards=SHARDS, slices=SLICES)
DATA = images(RECORDS)


class TestSisa(UnlearnerContract):
    unlearner = Sisa(shards=3, slices=2, aggregate="mean")


def made(model="mlp", **options):
    usual = {"repeats": 1, "epochs": EPOCHS, "batch_size": 8}
    return recipe(model, "momentum-carried", "cosine", **usual | options)


def prepared(folder, data=DATA, sisa=SISA, model="mlp", **options):
    folder.mkdir(exist_ok=True)
    project = ob.Project(recipe=made(model), data=data, **options)
    return finish(sisa.prepare(project, folder))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder that was prepared."""
    folder = tmp_path_factory.mktemp("sisa") / "trained"
    prepared(folder).close()
    return folder


@pytest.fixture
def place(trained, tmp_path):
    """A copy of it."""
    return shutil.copytree(trained, tmp_path / "copy")


def forget(ensemble, *records):
    return finish(ensemble.forget(np.array(records)))


def slices_of(ensemble):
    return ensemble._placement.slices


def shards_of(ensemble):
    """The digest of each shard's model."""
    return {number: digest(each.state_dict()) for number, each in ensemble.serving.items()}


def shards_without(ensemble, erased):
    """The same of shards that were trained without some records from their beginnings."""
    found, erased = {}, np.unique(erased)
    for number, shard in enumerate(ensemble._shards):
        if not shard.is_empty(erased):
            *_, last = shard.training(None, 1, erased)
            found[number] = digest(shard.model(last.checkpoint).state_dict())
    return found


# Placement


def test_shards_and_slices_are_as_large_as_each_other_and_hold_everybody_once():
    placement = Placement.of(np.arange(120), shards=5, slices=4, seed=1)
    assert [[len(ids) for ids in its] for its in placement.slices] == [[6] * 4] * 5
    everybody = np.concatenate([ids for its in placement.slices for ids in its])
    assert sorted(everybody.tolist()) == list(range(120))
    assert placement.earliest(np.array([placement.slices[3][2][0], placement.slices[3][1][5]])) == {
        3: 2
    }


def test_nobody_is_split_and_no_slice_is_empty():
    groups = np.array([0] * 50 + list(range(50, 70)))  # one person has most of the records
    placement = Placement.of(groups, shards=4, slices=3, seed=1)
    assert all(len(ids) for its in placement.slices for ids in its)
    assert len(placement.earliest(np.arange(50))) == 1
    assert all(len(its) <= 3 for its in placement.slices)
    assert [len(its) for its in placement.slices if len(its[0]) == 50] == [1]  # one person alone


def test_fewer_people_than_shards_are_refused():
    with pytest.raises(errors.InvalidOption, match="only 10 people"):
        Placement.of(np.arange(50) // 5, shards=11, slices=1, seed=1)


def test_those_who_ask_often_are_in_few_shards_and_in_late_slices():
    rates = np.where(np.arange(400) % 4 == 0, 0.3, 0.01)
    placement = Placement.of(np.arange(400), shards=4, slices=5, seed=1, rates=rates)
    expected = [sum(rates[ids].sum() for ids in its) for its in placement.slices]
    assert max(expected) - min(expected) < 2 * rates.max()
    sizes = [sum(map(len, its)) for its in placement.slices]
    assert sizes[0] > 300
    assert sizes[-1] < 40
    for its in placement.slices:
        means = [rates[ids].mean() for ids in its]
        assert means == pytest.approx(sorted(means))


def test_the_epochs_of_the_steps_make_up_the_whole_budget():
    assert slice_epochs(5, 4) == (2, 2, 2, 2)
    assert slice_epochs(10, 4) == (4, 4, 4, 4)
    assert slice_epochs(20, 10) == (3, 4, 3, 4, 4, 3, 4, 4, 3, 4)
    assert slice_epochs(7, 1) == (7,)
    with pytest.raises(errors.InvalidOption, match="too few"):
        slice_epochs(2, 4)


@pytest.mark.parametrize(("shards", "slices"), [(1, 1), (20, 1), (4, 4), (5, 9)])
def test_the_expected_cost_is_the_published_one(shards, slices):
    epochs = slice_epochs(slices + 1, slices)  # two for each step
    sizes = [6] * slices
    trained = [records_trained(sizes, epochs, first) for first in range(1, slices + 1)]
    whole = shards * 6 * slices * (slices + 1)
    assert records_trained(sizes, epochs) * shards == whole
    assert np.mean(trained) / whole == pytest.approx(retrained_share(shards, slices))


# Votes


def test_votes_are_counted_and_probabilities_averaged():
    logits = torch.tensor([[[2.0, 1.0, 0.0]], [[0.0, 0.1, 0.0]], [[0.0, 0.1, 0.0]]])
    votes = log_shares(logits, "vote").softmax(1)
    assert votes.tolist() == [[pytest.approx(1 / 3), pytest.approx(2 / 3), pytest.approx(0)]]
    mean = log_shares(logits, "mean")
    assert torch.allclose(mean.exp(), logits.softmax(2).mean(0))
    assert mean.argmax(1).item() == 0  # whom one model is sure of, beside two that are not


def test_between_equal_votes_the_first_class_wins():
    logits = torch.tensor([[[0.0, 0.0, 9.0]], [[0.0, 9.0, 0.0]]])
    assert log_shares(logits, "vote").argmax(1).item() == 1


def test_what_is_no_classifier_is_refused():
    with pytest.raises(errors.InvalidRecipe, match="no voting"):
        log_shares([torch.zeros(3)], "vote")


# Forgetting


def test_a_shard_is_trained_as_an_extended_run_is(tmp_path):
    placement = Placement.of(np.arange(RECORDS), shards=SHARDS, slices=SLICES, seed=3)
    slices, epochs = placement.slices[1], (1, 2, 1)
    erased = np.sort([slices[0][3], slices[1][0], slices[2][5]])
    shard = Shard(
        recipe=made("dropout-cnn"),
        data=DATA,
        slices=slices,
        people=None,
        epochs=epochs,
        environment=environment_facts("cpu", 0),
    )
    *_, last = shard.training(None, 1, erased)
    places = np.flatnonzero(np.isin(shard.members, erased)).tolist()
    first, *others = [Subset(DATA, ids.tolist()) for ids in slices]
    with ob.fit(
        made("dropout-cnn", epochs=1), first, tmp_path / "run", blocks=1, exclude=places[:1]
    ) as run:
        for part, count, gone in zip(others, epochs[1:], places[1:], strict=True):
            run.extend(part, blocks=1, epochs=count, over="all", exclude=[gone])
        assert run.digest == digest(last.checkpoint.model)


@pytest.mark.parametrize(
    "model",
    [
        "mlp",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ("batch-norm-cnn", "dropout-cnn", "transformer")
        ),
    ],
)
@pytest.mark.parametrize("each", [1, 2])
def test_twenty_requests_leave_what_training_without_them_gives(tmp_path, model, each):
    whose = [f"person-{record // each}" for record in range(RECORDS)]
    ensemble = prepared(tmp_path / "a", model=model, subjects=whose)
    erased = []
    for person in np.random.default_rng(5).permutation(RECORDS // each)[:20]:
        theirs = range(person * each, (person + 1) * each)
        before = shards_of(ensemble)
        forget(ensemble, *theirs)
        after = shards_of(ensemble)
        assert sum(before[number] != after.get(number) for number in before) == 1
        erased += theirs
    assert shards_of(ensemble) == shards_without(ensemble, erased)


def test_a_request_costs_what_the_affected_slices_cost(place):
    read = []

    class Counted(Guarded):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    ensemble = prepared(place, Counted(DATA))
    for gone, number in enumerate([3, 2, 1], start=1):
        read.clear()
        record = slices_of(ensemble)[1][number - 1][0]
        cost = forget(ensemble, record)
        # an epoch of each step from the slice's on, less those who are gone
        sizes = np.array([6, 6, 6]) - [gone > 2, gone > 1, 1]
        assert cost.records == len(read) == np.cumsum(sizes)[number - 1 :].sum()
        assert cost.share == cost.records / ((RECORDS - gone) * EPOCHS)
        assert cost.steps == sum([1, 2, 3][number - 1 :])
    read.clear()
    assert forget(ensemble, record).records == len(read) == 0


def test_training_costs_what_a_whole_training_costs(tmp_path):
    cost = prepared(tmp_path / "a").cost
    assert (cost.records, cost.share) == (RECORDS * EPOCHS, 1.0)


def test_what_is_forgotten_at_once_is_trained_once(place):
    ensemble = prepared(place)
    one, _, other = slices_of(ensemble)
    asked = [one[2][0], one[1][1], one[1][2], other[2][1]]
    assert forget(ensemble, *asked).records == (12 - 2) + (18 - 3) + (18 - 1)
    assert shards_of(ensemble) == shards_without(ensemble, asked)


def test_a_shard_of_which_nobody_is_left_has_no_vote(place):
    ensemble = prepared(place)
    one, two, _ = (np.concatenate(its) for its in slices_of(ensemble))
    forget(ensemble, *two[:-1])
    assert ensemble.models == 3
    assert forget(ensemble, two[-1]).records == 0
    assert ensemble.models == 2
    assert ensemble.predict(DATA.tensors[0]).shape == (RECORDS, 4)
    ensemble.close()
    again = prepared(place)
    assert (again.models, again.cost.records) == (2, 0)
    with pytest.raises(errors.NothingLeft):
        forget(again, *range(RECORDS))
    forget(again, *one)
    assert again.model is not None


def test_models_are_asked_together(place):
    inputs = images(20, seed=4).tensors[0]
    for aggregate in ("vote", "mean"):
        ensemble = prepared(place, sisa=replace(SISA, aggregate=aggregate))
        outputs = torch.stack([model(inputs) for model in ensemble.serving.values()])
        assert torch.equal(ensemble.predict(inputs), log_shares(outputs.detach(), aggregate))
        ensemble.close()


def test_no_record_is_read_after_it_was_forgotten(place):
    data = Guarded(DATA)
    ensemble = prepared(place, data)
    gone = [*slices_of(ensemble)[0][1][:2].tolist(), int(slices_of(ensemble)[2][0][0])]
    forget(ensemble, *gone)
    data.forbidden = set(gone)
    forget(ensemble, slices_of(ensemble)[0][0][0])
    ensemble.close()
    again = prepared(place, data)
    assert set(gone) < set(again.erased.tolist())
    forget(again, slices_of(again)[2][0][1])


def test_what_was_trained_on_them_is_destroyed(place):
    ensemble = prepared(place)
    before = {path.name for path in (place / "objects").iterdir()}
    forget(ensemble, *(its[0][0] for its in slices_of(ensemble)))
    assert before.isdisjoint(path.name for path in (place / "objects").iterdir())


# Whatever happens on the way


def test_wherever_it_is_killed_it_goes_on_when_it_is_prepared_again(place, tmp_path):
    ensemble, copies = prepared(place), []
    slices = slices_of(ensemble)
    first, asked = slices[0][1][0], [slices[0][1][1], slices[2][1][0]]
    forget(ensemble, first)
    for event in ensemble.forget(np.array(asked)):
        if event.done in (1, 2, 3):  # of four epochs
            copies.append(tmp_path / f"copy-{len(copies)}")
            shutil.copytree(place, copies[-1])
    assert len(copies) == 3
    for copy in copies:
        again = prepared(copy)
        assert shards_of(again) == shards_of(ensemble)
        assert again.erased.tolist() == sorted([first, *asked])
        assert again.disk_bytes == ensemble.disk_bytes
        again.close()


def test_a_training_that_was_killed_goes_on(trained, tmp_path):
    (tmp_path / "a").mkdir()
    for event in SISA.prepare(ob.Project(recipe=made(), data=DATA), tmp_path / "a"):
        if event.done == 5:
            shutil.copytree(tmp_path / "a", tmp_path / "b")
            break
    again = prepared(tmp_path / "b")
    assert shards_of(again) == shards_without(again, [])
    assert 0 < again.cost.share < 1


def test_a_request_that_fails_leaves_everything_as_it_was(place):
    data = Guarded(DATA)
    ensemble = prepared(place, data)
    before, size = shards_of(ensemble), ensemble.disk_bytes
    gone, other = slices_of(ensemble)[1][1][:2]
    data.forbidden = {int(other)}  # cannot be read just now
    with pytest.raises(errors.TrainingFailed):
        forget(ensemble, slices_of(ensemble)[0][0][0], gone)
    assert (shards_of(ensemble), ensemble.disk_bytes) == (before, size)
    assert not len(ensemble.erased)
    data.forbidden = set()
    forget(ensemble, gone)
    assert shards_of(ensemble) == shards_without(ensemble, [gone])


def test_a_folder_is_prepared_by_one_alone_and_with_the_same(place):
    ensemble = prepared(place)
    with pytest.raises(errors.RunLocked):
        prepared(place)
    ensemble.close()
    for other in (replace(SISA, epochs=3), replace(SISA, shards=2)):
        with pytest.raises(errors.InvalidOption, match="prepared otherwise"):
            prepared(place, sisa=other)


def test_a_damaged_folder_is_refused(place):
    path = next((place / "objects").iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    (place / "checkpoints.json").write_text((place / "checkpoints.json").read_text()[:-1])
    with pytest.raises(errors.RunDamaged, match="no list of checkpoints"):
        prepared(place)


def test_a_damaged_checkpoint_is_refused(place):
    for path in (place / "objects").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(errors.RunDamaged, match="not what was written"):
        prepared(place)


@pytest.mark.parametrize(
    "options",
    [{"shards": 0}, {"slices": 1.5}, {"aggregate": "most"}, {"rates": [2.0]}, {"rates": [0.0]}],
)
def test_options_are_checked(options):
    with pytest.raises(errors.InvalidOption):
        Sisa(**options)


def test_it_can_be_named_with_a_word():
    assert unlearner_of("sisa:shards=5,aggregate=mean") == Sisa(shards=5, aggregate="mean")
    with pytest.raises(errors.InvalidOption, match="aggregate is 'most'"):
        unlearner_of("sisa:aggregate=most")


def test_rates_have_to_be_as_many_as_records(tmp_path):
    with pytest.raises(errors.InvalidOption, match="2 rates for 54 records"):
        prepared(tmp_path / "a", sisa=Sisa(shards=2, rates=[0.1, 0.2]))
    ensemble = prepared(tmp_path / "b", sisa=Sisa(shards=3, rates=np.arange(RECORDS) / RECORDS))
    sizes = [len(its[0]) for its in slices_of(ensemble)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 2 * sizes[-1]


def test_only_classifiers_can_be_voted_on(tmp_path):
    data = TensorDataset(DATA.tensors[0], torch.rand(RECORDS, 4))
    project = ob.Project(recipe=made(loss=torch.nn.functional.mse_loss), data=data)
    with pytest.raises(errors.Unsupported, match="classification"):
        finish(SISA.prepare(project, tmp_path))
