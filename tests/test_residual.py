"""Residual memory: the fitted curve, and when to stop."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import obliviate as ob
from obliviate.errors import InvalidOption, UnknownMethod
from obliviate.methods.method import Context, Progress
from obliviate.methods.power_law import (
    DFA_MIN_LENGTH,
    FIT_MIN_LENGTH,
    PowerLaw,
    fit_power_law,
    fluctuation_exponent,
)
from obliviate.methods.registry import method_from, method_of, options_of

LAGS = np.arange(1, DFA_MIN_LENGTH)


def falling(a=0.8, h=0.5, b=0.1, lags=LAGS):
    return (a * lags**-h + b).tolist()


# The fit


@given(
    a=st.floats(0.01, 100),
    h=st.floats(0.1, 3.0),
    b=st.floats(0, 10),
    length=st.integers(FIT_MIN_LENGTH, len(LAGS)),
)
def test_a_power_law_is_recovered_from_a_short_series(a, h, b, length):
    series = falling(a, h, b, np.arange(1, length + 1))
    law = fit_power_law(series)
    assert law.h == pytest.approx(h, rel=0.06)  # the exponents tried lie 6 % apart
    assert law.a == pytest.approx(a, rel=0.25)
    assert law.b == pytest.approx(b, abs=0.3 * a)
    assert [law(lag) for lag in range(1, length + 1)] == pytest.approx(series, abs=0.01 * a)


def test_noise_on_the_series_moves_the_fit_a_little():
    noise = np.random.default_rng(0).normal(scale=0.005, size=len(LAGS))
    law = fit_power_law(falling() + noise)
    assert [law(lag) for lag in LAGS] == pytest.approx(falling(), abs=0.02)


@pytest.mark.parametrize("length", [FIT_MIN_LENGTH, 10, DFA_MIN_LENGTH, 60])
def test_a_rising_series_has_nothing_that_fades(length):
    law = fit_power_law(np.linspace(0.1, 0.9, length).tolist())
    assert law.a == 0
    assert law.b == pytest.approx(0.5)
    assert law.slope(length) == 0


@pytest.mark.parametrize("length", [FIT_MIN_LENGTH, DFA_MIN_LENGTH, 60])
def test_a_flat_series_is_all_drift(length):
    law = fit_power_law([0.3] * length)
    assert law.a == pytest.approx(0, abs=1e-12)
    assert law.b == pytest.approx(0.3)


def test_a_long_series_takes_its_exponent_from_its_fluctuations():
    noise = np.random.default_rng(1).normal(scale=0.1, size=40)
    series = falling(lags=np.arange(1, 41)) + noise
    assert fit_power_law(series).h == fluctuation_exponent(series)


def test_one_value_decides_between_the_two_ways_to_an_exponent():
    series = falling(lags=np.arange(1, DFA_MIN_LENGTH + 1)) + np.random.default_rng(2).normal(
        scale=0.05, size=DFA_MIN_LENGTH
    )
    short = fit_power_law(series[:-1]).h
    assert short != fluctuation_exponent(series[:-1])
    assert fit_power_law(series).h == fluctuation_exponent(series)


@pytest.mark.parametrize(
    "series", [[], [1.0, 0.5], [1.0, float("nan"), 0.3, 0.2], [1.0, float("inf"), 0.3, 0.2]]
)
def test_what_cannot_be_fitted_is_said_so(series):
    with pytest.raises(ValueError, match=f"{FIT_MIN_LENGTH} finite values"):
        fit_power_law(series)


@given(st.lists(st.floats(0, 1e6), min_size=FIT_MIN_LENGTH, max_size=40))
def test_a_fit_is_always_finite_and_never_below_the_flat_one(series):
    law = fit_power_law(series)
    assert law.a >= 0
    assert np.isfinite([law.a, law.h, law.b]).all()
    missed = sum((law(lag) - value) ** 2 for lag, value in enumerate(series, start=1))
    flat = np.sum((np.mean(series) - np.asarray(series)) ** 2)
    assert missed <= flat * (1 + 1e-9) + 1e-9


# The curve


@given(a=st.floats(0, 10), h=st.floats(0.05, 4), b=st.floats(-1, 1), lag=st.floats(1.5, 100))
def test_the_slope_is_the_derivative(a, h, b, lag):
    law = PowerLaw(a=a, h=h, b=b)
    step = 1e-4
    numeric = (law(lag - step) - law(lag + step)) / (2 * step)
    assert law.slope(lag) == pytest.approx(numeric, rel=1e-4, abs=1e-8)


def test_the_tail_is_the_sum_over_the_lags_that_were_not_replayed():
    law = PowerLaw(a=2.0, h=1.0, b=0.5)
    assert law.tail(3, 6) == pytest.approx((2 / 4 + 0.5) + (2 / 5 + 0.5) + (2 / 6 + 0.5))
    assert law.tail(6, 6) == 0


def test_a_tail_counts_nothing_below_zero():
    law = PowerLaw(a=1.0, h=1.0, b=-0.3)
    assert law.tail(2, 100) == pytest.approx(1 / 3 - 0.3)


# Detrended fluctuation analysis


@pytest.mark.statistical
@pytest.mark.parametrize("seed", range(5))
def test_white_noise_has_an_exponent_near_one_half(seed):
    """Windows of 4 to 9 values bias the exponent upwards: over many seeds it is 0.64 ± 0.025.

    False-alarm rate: below 1e-7 a seed (the bounds are more than five such deviations away).
    """
    noise = np.random.default_rng(seed).normal(size=2000)
    assert 0.5 < fluctuation_exponent(noise) < 0.8


@pytest.mark.statistical
@pytest.mark.parametrize("seed", range(5))
def test_a_random_walk_has_an_exponent_near_three_halves(seed):
    """Over many seeds it is 1.52 ± 0.04.

    False-alarm rate: below 1e-6 a seed (the bounds are five such deviations away).
    """
    walk = np.cumsum(np.random.default_rng(seed).normal(size=2000))
    assert 1.3 < fluctuation_exponent(walk) < 1.75


def test_the_exponent_does_not_depend_on_scale_or_offset():
    series = np.random.default_rng(3).normal(size=100)
    assert fluctuation_exponent(1e-4 * series + 7) == pytest.approx(fluctuation_exponent(series))


# Decisions


def test_replaying_stops_at_the_first_lag_where_the_slope_is_small_enough():
    method = ob.DeepObliviate(epsilon=0.05)
    final = [
        lag
        for lag in range(FIT_MIN_LENGTH, len(LAGS) + 1)
        if method.decide(falling()[:lag]).is_final
    ]
    exact = next(lag for lag in LAGS if PowerLaw(a=0.8, h=0.5, b=0.1).slope(lag) <= 0.05)
    assert final[0] == exact
    assert final == list(range(exact, len(LAGS) + 1))


def test_the_rule_can_stop_long_before_fifteen_values():
    assert ob.DeepObliviate(epsilon=10.0).decide(falling()[:FIT_MIN_LENGTH]).is_final


def test_a_smaller_epsilon_replays_more():
    stops = [
        next(lag for lag in LAGS if ob.DeepObliviate(epsilon=each).decide(falling()[:lag]).is_final)
        for each in (0.2, 0.1, 0.05, 0.02)
    ]
    assert stops == sorted(stops)
    assert stops[0] < stops[-1]


def test_few_values_are_too_few_to_stop():
    for length in range(1, FIT_MIN_LENGTH):
        decision = ob.DeepObliviate(epsilon=1e9).decide(falling()[:length])
        assert not decision.is_final
        assert "too short" in decision.reason
        assert decision.law is None


def test_a_rising_series_stops_and_says_that_it_is_drift():
    decision = ob.DeepObliviate(epsilon=1e-9).decide([0.1, 0.2, 0.3, 0.4])
    assert decision.is_final
    assert "drift" in decision.reason


def test_the_reason_names_lag_slope_and_epsilon():
    decision = ob.DeepObliviate(epsilon=0.02).decide(falling()[:5])
    assert "lag 5" in decision.reason
    assert f"{decision.law.slope(5):.4f} > epsilon 0.02" in decision.reason


def test_the_lag_is_counted_from_the_series_it_is_given():
    """Whoever replays starts a new series at an affected block; the rule holds no memory."""
    method = ob.DeepObliviate(epsilon=0.05)
    alone = method.decide(falling()[:5])
    method.decide(falling())
    assert method.decide(falling()[:5]) == alone


def test_exact_never_stops_early():
    pursuit = ob.Exact().begin(Context(affected=(1,), blocks=100))
    assert not pursuit.decide(Progress(series=[0.0] * 99, block=99, until=100)).is_final


# Options


@pytest.mark.parametrize(
    "epsilon", [0, -0.1, float("nan"), float("inf"), "0.05", None, 1 + 2j, True, [0.1]]
)
def test_an_impossible_epsilon_is_refused(epsilon):
    with pytest.raises(InvalidOption, match="epsilon is") as refusal:
        ob.DeepObliviate(epsilon=epsilon)
    assert repr(epsilon) in refusal.value.message
    assert "above 0" in refusal.value.hint


@pytest.mark.parametrize("epsilon", [1, 0.05, 1e-9, np.float64(0.1)])
def test_a_possible_epsilon_is_taken(epsilon):
    assert ob.DeepObliviate(epsilon=epsilon).epsilon == epsilon


def test_a_method_cannot_be_changed_after_it_was_chosen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ob.DeepObliviate().epsilon = 1.0


def test_methods_are_found_by_name():
    assert method_of("exact") == ob.Exact()
    assert method_of("deepobliviate") == ob.DeepObliviate()
    assert method_of("deepobliviate", epsilon=0.2) == ob.DeepObliviate(epsilon=0.2)
    chosen = ob.DeepObliviate(epsilon=0.3)
    assert method_of(chosen) is chosen


@pytest.mark.parametrize("method", ["retrain", "", "Exact", None, 3, ob.Exact, ["exact"]])
def test_an_unknown_method_is_refused_with_the_ones_there_are(method):
    with pytest.raises(UnknownMethod) as refusal:
        method_of(method)
    assert repr(method) in refusal.value.message
    assert "'exact'" in refusal.value.hint
    assert "'deepobliviate'" in refusal.value.hint


# Fixed stops, for research


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_a_fixed_stop_is_kept_whatever_the_slope(blocks):
    method = ob.DeepObliviate(epsilon=1e-9, blocks=blocks)
    series = [1.0, 0.9, 0.5, 0.4, 0.39]
    stops = [method.decide(series[:lag]).is_final for lag in range(1, 6)]
    assert stops == [lag >= blocks for lag in range(1, 6)]
    assert method.decide(series).law == fit_power_law(series)  # the rest is still estimated


@pytest.mark.parametrize("method", [ob.DeepObliviate, ob.Calibrated])
@pytest.mark.parametrize("blocks", [0, -1, 1.5, True, "2"])
def test_an_impossible_fixed_stop_is_refused(method, blocks):
    with pytest.raises(InvalidOption, match="blocks"):
        method(blocks=blocks)


def test_options_that_are_set_are_kept():
    assert options_of(ob.DeepObliviate()) == {"name": "deepobliviate", "epsilon": 0.02}
    for method in (ob.Exact(), ob.DeepObliviate(blocks=2), ob.Calibrated(tolerance=0.5)):
        assert method_from(json.loads(json.dumps(options_of(method)))) == method
