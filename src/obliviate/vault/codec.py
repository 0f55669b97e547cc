"""Between states and plain bytes, in the layout of safetensors. Nothing is ever unpickled.

Writing and reading go tensor by tensor, without a second copy of the state. The layout: the length
of a JSON header (8 bytes, little-endian), the header (dtype, shape and place of each tensor), the
tensors, widest numbers first. Positions of corrections are kept as their gaps, in as few bytes as
hold them.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from obliviate.errors import RunDamaged
from obliviate.state import Update, raw_bytes, real

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from torch import Tensor

    from obliviate.state import State
    from obliviate.vault.frames import Plain

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

_BY_NAME = {name: dtype for dtype, name in DTYPES.items()}
_TIED, _EXACT, _INITIAL = "tied", "exact", "initial"
_HEADER_LENGTH_BYTES, _LONGEST_HEADER_BYTES = 8, 1 << 30
_CODES: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
_GAP_DTYPES: tuple[type[np.integer[Any]], ...] = (np.uint8, np.int16, np.int32)


def encode(state: State, *, initial: Collection[str] = ()) -> Iterator[bytes | memoryview]:
    """The plain bytes of a state, piece by piece.

    Args:
        state: What to write.
        initial: Names of tensors that are as in the initial state, and are taken from there.
    """
    first: dict[int, str] = {}
    tied = {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}
    tied = {name: original for name, original in tied.items() if name != original}
    left_out = tied.keys() | set(initial)
    tensors = {name: tensor for name, tensor in state.items() if name not in left_out}
    metadata = {_TIED: json.dumps(tied)}
    if initial:
        metadata[_INITIAL] = json.dumps(sorted(set(initial) - tied.keys()))
    return _pieces(tensors, metadata)


def encode_update(update: Update) -> Iterator[bytes | memoryview]:
    """The plain bytes of an update, piece by piece."""
    tensors = {f"step/{name}": step for name, step in update.steps.items()}
    for name, (index, value) in update.corrections.items():
        tensors |= {f"gap/{name}": _gaps(index), f"value/{name}": value}
    tensors |= {f"taken/{name}": value for name, value in update.taken.items()}
    return _pieces(tensors, {_EXACT: json.dumps(update.is_exact)})


def _gaps(index: Tensor) -> Tensor:
    """The distances between ascending positions, the first from 0."""
    gaps = np.diff(index.numpy(), prepend=0)  # numpy starts no threads; see `state.CHUNK`
    largest = int(gaps.max(initial=0))
    fitting = (dtype for dtype in _GAP_DTYPES if largest <= np.iinfo(dtype).max)
    return torch.from_numpy(gaps.astype(next(fitting, np.int64)))


def _width(tensor: Tensor) -> int:
    return real(tensor).element_size()


def _pieces(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    header: dict[str, object] = {"__metadata__": metadata}
    names = sorted(tensors, key=lambda name: -_width(tensors[name]))
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _HEADER_LENGTH_BYTES)
    yield len(text).to_bytes(_HEADER_LENGTH_BYTES, "little") + text
    for name in names:
        if tensors[name].numel():
            yield raw_bytes(tensors[name]).cast(_CODES[_width(tensors[name])])


def decode(plain: Plain, initial: Callable[[], State] = dict) -> dict[str, Tensor]:
    """The state of some bytes that `encode` wrote.

    Args:
        plain: The bytes.
        initial: Gives the initial state, if tensors have to be taken from there.

    Raises:
        RunDamaged: They are something else.
    """
    with _expected():
        metadata, tensors = _tensors(plain)
        from_there = json.loads(metadata.get(_INITIAL, "[]"))
        if from_there:
            there = initial()
            tensors |= {name: there[name] for name in from_there}
        tied = json.loads(metadata[_TIED])
        return tensors | {name: tensors[original] for name, original in tied.items()}


def decode_update(plain: Plain) -> Update:
    """The update of some bytes that `encode_update` wrote.

    Raises:
        RunDamaged: They are something else.
    """
    parts: dict[str, dict[str, Tensor]] = {
        kind: {} for kind in ("step", "gap", "index", "value", "taken")
    }
    with _expected():
        metadata, tensors = _tensors(plain)
        is_exact = bool(json.loads(metadata[_EXACT]))
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            parts[kind][rest] = tensor
        places = {name: gaps.cumsum(0, dtype=torch.int64) for name, gaps in parts["gap"].items()}
        places |= parts["index"]  # the first format
        corrections = {name: (at, parts["value"][name]) for name, at in places.items()}
        return Update(parts["step"], corrections, parts["taken"], is_exact)


def steps_of(plain: Plain) -> Iterator[tuple[str, Tensor]]:
    """The steps of an update that `encode_update` wrote, one in memory at a time.

    Raises:
        RunDamaged: The bytes are something else.
    """
    for name, tensor in each_tensor(plain):
        kind, _, rest = name.partition("/")
        if kind == "step":
            yield rest, tensor


def each_tensor(plain: Plain) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an object, one in memory at a time.

    Raises:
        RunDamaged: The bytes are something else.
    """
    with _expected():
        _, entries = _header(plain)
        for name, entry in entries:
            yield name, _tensor(plain, entry)


@contextlib.contextmanager
def _expected() -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RunDamaged(
            f"an object in the vault is not a state or an update ({error})",
            hint="restore the run folder from a copy, or make the run again",
        ) from error


def _tensors(plain: Plain) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata, and every tensor in memory of its own."""
    metadata, entries = _header(plain)
    return metadata, {name: _tensor(plain, entry) for name, entry in entries}


def _tensor(plain: Plain, entry: Mapping[str, Any]) -> Tensor:
    tensor = torch.empty(entry["shape"], dtype=_BY_NAME[entry["dtype"]])
    plain.fill(raw_bytes(tensor))
    return tensor


def _header(plain: Plain) -> tuple[dict[str, str], list[tuple[str, Mapping[str, Any]]]]:
    """The metadata, and what is said of each tensor, in the order of their bytes."""
    length = int.from_bytes(plain.read(_HEADER_LENGTH_BYTES), "little")
    if length > _LONGEST_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes")
    header: dict[str, Any] = json.loads(plain.read(length))
    metadata: dict[str, str] = header.pop("__metadata__")
    return metadata, sorted(header.items(), key=lambda item: item[1]["data_offsets"])
