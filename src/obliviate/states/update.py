"""States of a model, and the updates between them.

A state is a plain mapping from name to CPU tensor: the entries of a state dict. Names that share
one tensor (tied parameters) map to the same tensor object, and stay so through every operation
here.

An update is what a block did to a state. It is additive, and exact: applied to the old state it
gives the new one bit for bit. Where rounding keeps old + (new - old) from being new, a sparse
correction is added on top; it is a difference too, so an update never holds a value of the state
that it came from. Where nothing changed, the step is -0.0: that leaves the bits of every number
alone, where 0.0 would turn -0.0 into 0.0.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from blake3 import blake3
from torch.nn.parameter import is_lazy

from obliviate.states.memory import LEAST_BYTES, Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    State = Mapping[str, Tensor]

HALVES = frozenset({torch.float16, torch.bfloat16})
ADDITIVE = frozenset({torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64})
CHUNK = (1 << 15) - 64
"""Entries worked on at once: temporaries stay in the cache, and torch starts no threads.

States are compared while the next block trains. A second team of threads, once it is there, would
keep the trainer's own from waiting actively for each other, which costs it a tenth of its speed.
"""
LARGE_BYTES = 1 << 26
"""States of which there should be few in memory."""

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def is_additive(tensor: Tensor) -> bool:
    """Whether a tensor can be subtracted and added; integers and flags are taken as they are."""
    return tensor.dtype in ADDITIVE


def real(tensor: Tensor) -> Tensor:
    """A real view of the tensor: complex numbers as pairs."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a CPU tensor, in row-major order, without a copy where it is contiguous."""
    flat = real(tensor.detach()).contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


def size_bytes(state: State) -> int:
    """The bytes of all tensors of a state, tied ones once."""
    distinct = {id(tensor): tensor for tensor in state.values()}.values()
    return sum(tensor.numel() * tensor.element_size() for tensor in distinct)


def digest(state: State) -> str:
    """The sha256, in hex, over name, dtype, shape and hash of every entry, sorted by name.

    The hash of an entry is the BLAKE3 of its bytes, 32 bytes long.
    """
    sha, hashes = hashlib.sha256(), dict[int, bytes]()
    for name in sorted(state):
        tensor = state[name]
        dtype = str(tensor.dtype).removeprefix("torch.")
        sha.update(f"{name}\0{dtype}\0{list(tensor.shape)}\0".encode())
        if id(tensor) not in hashes:
            hashes[id(tensor)] = bytes_hash(tensor)
        sha.update(hashes[id(tensor)])
    return sha.hexdigest()


def bytes_hash(tensor: Tensor) -> bytes:
    """The BLAKE3 of the bytes of a CPU tensor; its dtype and shape are no part of it."""
    return blake3(raw_bytes(tensor)).digest()


def is_wrapper(tensor: Tensor) -> bool:
    """Whether a tensor is made of others, as quantised ones may be: it has no memory of its own."""
    return hasattr(tensor, "__tensor_flatten__")


def place(tensor: Tensor) -> tuple[object, ...]:
    """Where a tensor lies in memory, and how: tied ones lie in the same place."""
    if tensor.layout != torch.strided or is_lazy(tensor) or is_wrapper(tensor):
        return (id(tensor),)
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _like(tensor: Tensor, memory: Memory) -> Tensor:
    """A tensor of the same shape and dtype on the CPU, in row-major order."""
    size_bytes = tensor.numel() * tensor.element_size()
    if size_bytes < LEAST_BYTES:
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    return torch.frombuffer(memory.view(size_bytes), dtype=tensor.dtype).view(tensor.shape)


def captured(source: State, memory: Memory | None = None) -> dict[str, Tensor]:
    """A copy of a live state dict on the CPU, tied entries as one tensor.

    Args:
        source: What to copy.
        memory: Where to take the memory from, if states are captured again and again.
    """
    memory = memory or Memory()
    copies: dict[tuple[object, ...], Tensor] = {}
    state = {}
    for name, tensor in source.items():
        where = place(tensor)
        if where not in copies or tensor.numel() == 0:
            copies[where] = _like(tensor, memory).copy_(tensor.detach())
        state[name] = copies[where]
    return state


@dataclass(frozen=True)
class Update:
    """What a block did to a state: `applied(old, update)` is the new state.

    Attributes:
        steps: new - old, by name; names that did not change are absent.
        corrections: Flat positions and what to add there after the step, by name.
        taken: New values of entries that cannot be subtracted, by name.
        is_exact: Whether applying it gives the new state bit for bit. It does but for oddities such
            as a zero that changed its sign; then the state itself must be kept.
    """

    steps: dict[str, Tensor] = field(default_factory=dict)
    corrections: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    taken: dict[str, Tensor] = field(default_factory=dict)
    is_exact: bool = True


def _bits(flat: Tensor) -> Tensor:
    return flat.view(_BITS[flat.element_size()])


