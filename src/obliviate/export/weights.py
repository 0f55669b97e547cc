"""The form "safetensors": all that a module's state dict holds, in one file that many tools read.

Tied tensors are written once; the file's metadata says which name each of the others goes by, as
`safetensors.torch.save_model` does it. So `safetensors.torch.load_model` reads it, too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file

from obliviate.disk.paths import naming
from obliviate.errors import ExportFailed, RunDamaged
from obliviate.export.folder import FolderPlace
from obliviate.states.update import captured

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

    from obliviate.export.place import Place

FILE_NAME = "model.safetensors"
_NUMBER = re.compile(r"os error (\d+)")


def write(model: nn.Module, folder: Path, _example: Callable[[], Any]) -> None:
    """Write a module's state.

    Raises:
        OSError: The disk does not take it.
        ExportFailed: It holds what the form has no room for.
    """
    state = captured(model.state_dict())
    first: dict[int, str] = {}
    kept = {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}
    tied = {name: original for name, original in kept.items() if name != original}
    tensors = {name: tensor.contiguous() for name, tensor in state.items() if name not in tied}
    try:
        save_file(tensors, folder / FILE_NAME, metadata={"format": "pt", **tied})
    except SafetensorError as error:
        number = _NUMBER.search(str(error))
        if number:
            raise OSError(int(number[1]), str(error)) from error
        raise ExportFailed(
            f"the state cannot be written as safetensors ({error})", hint="try another form"
        ) from error


def read(place: Place) -> dict[str, Tensor]:
    """The tensors of an export; of tied ones, one.

    Raises:
        RunDamaged: They cannot be read.
    """
    with naming(place.name):
        try:
            if not isinstance(place, FolderPlace):
                return load(place.read(FILE_NAME))
            with safe_open(place.path / FILE_NAME, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, FileNotFoundError) as error:
            raise RunDamaged(
                f"{FILE_NAME} in {place.name} cannot be read ({error})",
                hint="export the model again",
            ) from error
