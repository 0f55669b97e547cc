"""Models of other libraries, by their names."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from obliviate.errors import ExtraMissing, InvalidOption
from obliviate.options import text

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from torch import nn


def timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A factory of a model of timm's (PyTorch Image Models), such as "resnet18".

    Args:
        name: Of the model, as `timm.list_models()` has it.
        options: For `timm.create_model`: num_classes=10, in_chans=1.

    Raises:
        ExtraMissing: timm is not installed.
        InvalidOption: It has no such model.
    """
    library = _library("timm", "pip install timm")
    if not library.is_model(text(name, "name")):
        raise InvalidOption(
            f"timm has no model {name!r}", hint="`timm.list_models()` lists those it has"
        )
    return partial(library.create_model, name, **options)


def transformers(kind: str, **options: Any) -> Callable[[], nn.Module]:
    """A factory of a model of Transformers', without pretrained weights.

    Args:
        kind: Its class, such as "GPT2LMHeadModel".
        options: For its configuration: vocab_size=256, n_layer=2.

    Raises:
        ExtraMissing: Transformers is not installed.
        InvalidOption: It has no such class.
    """
    library = _library("transformers", "pip install 'obliviate[transformers]'")
    made = getattr(library, text(kind, "kind"), None)
    if getattr(made, "config_class", None) is None:
        raise InvalidOption(
            f"transformers has no model {kind!r}",
            hint="give the class of a model, such as GPT2LMHeadModel",
        )
    return partial(_configured, made, options)


def _configured(made: Any, options: dict[str, Any]) -> nn.Module:
    model: nn.Module = made(made.config_class(**options))
    return model


def _library(name: str, command: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ExtraMissing(f"models of {name} cannot be made: {error}", hint=command) from error
