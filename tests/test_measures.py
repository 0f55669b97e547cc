"""The measures of forgetting: known values, chance alone, and families that differ."""

import numpy as np
import pytest

from obliviate.lab.metrics import (
    CLIP,
    agreement,
    bias,
    klom,
    klom_easydub,
    null_of,
    shift,
    u_lira,
)


def family(models, records=400, mean=0.0, seed=0):
    return np.random.default_rng(seed).normal(mean, 1.0, (models, records))


# Shift


def test_the_shift_is_a_distance_in_deviations():
    left = np.array([[0.0, 10.0], [2.0, 30.0]])  # deviations √2 and √200
    right = np.array([[1.0, 0.0], [3.0, 20.0]])
    assert shift(left, right) == pytest.approx((1 / np.sqrt(2) + 10 / np.sqrt(200)) / 2)


@pytest.mark.statistical
@pytest.mark.parametrize("models", [8, 32, 100])
def test_chance_alone_has_the_shift_that_theory_gives(models):
    # the mean of |N(0, 2/N)|; seeded, so a failure is a change of the measure
    expected = np.sqrt(2 / models) * np.sqrt(2 / np.pi)
    assert shift(family(models), family(models, seed=1)) == pytest.approx(expected, rel=0.12)


def test_a_record_on_which_all_models_agree_is_certain():
    same = np.full((3, 2), 5.0)
    assert shift(same, same) == 0
    assert shift(same, same + 1) == CLIP


# Bias


def test_the_bias_compares_models_of_one_seed():
    exact = family(6, records=50)
    missed, error = bias(exact - 0.5, exact, np.full(50, 2.0))
    assert (missed, error) == (pytest.approx(-0.25), pytest.approx(0, abs=1e-12))


def test_the_error_of_the_bias_is_that_of_a_mean_over_seeds():
    exact = np.zeros((4, 3))
    off = exact + np.array([[0.0], [1.0], [2.0], [3.0]])
    missed, error = bias(off, exact, np.ones(3))
    assert missed == pytest.approx(1.5)
    assert error == pytest.approx(np.std([0, 1, 2, 3], ddof=1) / 2)


# KLoM


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("bins", "models", "floor"),
    [(20, 32, 3.0), (20, 64, 1.2), (20, 100, 0.71), (5, 32, 0.75), (5, 64, 0.29), (5, 100, 0.14)],
)
def test_identical_families_have_the_known_floor(bins, models, floor):
    # Gaussians, 2000 records; the 95th percentile scatters by a few percent between seeds
    found = klom(family(models, 2000), family(models, 2000, seed=1), bins=bins)
    assert np.percentile(found, 95) == pytest.approx(floor, rel=0.12)


def test_klom_of_a_histogram_by_hand():
    left = np.array([[0.0], [0.0], [0.0], [1.0]])
    right = np.array([[0.0], [1.0], [1.0], [1.0]])
    expected = 0.75 * np.log(3) + 0.25 * np.log(1 / 3)
    assert klom(left, right, bins=2)[0] == pytest.approx(expected, rel=1e-3)


def test_klom_grows_with_the_distance_and_clips():
    near, far = (klom(family(64), family(64, mean=mean, seed=1), bins=5) for mean in (0.5, 3.0))
    assert near.mean() < far.mean()
    clipped = klom(np.full((4, 1), 1e9), np.full((4, 1), CLIP), bins=5)
    assert clipped[0] == 0


def test_easydub_s_klom_by_hand():
    left = np.array([[0.0], [0.1], [0.2], [20.0]])  # bins of 1: the 20 is the largest, and out
    right = np.array([[0.0], [10.0], [11.0], [12.0]])
    # all unlearned models that count are in the first bin, a quarter of the retrained ones
    assert klom_easydub(left, right)[0] == pytest.approx(np.log(4))
    apart = klom_easydub(np.zeros((5, 1)), np.full((5, 1), 3.0))
    assert apart[0] == pytest.approx(np.log(1e5))  # no retrained model where the unlearned are
    assert klom_easydub(np.full((5, 1), 3.0), np.zeros((5, 1)))[0] == 0  # as they compute it


def test_easydub_s_klom_of_models_that_agree_is_nothing():
    same = np.full((4, 2), 7.0)
    assert klom_easydub(same, same).tolist() == [0, 0]
    assert klom_easydub(np.full((4, 1), 1e9), np.full((4, 1), CLIP)).tolist() == [0]
    models = family(30, 7)
    assert klom_easydub(models, models) == pytest.approx(0)


def test_easydub_s_klom_is_that_of_its_histograms():
    left, right = family(40, 6), family(40, 6, mean=1.0, seed=1)
    assert klom_easydub(left, right) == pytest.approx(
        [divergence(*pair) for pair in zip(left.T, right.T, strict=True)]
    )


def divergence(left, right):
    """The published definition, one record at a time."""
    edges = np.linspace(min(left.min(), right.min()), max(left.max(), right.max()), 21)
    counts = [np.bincount(np.digitize(each, edges), minlength=22)[1:21] for each in (left, right)]
    p, q = (each / each.sum() for each in counts)
    return sum(a * np.log(a / max(b, 1e-5)) for a, b in zip(p, q, strict=True) if a > 0)


# U-LiRA


@pytest.mark.statistical
def test_an_attacker_guesses_where_nothing_differs():
    attack = u_lira(family(40, 200), family(40, 200, seed=1))
    assert attack.auc == pytest.approx(0.5, abs=0.02)
    assert attack.rates[0.05] == pytest.approx(0.05, abs=0.02)


@pytest.mark.statistical
def test_an_attacker_sees_two_deviations():
    attack = u_lira(family(40, 200, mean=2.0), family(40, 200, seed=1))
    # of two unit Gaussians two apart: Φ(2/√2)
    assert attack.auc == pytest.approx(0.921, abs=0.02)
    assert attack.rates[0.05] > 0.5
    assert attack.rates[0.01] < attack.rates[0.05]


# The floor


def test_the_floor_is_that_of_random_halves():
    models = family(20)
    null = null_of(shift, models)
    assert null.low < null.mean < null.high
    assert null.mean == pytest.approx(np.sqrt(2 / 10) * np.sqrt(2 / np.pi), rel=0.15)
    assert null == null_of(shift, models)  # the splits are seeded


# Agreement


@pytest.mark.statistical
def test_one_retrained_model_in_twenty_is_called_different():
    rng = np.random.default_rng(0)
    agreed = 0
    for _ in range(400):
        # as in life, what a seed does to one record it also does to others
        models = rng.normal(size=(16, 30)) + rng.normal(size=(16, 1))
        agreed += agreement(models[0], models[1:]).agrees
    assert 0.92 <= agreed / 400 <= 0.99


def test_a_model_far_off_is_called_different():
    reference = family(15, 30)
    assert not agreement(np.full(30, 2.0), reference).is_mean_inside
    assert agreement(np.full(30, 2.0), reference).z > 5


def test_a_model_whose_mean_alone_is_right_is_called_different():
    reference = family(15, 30)
    found = agreement(np.tile([4.0, -4.0], 15), reference)
    assert (found.is_mean_inside, found.is_pattern_inside, found.agrees) == (True, False, False)
