"""Between states and bytes, in the layout of safetensors. Nothing is ever unpickled.

Writing goes tensor by tensor, without a second copy of the state; reading is safetensors' own. The
layout: the length of a JSON header (8 bytes, little-endian), the header (dtype, shape and place of
each tensor), the tensors.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from obliviate.errors import RunDamaged
from obliviate.state import Update, raw_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from obliviate.state import State

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The dtypes that can be kept, and what safetensors calls them."""

_TIED, _EXACT = "tied", "exact"
_HEADER_LENGTH_BYTES = 8


def encode(state: State) -> Iterator[bytes | memoryview]:
    """The bytes of a state, piece by piece."""
    first: dict[int, str] = {}
    tied = {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}
    tied = {name: original for name, original in tied.items() if name != original}
    tensors = {name: tensor for name, tensor in state.items() if name not in tied}
    return _pieces(tensors, {_TIED: json.dumps(tied)})


def encode_update(update: Update) -> Iterator[bytes | memoryview]:
    """The bytes of an update, piece by piece."""
    tensors = {f"step/{name}": step for name, step in update.steps.items()}
    for name, (index, value) in update.corrections.items():
        tensors |= {f"index/{name}": index, f"value/{name}": value}
    tensors |= {f"taken/{name}": value for name, value in update.taken.items()}
    return _pieces(tensors, {_EXACT: json.dumps(update.is_exact)})


def _pieces(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _HEADER_LENGTH_BYTES)
    yield len(text).to_bytes(_HEADER_LENGTH_BYTES, "little") + text
    for tensor in tensors.values():
        yield raw_bytes(tensor)


def decode(data: bytes) -> dict[str, Tensor]:
    """The state of some bytes that `encode` wrote.

    Raises:
        RunDamaged: They are something else.
    """
    with _expected():
        tensors: dict[str, Tensor] = load(data)
        tied = json.loads(_metadata(data)[_TIED])
        return tensors | {name: tensors[original] for name, original in tied.items()}


def decode_update(data: bytes) -> Update:
    """The update of some bytes that `encode_update` wrote.

    Raises:
        RunDamaged: They are something else.
    """
    parts: dict[str, dict[str, Tensor]] = {"step": {}, "index": {}, "value": {}, "taken": {}}
    with _expected():
        is_exact = bool(json.loads(_metadata(data)[_EXACT]))
        for name, tensor in load(data).items():
            kind, _, rest = name.partition("/")
            parts[kind][rest] = tensor
        corrections = {name: (at, parts["value"][name]) for name, at in parts["index"].items()}
        return Update(parts["step"], corrections, parts["taken"], is_exact)


@contextlib.contextmanager
def _expected() -> Iterator[None]:
    try:
        yield
    except (SafetensorError, ValueError, KeyError) as error:
        raise RunDamaged(
            f"an object in the vault is not a state or an update ({error})",
            hint="restore the run folder from a copy, or make the run again",
        ) from error


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:_HEADER_LENGTH_BYTES], "little")
    header = json.loads(data[_HEADER_LENGTH_BYTES : _HEADER_LENGTH_BYTES + length])
    metadata: dict[str, str] = header["__metadata__"]
    return metadata