def _flat(tensor: Tensor) -> Tensor:
    return real(tensor).reshape(-1)


def update_between(old: State, new: State, *, consume: bool = False) -> Update:
    """The update that leads from one state to another of the same names, shapes and dtypes.

    Args:
        old: The state before.
        new: The state after.
        consume: Write the steps into the old state's tensors, which are lost; saves a state.
    """
    update, is_exact = Update(), True
    for name, before, after in _distinct(old, new):
        if _is_same(_bits(_flat(before)), _bits(_flat(after))):
            continue
        if not is_additive(after):
            update.taken[name] = after
            continue
        is_spare = consume and before.is_contiguous()
        step = before if is_spare else torch.empty(after.shape, dtype=after.dtype)
        update.steps[name] = step
        index, value, is_reached = _fill_step(_flat(before), _flat(after), _flat(step))
        is_exact = is_exact and is_reached
        if len(index):
            update.corrections[name] = (index, value)
    return Update(update.steps, update.corrections, update.taken, is_exact)


def _is_same(before: Tensor, after: Tensor) -> bool:
    starts = range(0, len(after), CHUNK)
    return all(torch.equal(before[at : at + CHUNK], after[at : at + CHUNK]) for at in starts)


def _fill_step(before: Tensor, after: Tensor, step: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Write after - before into step, in chunks; return the corrections and if they suffice."""
    places, values, is_reached = [], [], True
    less, reached = (torch.empty_like(after[:CHUNK]) for _ in range(2))
    subtract, negate, (old, new, target, gap, sum_) = _arithmetic(
        before, after, step, less, reached
    )
    wanted, found = _bits(after).numpy(), _bits(reached).numpy()
    for start in range(0, len(after), CHUNK):
        part = slice(start, start + CHUNK)
        size = len(wanted[part])
        with np.errstate(all="ignore"):  # of infinities; torch says nothing
            subtract(old[part], new[part], out=gap[:size])
            subtract(old[part], gap[:size], out=sum_[:size])
        negate(gap[:size], out=target[part])  # last: it may be the old state's own memory
        index = torch.from_numpy(np.flatnonzero(found[:size] != wanted[part]))
        if len(index):
            value = after[part][index] - reached[index]
            is_reached &= torch.equal(_bits(reached[index] + value), _bits(after[part][index]))
            places.append(index + start)
            values.append(value)
    if not places:
        return torch.empty(0, dtype=torch.int64), step[:0], True
    return torch.cat(places), torch.cat(values), is_reached


def _arithmetic(*tensors: Tensor) -> tuple[Callable[..., Any], Callable[..., Any], list[Any]]:
    """Subtraction, negation, and what they work on: numpy's are faster, and know no halves.

    -(old - new) is -0.0 where both are the same.
    """
    if tensors[0].dtype in HALVES:
        return torch.sub, torch.neg, list(tensors)
    return np.subtract, np.negative, [tensor.numpy() for tensor in tensors]


def _distinct(old: State, new: State) -> Iterator[tuple[str, Tensor, Tensor]]:
    seen: set[int] = set()
    for name, before in old.items():
        if id(before) not in seen:
            seen.add(id(before))
            yield name, before, new[name]


def applied(old: State, update: Update, *, consume: bool = False) -> dict[str, Tensor]:
    """The state after an update; tensors that it leaves alone are shared with the old state.

    Args:
        old: The state before.
        update: What was done to it.
        consume: Write into the old state's tensors, which are lost; saves a state.
    """
    changed: dict[int, Tensor] = {}
    new = {}
    for name, before in old.items():
        if id(before) not in changed:
            changed[id(before)] = _applied(before, name, update, consume=consume)
        new[name] = changed[id(before)]
    return new


def _applied(before: Tensor, name: str, update: Update, *, consume: bool) -> Tensor:
    if name in update.taken:
        return update.taken[name]
    if name not in update.steps:
        return before
    flat, step = _flat(before), _flat(update.steps[name])
    flat = flat.add_(step) if consume else flat + step
    if name in update.corrections:
        flat.index_add_(0, *update.corrections[name])
    return flat.view(before.dtype).reshape(before.shape)


def without(update: Update, names: frozenset[str]) -> Update:
    """An update that leaves some entries as they are."""
    return Update(
        {name: step for name, step in update.steps.items() if name not in names},
        {name: added for name, added in update.corrections.items() if name not in names},
        {name: value for name, value in update.taken.items() if name not in names},
        update.is_exact,
    )


def increased(update: Update, rest: State, like: State) -> Update:
    """V_k + rest instead of V_k; of the dtypes of a state."""
    steps = dict(update.steps)
    for name, step in rest.items():
        step = steps[name] + step if name in steps else step  # noqa: PLW2901
        steps[name] = step.to(like[name].dtype)
    return Update(steps, taken=update.taken)
