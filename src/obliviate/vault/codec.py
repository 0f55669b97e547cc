"""Between states and bytes: safetensors, tied entries written once. Nothing is unpickled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load, save

from obliviate.errors import RunDamaged
from obliviate.state import Update

if TYPE_CHECKING:
    from torch import Tensor

    from obliviate.state import State

_TIED, _EXACT = "tied", "exact"
_HEADER_LENGTH_BYTES = 8


def encode(state: State) -> bytes:
    """The bytes of a state."""
    first: dict[int, str] = {}
    tied = {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}
    tied = {name: original for name, original in tied.items() if name != original}
    tensors = {name: tensor.contiguous() for name, tensor in state.items() if name not in tied}
    return save(tensors, metadata={_TIED: json.dumps(tied)})


def decode(data: bytes) -> dict[str, Tensor]:
    """The state of some bytes that `encode` wrote.

    Raises:
        RunDamaged: They are something else.
    """
    tensors = _load(data)
    tied = json.loads(_metadata(data)[_TIED])
    return tensors | {name: tensors[original] for name, original in tied.items()}


def encode_update(update: Update) -> bytes:
    """The bytes of an update."""
    tensors = {f"step/{name}": step for name, step in update.steps.items()}
    for name, (index, value) in update.corrections.items():
        tensors |= {f"index/{name}": index, f"value/{name}": value}
    tensors |= {f"taken/{name}": value for name, value in update.taken.items()}
    return save(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        metadata={_EXACT: json.dumps(update.is_exact)},
    )


def decode_update(data: bytes) -> Update:
    """The update of some bytes that `encode_update` wrote.

    Raises:
        RunDamaged: They are something else.
    """
    parts: dict[str, dict[str, Tensor]] = {"step": {}, "index": {}, "value": {}, "taken": {}}
    for name, tensor in _load(data).items():
        kind, _, rest = name.partition("/")
        parts[kind][rest] = tensor
    corrections = {name: (index, parts["value"][name]) for name, index in parts["index"].items()}
    is_exact = bool(json.loads(_metadata(data)[_EXACT]))
    return Update(parts["step"], corrections, parts["taken"], is_exact)


def _load(data: bytes) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load(data)
    except SafetensorError as error:
        raise RunDamaged(
            f"an object in the vault is not a state ({error})",
            hint="restore the run folder from a copy, or make the run again",
        ) from error
    return tensors


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:_HEADER_LENGTH_BYTES], "little")
    header = json.loads(data[_HEADER_LENGTH_BYTES : _HEADER_LENGTH_BYTES + length])
    metadata: dict[str, str] = header["__metadata__"]
    return metadata
