"""Presets of tables: digits, Purchase-100, Location-30 and Online Retail."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch.optim import SGD

from obliviate.datasets import digits, location, online_retail, purchase
from obliviate.datasets.sources import LOCATION, ONLINE_RETAIL, PURCHASE
from obliviate.lab.presets.settings import without_test
from obliviate.models import MLP

if TYPE_CHECKING:
    from obliviate.lab.presets.settings import Settings
    from obliviate.recipe.recipe import Project

_SGD = partial(SGD, lr=0.05, momentum=0.9)


def digits_in_a_minute(settings: Settings) -> Project:
    """scikit-learn's digits, by records; one hidden layer. No download."""
    settings.check_no_folder()
    data, test = digits()
    return settings.project(
        model=partial(MLP, 64, 10, hidden=(settings.wide(64),)),
        optimizer=_SGD,
        data=data,
        test=test,
        epochs=10,
        blocks=10,
    )


def purchases(settings: Settings) -> Project:
    """Purchase-100, by customers of one record each; one hidden layer."""
    loaded = purchase(settings.folder(PURCHASE))
    data, subjects, test = without_test(loaded.data, loaded.subjects)
    return settings.project(
        model=partial(MLP, 600, 100, hidden=(settings.wide(128),), is_tanh=True),
        optimizer=_SGD,
        data=data,
        subjects=subjects,
        test=test,
        epochs=20,
        blocks=50,
        batch_size=64,
    )


def locations(settings: Settings) -> Project:
    """Location-30, by persons of one record each; one hidden layer."""
    loaded = location(settings.folder(LOCATION))
    data, subjects, test = without_test(loaded.data, loaded.subjects)
    return settings.project(
        model=partial(MLP, 446, 30, hidden=(settings.wide(128),), is_tanh=True),
        optimizer=_SGD,
        data=data,
        subjects=subjects,
        test=test,
        epochs=20,
        blocks=20,
    )


def retail(settings: Settings) -> Project:
    """Online Retail's baskets, by customers; one hidden layer."""
    loaded = online_retail(settings.folder(ONLINE_RETAIL))
    return settings.project(
        model=partial(MLP, 600, 20, hidden=(settings.wide(128),)),
        optimizer=_SGD,
        data=loaded.data,
        subjects=loaded.subjects,
        test=loaded.test,
        epochs=15,
        blocks=25,
    )
