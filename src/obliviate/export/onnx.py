"""The form "onnx": the graph that torch traces, with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from obliviate.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

FILE_NAME = "model.onnx"


def write(model: nn.Module, folder: Path, example: Callable[[], Any]) -> None:
    """Trace a module on an example, with any number of records in a batch.

    Args:
        model: It.
        folder: Where to.
        example: Gives what its `forward` is called with: a tensor, several in a tuple, or a
            mapping of arguments by name.

    Raises:
        InvalidOption: What torch needs for it is not there.
    """
    if find_spec("onnxscript") is None:
        raise InvalidOption(
            'the form "onnx" needs onnxscript, which is not there',
            hint="pip install 'obliviate[onnx]'",
        )
    given = example()
    named = dict(given) if isinstance(given, Mapping) else {}
    listed = () if named else given if isinstance(given, tuple) else (given,)
    torch.onnx.export(
        model,
        tuple(listed),
        folder / FILE_NAME,
        kwargs=named or None,
        dynamo=True,
        dynamic_shapes=_any_batch(named) if named else tuple(map(_any_batch, listed)),
        verbose=False,
    )


def _any_batch(given: Any) -> Any:
    """Let the first dimension of every tensor be of any size."""
    if isinstance(given, Tensor):
        return {0: torch.export.Dim.AUTO} if given.ndim else None
    if isinstance(given, Mapping):
        return {name: _any_batch(each) for name, each in given.items()}
    return type(given)(map(_any_batch, given)) if isinstance(given, tuple | list) else None
