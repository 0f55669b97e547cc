"""The target is what a model that never saw the records scores them, and its interval holds."""

import numpy as np
import pytest
import torch

from obliviate.methods.scores import margins
from obliviate.methods.target import (
    LEVEL,
    expected_of,
    log_odds_of_rest,
    target_of,
    wrong_shares,
)
from obliviate.methods.view import View

CLASSES = 5


def logits_of(rng, labels, sureness=4.0, noise=1.5):
    """What a model that never saw some records makes of them."""
    logits = rng.normal(scale=noise, size=(len(labels), CLASSES))
    logits[np.arange(len(labels)), labels] += sureness
    return logits


def margins_of(logits, labels):
    return margins(torch.from_numpy(logits), torch.from_numpy(labels)).numpy()


def view_of(erased, given, references, labels):
    """A state's view of erased records with the labels they were given, and of references."""
    another = (labels + 1 + np.arange(len(labels)) % (CLASSES - 1)) % CLASSES
    return View(
        erased=margins_of(erased, given),
        controls=np.empty(0),
        references=margins_of(references, labels),
        mispaired=margins_of(references, another),
        logits=(erased, references),
        labels=(given, labels),
    )


def case(seed, wrong, count=20, references=400):
    """Records of which the first `wrong` were given another label, and a model without them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=references)
    true = rng.integers(CLASSES, size=count)
    given = true.copy()
    given[:wrong] = (true[:wrong] + 1 + rng.integers(CLASSES - 1, size=wrong)) % CLASSES
    view = view_of(logits_of(rng, true), given, logits_of(rng, labels), labels)
    return view, given


@pytest.mark.parametrize("wrong", [0, 7, 20])
def test_it_is_where_a_model_without_the_records_scores_them(wrong):
    misses, inside = [], []
    for seed in range(40):
        view, _ = case(seed, wrong)
        target = target_of(view, view, view, wrong_shares(view))
        mean = view.erased.mean()
        misses.append(mean - target.mean)
        inside.append(target.low <= mean <= target.high)
    assert abs(np.mean(misses)) < 0.3
    assert np.mean(inside) >= LEVEL - 0.1


def test_single_records_end_in_intervals_of_their_own():
    inside = []
    for seed in range(20):
        view, _ = case(seed, 10)
        target = target_of(view, view, view, wrong_shares(view))
        apart = view.erased - target.each
        inside += [*((apart >= target.around[0]) & (apart <= target.around[1]))]
    assert LEVEL - 0.07 <= np.mean(inside) <= 1.0


def test_a_wrong_label_is_told_from_a_right_one():
    view, _ = case(3, 10)
    shares = wrong_shares(view)
    assert shares[:10].mean() > 0.8
    assert shares[10:].mean() < 0.2


def test_a_label_learned_by_heart_does_not_make_the_input_another():
    view, given = case(0, 20)
    erased, references = view.logits
    learned = erased.copy()
    learned[np.arange(20), given] += 4.0  # the label's own score alone
    before = view_of(learned, given, references, view.labels[1])
    assert before.erased.mean() > view.erased.mean() + 3
    forgotten = target_of(view, view, view, wrong_shares(view)).mean
    shares = wrong_shares(view)
    assert target_of(before, before, before, shares).mean == pytest.approx(forgotten, abs=0.5)


def test_the_mean_alone_is_the_targets():
    view, _ = case(5, 6)
    shares = wrong_shares(view)
    assert expected_of(view, view, view, shares) == pytest.approx(
        target_of(view, view, view, shares).mean
    )


def test_references_that_a_state_is_surer_of_move_it_half_of_the_way():
    view, given = case(1, 20)
    erased, references = view.logits
    surer = view_of(erased, given, 2 * references, view.labels[1])
    shares = np.ones(20)
    low, between, high = (
        target_of(view, before, now, shares).mean
        for before, now in ((surer, surer), (view, surer), (view, view))
    )
    assert low < between < high
    assert (high - between) / (high - low) == pytest.approx(0.5, abs=0.02)


def test_more_records_make_the_interval_of_their_mean_narrower_as_chance_does():
    few, many = (
        target_of(view, view, view, np.zeros(len(view.erased))).half_width
        for view, _ in (case(2, 0, count=8), case(2, 0, count=128))
    )
    assert 2.0 < few / many < 5.0


def scores_alone(rng, wrong, count=20, references=300):
    """Regression: minus a squared error, where some targets are those of others."""
    predicted, truth = rng.normal(size=references), rng.normal(scale=0.2, size=references)
    erased = -(rng.normal(scale=0.2, size=count) ** 2)
    erased[:wrong] = -((rng.normal(size=wrong) - rng.normal(size=wrong)) ** 2) - 0.5
    return View(
        erased=erased,
        controls=np.empty(0),
        references=-(truth**2),
        mispaired=-((predicted - np.roll(predicted, 1)) ** 2),
    )


@pytest.mark.parametrize("wrong", [0, 20])
def test_what_is_no_classifier_is_told_by_its_score(wrong):
    view = scores_alone(np.random.default_rng(1), wrong)
    shares = wrong_shares(view)
    assert abs(shares.mean() - wrong / 20) < 0.25
    target = target_of(view, view, view, shares)
    means = view.references.mean(), view.mispaired.mean()
    assert means[1] - 0.5 <= target.mean <= means[0]
    assert (target.mean < means[0] - 0.5) == bool(wrong)


def test_records_without_targets_have_the_mean_of_the_references():
    rng = np.random.default_rng(0)
    view = View(
        erased=rng.normal(size=9),
        controls=np.empty(0),
        references=rng.normal(loc=2.0, size=100),
        mispaired=np.empty(0),
    )
    assert not wrong_shares(view).any()
    target = target_of(view, view, view, wrong_shares(view))
    assert target.mean == pytest.approx(view.references.mean())
    assert target.low < target.mean < target.high


def test_two_of_a_kind_cannot_be_told_apart():
    view = View(
        erased=np.ones(3),
        controls=np.empty(0),
        references=np.ones(40),
        mispaired=np.ones(40),
    )
    assert not wrong_shares(view).any()


def test_the_log_odds_leave_the_target_out():
    logits = np.array([[9.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    odds = log_odds_of_rest(logits, np.array([0, 0]))
    assert odds[0] == pytest.approx(0.0)
    assert odds[1] == pytest.approx(5.0)


def test_a_class_of_which_there_are_too_few_references_takes_all():
    rng = np.random.default_rng(0)
    labels = np.r_[np.zeros(100, dtype=np.int64), np.ones(3, dtype=np.int64)]
    given = np.ones(4, dtype=np.int64)
    view = view_of(logits_of(rng, given), given, logits_of(rng, labels), labels)
    target = target_of(view, view, view, np.zeros(4))
    assert target.mean == pytest.approx(view.references.mean(), abs=2.0)
