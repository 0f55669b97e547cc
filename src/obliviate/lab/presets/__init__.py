"""Presets: ready projects, each a published dataset with a recipe that fits it.

A project file for the command line is two lines: `from obliviate.lab.presets import preset`, and
`project = partial(preset, "mnist")`, which takes `-o data=FOLDER` and the other options as text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from obliviate.errors import InvalidOption
from obliviate.lab.presets.language import authors
from obliviate.lab.presets.pictures import cifar10, fashion, imagenet, svhn, tiny_imagenet, writers
from obliviate.lab.presets.settings import VARIABLE, Settings
from obliviate.lab.presets.tables import digits_in_a_minute, locations, purchases, retail
from obliviate.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from obliviate.recipe.recipe import Project

_PRESETS: Mapping[str, Callable[[Settings], Project]] = {
    "digits": digits_in_a_minute,
    "mnist": writers,
    "fashion-mnist": fashion,
    "cifar10": cifar10,
    "tiny-imagenet": tiny_imagenet,
    "svhn": svhn,
    "imagenet": imagenet,
    "location": locations,
    "online-retail": retail,
    "purchase": purchases,
    "tofu": authors,
}

PRESETS: Mapping[str, str] = {name: (make.__doc__ or "").strip() for name, make in _PRESETS.items()}
"""The names of all presets, each with what it is."""


def preset(name: str, *, data: str | Path | None = None, **options: Any) -> Project:
    """A ready project.

    Args:
        name: One of `PRESETS`.
        data: The folder of its data. If None, the folder of the preset's name (with _ for -) in the
            one that the variable OBLIVIATE_DATA names, or else in ~/.cache/obliviate.
        options: What to change, as numbers or as text: `epochs`, `blocks` (of an epoch), `records`
            (the first ones, to be quick), `width` of the model, `seed`, `device`, `workers`.

    Returns:
        The project: some people are held out as references, so that erasures are `calibrated`
        unless another method is asked for.

    Raises:
        InvalidOption: There is no such preset or option, or its data is missing or damaged: the
            hint is the command that gets it.
        ExtraMissing: A library that it takes is not installed.
    """
    make = _PRESETS.get(name) if isinstance(name, str) else None
    if make is None:
        raise InvalidOption(
            f"there is no preset {shown(name)}", hint=f"the presets are: {', '.join(_PRESETS)}"
        )
    return make(Settings.of(name, data, options))


__all__ = ["PRESETS", "VARIABLE", "Settings", "preset"]
