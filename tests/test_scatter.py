"""Means of people's records scatter as the variances between and within people say."""

import numpy as np
import pytest

from obliviate.methods.scatter import Scatter, drawn_means


def residuals(rng, people, records, between, within):
    """What the records of some people are away from what was expected."""
    whose = np.repeat(np.arange(people), records)
    return rng.normal(scale=between, size=people)[whose] + rng.normal(
        scale=within, size=len(whose)
    ), whose


@pytest.mark.parametrize(("between", "within"), [(2.0, 1.0), (0.0, 1.0), (1.0, 3.0)])
def test_the_mean_of_one_person_scatters_as_people_do(between, within):
    rng, count = np.random.default_rng(0), 20
    scatter = Scatter.of(*residuals(rng, 2000, 6, between, within))
    means, single = drawn_means([scatter], np.zeros(count), np.zeros(count, dtype=np.int64))
    assert means.std() == pytest.approx(np.sqrt(between**2 + within**2 / count), rel=0.15)
    assert single.std() == pytest.approx(np.sqrt(between**2 + within**2), rel=0.1)


def test_records_of_many_people_scatter_less_than_as_many_of_one():
    rng, count = np.random.default_rng(1), 20
    scatter = Scatter.of(*residuals(rng, 200, 6, 2.0, 1.0))
    one, all_others = (
        drawn_means([scatter], np.zeros(count), groups)[0].std()
        for groups in (np.zeros(count, dtype=np.int64), np.arange(count))
    )
    assert one > 3 * all_others


def test_people_of_one_record_each_count_as_records():
    rng = np.random.default_rng(2)
    scatter = Scatter.of(rng.normal(loc=0.5, size=300), np.arange(300))
    means, _ = drawn_means([scatter], np.zeros(25), np.zeros(25, dtype=np.int64))
    assert means.std() == pytest.approx(0.2, rel=0.2)
    assert means.mean() == pytest.approx(0.5, abs=0.1)


def test_wrong_targets_scatter_as_references_with_wrong_targets_do():
    rng = np.random.default_rng(3)
    scatters = [Scatter.of(*residuals(rng, 100, 4, between, 0.5)) for between in (0.1, 3.0)]
    own, other = (
        drawn_means(scatters, np.full(10, share), np.zeros(10, dtype=np.int64))[0].std()
        for share in (0.0, 1.0)
    )
    assert other > 5 * own
