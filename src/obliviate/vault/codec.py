"""Between states and plain bytes, in the layout of safetensors. Nothing is ever unpickled.

Writing and reading go tensor by tensor, without a second copy of the state. The layout: the length
of a JSON header (8 bytes, little-endian), the header (dtype, shape and place of each tensor), the
tensors, widest numbers first. The corrections of an update follow each other in one tensor, their
positions as gaps in another, in as few bytes as hold them.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from obliviate.errors import REBUILD, RunDamaged
from obliviate.states.update import Update, raw_bytes, real

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from torch import Tensor

    from obliviate.states.update import State
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
_TIED, _EXACT, _INITIAL, _CORRECTED = "tied", "exact", "initial", "corrected"
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
    ties = {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}
    ties = {name: original for name, original in ties.items() if name != original}
    elsewhere = ties.keys() | set(initial)
    tensors = {name: tensor for name, tensor in state.items() if name not in elsewhere}
    metadata = {_TIED: json.dumps(ties)}
    if initial:
        metadata[_INITIAL] = json.dumps(sorted(set(initial) - ties.keys()))
    return _pieces(tensors, metadata)


def encode_update(update: Update) -> Iterator[bytes | memoryview]:
    """The plain bytes of an update, piece by piece."""
    tensors = {f"step/{name}": step for name, step in update.steps.items()}
    tensors |= {f"taken/{name}": value for name, value in update.taken.items()}
    lengths: dict[str, dict[str, int]] = {}
    for name, (_, value) in update.corrections.items():
        lengths.setdefault(DTYPES[value.dtype], {})[name] = len(value)
    for dtype, counts in lengths.items():
        places, values = zip(*(update.corrections[name] for name in counts), strict=True)
        tensors |= {f"gap/{dtype}": _gaps(places), f"value/{dtype}": torch.cat(values)}
    metadata = {_EXACT: json.dumps(update.is_exact), _CORRECTED: json.dumps(lengths)}
    return _pieces(tensors, metadata)


def _gaps(places: Iterable[Tensor]) -> Tensor:
    """The distances between ascending positions, the first of each from 0."""
    # numpy starts no threads; see `state.CHUNK`
    gaps = np.concatenate([np.diff(index.numpy(), prepend=0) for index in places])
    largest = int(gaps.max(initial=0))
    dtypes = (dtype for dtype in _GAP_DTYPES if largest <= np.iinfo(dtype).max)
    return torch.from_numpy(gaps.astype(next(dtypes, np.int64)))


def _corrections(
    counts: Mapping[str, int], gaps: Tensor, values: Tensor
) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    lengths = [*counts.values()]
    parts = torch.split(gaps, lengths), torch.split(values, lengths)
    for name, some, value in zip(counts, *parts, strict=True):
        yield name, (some.cumsum(0, dtype=torch.int64), value)


def _width(tensor: Tensor) -> int:
    return real(tensor).element_size()


def _pieces(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    header: dict[str, object] = {"__metadata__": metadata}
    names = sorted(tensors, key=lambda name: -tensors[name].element_size())
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
        ties = json.loads(metadata[_TIED])
        return tensors | {name: tensors[original] for name, original in ties.items()}


def decode_update(plain: Plain) -> Update:
    """The update of some bytes that `encode_update` wrote.

    Raises:
        RunDamaged: They are something else.
    """
    parts: dict[str, dict[str, Tensor]] = {kind: {} for kind in ("step", "gap", "value", "taken")}
    with _expected():
        metadata, tensors = _tensors(plain)
        is_exact = bool(json.loads(metadata[_EXACT]))
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            parts[kind][rest] = tensor
        corrections: dict[str, tuple[Tensor, Tensor]] = {}
        for dtype, counts in json.loads(metadata[_CORRECTED]).items():
            corrections |= _corrections(counts, parts["gap"][dtype], parts["value"][dtype])
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
            start, end = entry["data_offsets"]
            yield name, _shaped(_filled(plain, end - start), entry)


@contextlib.contextmanager
def _expected() -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RunDamaged(
            f"an object in the vault is not a state or an update ({error})", hint=REBUILD
        ) from error


def _tensors(plain: Plain) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata, and the tensors, all in one piece of memory."""
    metadata, entries = _header(plain)
    size = max((entry["data_offsets"][1] for _, entry in entries), default=0)
    memory = _filled(plain, size)
    return metadata, {
        name: _shaped(memory[slice(*entry["data_offsets"])], entry) for name, entry in entries
    }


def _filled(plain: Plain, count: int) -> Tensor:
    if not count:
        return torch.empty(0, dtype=torch.uint8)
    memory = np.empty(count, np.uint8)  # in huge pages, which torch does not ask for
    plain.fill(memory.data)
    return torch.from_numpy(memory)


def _shaped(part: Tensor, entry: Mapping[str, Any]) -> Tensor:
    dtype = _BY_NAME[entry["dtype"]]
    if part.storage_offset() % dtype.itemsize:  # as other writers of the layout may place it
        part = part.clone()
    return part.view(dtype).reshape(entry["shape"])


def _header(plain: Plain) -> tuple[dict[str, str], list[tuple[str, Mapping[str, Any]]]]:
    """The metadata, and what is said of each tensor, in the order of their bytes."""
    length = int.from_bytes(plain.read(_HEADER_LENGTH_BYTES), "little")
    if length > _LONGEST_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes")
    header: dict[str, Any] = json.loads(plain.read(length))
    metadata: dict[str, str] = header.pop("__metadata__")
    return metadata, sorted(header.items(), key=lambda item: item[1]["data_offsets"])
