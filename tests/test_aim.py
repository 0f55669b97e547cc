"""Erasures in chains of epochs end where references say, or go further back until they do."""

import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import obliviate as ob
from obliviate import errors
from obliviate.methods import aim
from obliviate.methods.method import TooShallow
from obliviate.methods.scores import margins
from obliviate.methods.view import _another

CLASSES, WIDTH, COUNT, EPOCHS, BLOCKS = 4, 12, 400, 8, 6
PERSON = range(20)


def blobs(count, seed):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0)) * 1.2
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return centres[labels] + torch.randn(count, WIDTH, generator=generator), labels


def mislabelled():
    """Records of which one person's have wrong labels."""
    inputs, labels = blobs(COUNT, 1)
    labels[list(PERSON)] = (labels[list(PERSON)] + 1) % CLASSES
    return TensorDataset(inputs, labels)


def net():
    return nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def fading(step, total):
    return 1 - step / total


def recipe(**changed):
    options = {
        "model": net,
        "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        "loss": nn.functional.cross_entropy,
        "schedule": fading,
        "batch_size": 10,
        "epochs": EPOCHS,
        "seed": 2,
    }
    return ob.Recipe(**(options | changed))


DATA, REFERENCES = mislabelled(), TensorDataset(*blobs(300, 5))
SUBJECTS = ["her" if each in PERSON else f"p{each // 4}" for each in range(COUNT)]


def fitted(folder, **options):
    made = options.pop("made", recipe())
    options = {"blocks": BLOCKS, "subjects": SUBJECTS, "reference": REFERENCES} | options
    return ob.fit(made, options.pop("data", DATA), folder, **options)


def loaded(folder, **options):
    return ob.load(folder, recipe(), DATA, **({"reference": REFERENCES} | options))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "run"
    fitted(folder).close()
    return folder


@pytest.fixture(scope="module")
def never(tmp_path_factory):
    """The digest and the model of training without her."""
    with fitted(tmp_path_factory.mktemp("never") / "run", exclude=PERSON) as run:
        return run.digest, run.model


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    with loaded(tmp_path / "run") as run:
        yield run


def mean_margin(model):
    inputs, labels = (each[list(PERSON)] for each in DATA.tensors)
    with torch.no_grad():
        return float(margins(model(inputs), labels).mean())


def test_it_ends_at_the_target_and_near_training_without_her(run, never):
    before = mean_margin(run.model)
    erasure = run.forget(subjects=["her"])
    ending, (_, without) = erasure.ending, never
    assert erasure.method == "calibrated"
    assert erasure.guarantee == "approximate"
    assert erasure.blocks_replayed <= aim.STRIDE * EPOCHS
    assert ending.is_met
    assert ending.before == pytest.approx(before, abs=1e-3)
    assert ending.reached == pytest.approx(mean_margin(erasure.model), abs=1e-3)
    assert ending.reached <= ending.high
    assert ending.wrong > 0.5
    exact = mean_margin(without)
    assert abs(ending.reached - exact) < 0.6 * abs(before - exact)
    assert ending.accuracy[1] >= ending.accuracy[0] - 0.02


def test_settling_destroys_what_was_measured_and_is_training_without_her(run, never):
    run.forget(subjects=["her"])
    run.settle()
    assert run.digest == never[0]
    assert all(each.outcome.ending is None for each in run.status().erasures)


def test_a_second_request_is_met_on_what_the_first_has_left(run, tmp_path):
    run.forget(subjects=["her"])
    second = run.forget(subjects=["p20"])
    assert second.ending is not None
    run.settle()
    out = [each for each, who in enumerate(SUBJECTS) if who in ("her", "p20")]
    with fitted(tmp_path / "never", exclude=out) as without:
        assert run.digest == without.digest


def refused(times, faults=("too much is left",)):
    """A judgement that finds faults in the first few results."""
    asked = []

    def judged(*_):
        asked.append(1)
        return list(faults) if len(asked) <= times else []

    return judged


def test_it_goes_further_back_where_the_target_is_not_met(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "run")
    monkeypatch.setattr(aim.UntilMet, "_faults", refused(1))
    with loaded(tmp_path / "run") as run:
        erasure = run.forget(subjects=["her"], method=ob.Calibrated(back=2))
        (facts,) = run.status().erasures
        assert facts.method["back"] == 4
        assert len(erasure.segments) == 4
        assert "too much is left" in erasure.too_shallow[0]
        assert run.verify().passed


