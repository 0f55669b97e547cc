"""Presets of tables: digits, Purchase-100, Location-30 and Online Retail."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch.optim import SGD

from obliviate.datasets import digits, location, online_retail, purchase
from obliviate.datasets.sources import LOCATION, ONLINE_RETAIL, PURCHASE
from obliviate.lab.presets.settings import without_test
from obliviate.models import MLP

if TYPE_CHECKING:
    from obliviate.datasets import Loaded
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
    return _binary(settings, loaded, columns=600, classes=100, blocks=50, batch_size=64)


def locations(settings: Settings) -> Project:
    """Location-30, by persons of one record each; one hidden layer."""
    loaded = location(settings.folder(LOCATION))
    return _binary(settings, loaded, columns=446, classes=30, blocks=20)


def _binary(
    settings: Settings, loaded: Loaded, *, columns: int, classes: int, blocks: int, **recipe: Any
) -> Project:
    """Zeros and ones with a class, as the literature on membership trains them: by tanh."""
    data, subjects, test = without_test(loaded.data, loaded.subjects)
    return settings.project(
        model=partial(MLP, columns, classes, hidden=(settings.wide(128),), is_tanh=True),
        optimizer=_SGD,
        data=data,
        subjects=subjects,
        test=test,
        epochs=20,
        blocks=blocks,
        **recipe,
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
