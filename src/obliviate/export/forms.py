"""The forms there are: ours, and those of other packages that announce them.

A package adds a form by an entry point of the group `obliviate.forms`, which leads to a function
`(model, folder, example)`: it writes files into the folder, and none of them is a pickle. `example`
is a function that gives what the model's `forward` can be called with.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeAlias

from obliviate.errors import ExportFailed, InvalidOption, ObliviateError
from obliviate.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    Form: TypeAlias = Callable[[nn.Module, Path, Callable[[], Any]], None]

GROUP = "obliviate.forms"
_PICKLES = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}


_OURS = {"safetensors": "weights", "pretrained": "pretrained", "onnx": "onnx"}
"""Where our own are; imported when one is asked for, since they need torch."""


def names() -> list[str]:
    """The names of all forms that are announced."""
    return [*_OURS, *sorted({point.name for point in entry_points(group=GROUP)} - _OURS.keys())]


def form_of(name: str) -> Form:
    """The function that writes a form.

    Raises:
        InvalidOption: There is none of that name, or it cannot be imported.
    """
    if isinstance(name, str) and name in _OURS:
        ours: Form = import_module(f"obliviate.export.{_OURS[name]}").write
        return ours
    for point in entry_points(group=GROUP):
        if point.name == name:
            try:
                form: Form = point.load()
            except Exception as error:
                raise InvalidOption(
                    f"the form {name!r} ({point.value}) cannot be imported: {error}",
                    hint="mend or remove the package that announces it; all other forms work",
                ) from error
            return form
    raise InvalidOption(
        f"there is no form {shown(name)}", hint=f"choose one of {', '.join(map(repr, names()))}"
    )


def written(
    name: str, form: Form, model: nn.Module, folder: Path, example: Callable[[], Any]
) -> None:
    """Write a model in a form.

    Raises:
        ExportFailed: It cannot be, or it would be a pickle.
        OSError: The disk does not take it.
    """
    try:
        form(model, folder, example)
    except (ObliviateError, OSError):
        raise
    except Exception as error:
        raise ExportFailed(
            f'the model cannot be written as "{name}": {type(error).__name__}: {error}',
            hint='mend what is named, or choose another form: "safetensors" takes any model',
        ) from error
    pickles = [path.name for path in sorted(folder.rglob("*")) if path.suffix in _PICKLES]
    if pickles:
        raise ExportFailed(
            f'the form "{name}" gave {pickles[0]}, which is a pickle: whoever reads it runs it',
            hint='choose another form: "safetensors" takes any model; nothing was handed on',
        )