def test_it_is_exact_at_last(made, never, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "run")
    monkeypatch.setattr(aim.UntilMet, "_faults", refused(9))
    with loaded(tmp_path / "run") as run:
        erasure = run.forget(subjects=["her"])
        assert erasure.method == "exact"
        assert erasure.guarantee == "exact"
        assert run.digest == never[0]
        assert "too much is left" in erasure.too_shallow[0]
        assert not run.status().erasures[0].outcome.too_shallow
        assert run.verify().passed


def test_it_goes_back_as_far_as_the_part_that_was_trained_on_them_keeps(tmp_path, monkeypatch):
    monkeypatch.setattr(aim.UntilMet, "_faults", refused(1))
    pairs = zip(DATA.tensors, blobs(40, 8), strict=True)
    later = TensorDataset(*(torch.cat(pair) for pair in pairs))
    with fitted(tmp_path / "run", keep=2) as run:
        run.extend(later, epochs=6)
        erasure = run.forget(subjects=["her"], method=ob.Calibrated(back=2))
        assert erasure.method == "exact"
        assert "too much is left" in erasure.too_shallow[0]


def test_it_goes_back_no_further_than_an_earlier_erasure_has_left(run, monkeypatch):
    run.forget(subjects=["p30"], method=ob.Calibrated(back=2, blocks=2))
    monkeypatch.setattr(aim.UntilMet, "_faults", refused(1))
    erasure = run.forget(subjects=["her"], method=ob.Calibrated(back=2))
    assert erasure.method == "exact"
    assert len(erasure.too_shallow) == 1


def test_what_was_replayed_altogether_is_not_replayed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(aim.UntilMet, "_faults", refused(9))
    with fitted(tmp_path / "run", made=recipe(epochs=2), blocks=2) as run:
        digest = run.digest
        erasure = run.forget(records=[*range(100)])
        assert erasure.guarantee == "exact"
        assert erasure.digest != digest
        assert not erasure.too_shallow
        assert not erasure.ending.is_met
        assert run.verify().passed


def test_a_share_that_leaves_no_finite_scores_says_nothing(run, never, monkeypatch):
    unfinished = aim.UntilMet._unfinished

    def diverging(pursuit, rest, share):
        view = unfinished(pursuit, rest, share)
        return replace(view, erased=view.erased * np.nan) if share in (0.5, 2.0) else view

    monkeypatch.setattr(aim.UntilMet, "_unfinished", diverging)
    before = mean_margin(run.model)
    ending, (_, without) = run.forget(subjects=["her"]).ending, never
    exact = mean_margin(without)
    assert abs(ending.reached - exact) < 0.6 * abs(before - exact)


def test_a_fixed_stop_never_goes_further_back(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "run")
    monkeypatch.setattr(aim.UntilMet, "_faults", refused(9))
    with loaded(tmp_path / "run") as run:
        erasure = run.forget(subjects=["her"], method=ob.Calibrated(back=1, blocks=2))
        assert erasure.blocks_replayed == 2
        assert not erasure.ending.is_met
        assert erasure.guarantee == "approximate"


def test_a_call_that_dies_while_it_goes_further_back_goes_on(made, never, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "run")
    monkeypatch.setattr(aim.UntilMet, "_faults", refused(1))

    class Killed(BaseException):
        pass

    def dies(*_, **__):
        raise Killed

    with loaded(tmp_path / "run") as run:
        begin_again = run.ledger.erasures.begin_again
        with monkeypatch.context() as patched:
            patched.setattr(
                run.ledger.erasures,
                "begin_again",
                lambda *given: begin_again(*given) and dies(),
            )
            with pytest.raises(Killed):
                run.forget(subjects=["her"], method=ob.Calibrated(back=2))
    with loaded(tmp_path / "run") as run:
        run.settle()
        assert run.digest == never[0]
        assert run.verify().passed


def test_an_erasure_that_died_waits_where_no_references_are_given(
    made, never, tmp_path, monkeypatch
):
    shutil.copytree(made, tmp_path / "run")

    class Killed(BaseException):
        pass

    def dies(*_):
        raise Killed

    with loaded(tmp_path / "run") as run, monkeypatch.context() as patched:
        patched.setattr(aim.UntilMet, "stitch", dies)
        with pytest.raises(Killed):
            run.forget(subjects=["her"])
    with loaded(tmp_path / "run", reference=None) as run:
        with pytest.raises(errors.InvalidOption, match="none are given"):
            run.forget(subjects=["p30"])
        assert [each.state for each in run.requests()] == ["requested"]
    with loaded(tmp_path / "run") as run:
        assert not run.work(everything=True).failed
        run.settle()
        assert run.digest == never[0]


