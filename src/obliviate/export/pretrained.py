"""The form "pretrained": as the model saves itself, adapters alone where it is one of PEFT."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from obliviate.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn


def write(model: nn.Module, folder: Path, _example: Callable[[], Any]) -> None:
    """Let the model save itself.

    Raises:
        InvalidOption: It cannot.
    """
    save = getattr(model, "save_pretrained", None)
    if not callable(save):
        raise InvalidOption(
            f"the model, {type(model).__name__}, has no save_pretrained",
            hint='models of transformers and peft have; the form "safetensors" takes any model',
        )
    is_asked = "safe_serialization" in inspect.signature(save).parameters
    save(folder, **({"safe_serialization": True} if is_asked else {}))