def test_ordinary_records_stay_near_where_they_were(run):
    before = run.model
    erasure = run.forget(subjects=["p30"])
    inputs, labels = DATA.tensors
    with torch.no_grad():
        hits = [
            float((each(inputs).argmax(1) == labels).float().mean())
            for each in (before, erasure.model)
        ]
    assert abs(hits[0] - hits[1]) < 0.03


def test_a_person_in_the_very_last_block_has_an_ending_too(run):
    last = run.trainer.layout.members(EPOCHS * BLOCKS)
    who = next(SUBJECTS[each] for each in last if SUBJECTS[each] != "her")
    erasure = run.forget(subjects=[who])
    assert erasure.ending is not None or erasure.guarantee == "exact"


def test_a_score_that_tells_nothing_is_refused_before_anything_changes(tmp_path):
    made = recipe(score=lambda model, batch: torch.ones(len(batch[0])))
    with fitted(tmp_path / "run", made=made) as run:
        digest = run.digest
        with pytest.raises(errors.InvalidOption, match="the score is 1 for every reference"):
            run.forget(subjects=["her"])
        assert run.digest == digest
        assert not run.status().erasures


def test_a_reference_of_no_class_is_named_before_anything_changes(tmp_path):
    labels = REFERENCES.tensors[1].clone()
    labels[-1] = CLASSES + 3
    with fitted(tmp_path / "run", reference=TensorDataset(REFERENCES.tensors[0], labels)) as run:
        digest = run.digest
        with pytest.raises(errors.TrainingFailed, match="scoring erased records and references"):
            run.forget(subjects=["her"])
        assert run.digest == digest
        assert not run.status().erasures


def test_more_people_than_references_have_a_wide_interval(tmp_path):
    few = TensorDataset(*(each[:25] for each in REFERENCES.tensors))
    with fitted(tmp_path / "run", reference=few) as run:
        many = [f"p{each}" for each in range(6, 40)]
        erasure = run.forget(subjects=many, method=ob.Calibrated(blocks=2))
        assert erasure.ending.records == 128
        assert erasure.ending.high - erasure.ending.low > 2.0


def test_references_of_another_kind_are_said(tmp_path):
    odd = TensorDataset(REFERENCES.tensors[0] * 0, REFERENCES.tensors[1])
    with fitted(tmp_path / "run", reference=odd) as run:
        erasure = run.forget(subjects=["p30"], method=ob.Calibrated(blocks=2))
        assert "of another kind" in erasure.ending.verdict


def test_regression_has_a_target(tmp_path):
    inputs = DATA.tensors[0]
    weights = torch.arange(WIDTH) / WIDTH
    data = TensorDataset(inputs, (inputs @ weights)[:, None])
    reference = TensorDataset(REFERENCES.tensors[0], (REFERENCES.tensors[0] @ weights)[:, None])
    made = recipe(
        model=partial(nn.Linear, WIDTH, 1),
        loss=nn.functional.mse_loss,
        optimizer=partial(torch.optim.SGD, lr=0.01),
    )
    with fitted(tmp_path / "run", made=made, data=data, reference=reference) as run:
        erasure = run.forget(subjects=["her"], method=ob.Calibrated(blocks=2))
        assert erasure.ending.accuracy is None
        assert np.isfinite(erasure.ending.reached)


@pytest.mark.parametrize(
    "targets",
    [
        torch.tensor([True, False, True, False]),
        torch.tensor([0, 10**15, 0, -(10**15)]),
        torch.tensor([2, 0, 1, 0]),
    ],
    ids=["yes or no", "large numbers", "classes"],
)
def test_every_reference_is_given_the_target_of_another_kind(targets):
    assert (_another(targets) != targets).all()


def test_references_without_a_finite_score_are_left_out(tmp_path):
    inputs, labels = (each.clone() for each in REFERENCES.tensors)
    inputs[::7] = float("nan")

    def loss(outputs, targets):  # not that of a margin
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1)

    made = recipe(loss=loss)
    with fitted(tmp_path / "run", made=made, reference=TensorDataset(inputs, labels)) as run:
        ending = run.forget(subjects=["her"], method=ob.Calibrated(blocks=2)).ending
        assert ending.references < 256
        assert ending.accuracy is None
        assert ending.wrong > 0.5


def test_further_back_doubles_and_ends_with_what_is_kept():
    method = ob.Calibrated(back=3)
    assert method.further_back(10).back == 6
    assert method.further_back(5).back == 5
    assert method.further_back(3) is None
    assert issubclass(TooShallow, Exception)
