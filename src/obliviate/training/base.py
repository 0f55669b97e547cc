"""The frozen base of a model: what training leaves as it is, so that no checkpoint holds it.

A parameter is frozen that a new model gives no gradient, and that shares no memory with anything
that is trained or with a buffer. Buffers change in training mode, whatever they belong to. A frozen
parameter that steps write to all the same, such as an average of the weights, is no part of it.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from obliviate.states.update import is_wrapper, place, raw_bytes
from obliviate.training.model import is_dense

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from torch import nn

    from obliviate.states.update import State

DIGEST_WORD, TENSORS_WORD, MOVING_WORD = "base", "base tensors", "moving"
"""What a fingerprint says of it: its digest, that of each tensor, and what steps write to."""

_SEEN = 32  # entries of each tensor that are looked at after a block
_SAMPLED = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.int8}


class Base:
    """The frozen base of one module, in memory that is never copied.

    Attributes:
        names: Of its entries in the module's state dict.
        moving: Of entries that are frozen, and that steps write to: they are no part of it.
    """

    def __init__(self, model: nn.Module, moving: Collection[str] = ()) -> None:
        """Look at a new module."""
        self._model, self.moving = model, frozenset(moving)
        self.names = frozen_names(model) - self.moving
        entries = self._entries(model)
        self._samples = {name: _Sample(entry) for name, entry in entries.items() if is_dense(entry)}
        self._marks = self._marked(entries)

    def rest(self, entries: State) -> dict[str, Tensor]:
        """What of a live state dict belongs into a checkpoint."""
        return {name: entry for name, entry in entries.items() if name not in self.names}

    def changed(self, entries: State) -> list[str]:
        """The names of entries that were written to since the module was new.

        They are known by their memory, by torch's count of what wrote to it, and by some values.

        Args:
            entries: The module's state dict, as it is now.
        """
        now = self._marked({name: entries[name] for name in self.names if name in entries})
        return sorted(name for name in self.names if now.get(name) != self._marks[name])

    def differing(self, other: nn.Module) -> list[str]:
        """The names of entries that another module of the same recipe has otherwise."""
        theirs, own = self._entries(other), self._entries(self._model)
        return sorted(
            name
            for name in self.names
            if name not in theirs or not _is_same(own[name], theirs[name])
        )

    def lend(self, other: nn.Module) -> None:
        """Let another module of the same recipe use this one's memory instead of its own."""
        own = dict(self._model.named_parameters(remove_duplicate=False))
        lent = {place(entry) for entry in self._entries(self._model).values()}
        for name, parameter in other.named_parameters(remove_duplicate=False):
            if name in own and place(own[name]) in lent:
                parameter.data = own[name].data

    @cached_property
    def tensors(self) -> Mapping[str, str]:
        """The sha256, in hex, of each of its tensors, over dtype, shape and bytes."""
        known: dict[tuple[object, ...], str] = {}
        hashes = {}
        for name, entry in sorted(self._entries(self._model).items()):
            where = place(entry)
            if where not in known:
                known[where] = _digest(entry)
            hashes[name] = known[where]
        return hashes

    def words(self) -> dict[str, str]:
        """What must not change between the making of a run and its later use."""
        words = {}
        if self.moving:
            words[MOVING_WORD] = json.dumps(sorted(self.moving))
        if self.names:
            told = json.dumps(self.tensors)
            words[DIGEST_WORD] = hashlib.sha256(told.encode()).hexdigest()
            words[TENSORS_WORD] = told
        return words

    def _entries(self, model: nn.Module) -> dict[str, Tensor]:
        if not self.names:
            return {}
        return {name: entry for name, entry in model.state_dict().items() if name in self.names}

    def _marked(self, entries: State) -> dict[str, object]:
        return {
            name: (
                _memory(entry),
                _version(entry),
                self._samples[name].values(entry) if name in self._samples else b"",
            )
            for name, entry in entries.items()
        }


def moving_in(words: Mapping[str, str]) -> frozenset[str]:
    """The frozen entries that steps write to, by the words of a recipe."""
    return frozenset(json.loads(words.get(MOVING_WORD, "[]")))


def differing_tensors(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names of frozen tensors that are not the same in the words of two recipes."""
    old, new = (json.loads(each.get(TENSORS_WORD, "{}")) for each in (then, now))
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def frozen_names(model: nn.Module) -> frozenset[str]:
    """Names of a state dict's entries that are frozen, and of what goes with them, as scales do."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    frozen = {name: each for name, each in parameters.items() if not each.requires_grad}
    if not frozen:
        return frozenset()
    trained = (each for each in parameters.values() if each.requires_grad)
    taken = {_memory(each) for each in (*trained, *model.buffers())} - {0}
    free = {
        name: each for name, each in frozen.items() if not (is_lazy(each) or _memory(each) in taken)
    }
    places = {place(each) for each in free.values() if each.numel()}
    return frozenset(
        name
        for name, entry in model.state_dict().items()
        if isinstance(entry, Tensor)
        and (name in free or place(entry) in places or _owner(name, free))
    )


def _owner(name: str, frozen: Collection[str]) -> bool:
    """Whether a frozen parameter brings this entry: `layer.weight` brings `layer.weight.absmax`."""
    parts = name.split(".")
    return any(".".join(parts[:length]) in frozen for length in range(1, len(parts)))


def _memory(tensor: Tensor) -> int:
    if is_wrapper(tensor):
        return _memory(_parts(tensor)[0])
    if tensor.layout != torch.strided or is_lazy(tensor):
        return 0
    return tensor.untyped_storage().data_ptr()


def _parts(wrapper: Any) -> list[Tensor]:
    return [getattr(wrapper, name) for name in wrapper.__tensor_flatten__()[0]]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


class _Sample:
    """Where a few values of a tensor are."""

    def __init__(self, tensor: Tensor) -> None:
        """Choose places, evenly spread; none where values cannot be taken one by one."""
        self._form = tensor.shape, tensor.stride()
        self._at: tuple[Tensor, ...] = ()
        self._is_flat = tensor.is_contiguous()
        if tensor.dtype in _SAMPLED and tensor.numel():
            flat = np.unique(np.linspace(0, tensor.numel() - 1, _SEEN).astype(np.int64))
            at = (flat,) if self._is_flat else np.unravel_index(flat, tensor.shape)
            self._at = tuple(torch.from_numpy(each).to(tensor.device) for each in at)

    def values(self, tensor: Tensor) -> bytes:
        """The bytes of these values, and of none in a tensor of another form."""
        if not self._at or self._form != (tensor.shape, tensor.stride()):
            return b""
        whole = tensor.detach()
        some = whole.view(-1).index_select(0, *self._at) if self._is_flat else whole[self._at]
        return bytes(raw_bytes(some.cpu()))


def _is_same(one: Tensor, other: Tensor) -> bool:
    is_alike = one.dtype == other.dtype and one.shape == other.shape
    return is_alike and all(map(np.array_equal, _pieces(one), _pieces(other)))


def _digest(tensor: Tensor) -> str:
    sha = hashlib.sha256(f"{tensor.dtype}{list(tensor.shape)}".encode())
    for piece in _pieces(tensor):
        sha.update(piece)
    return sha.hexdigest()


def _pieces(tensor: Tensor) -> Iterator[memoryview | bytes]:
    """The bytes of a tensor of any kind: also of quantised ones, whose dtypes no state can have."""
    whole: Any = tensor.detach()
    if is_wrapper(whole):
        for part in _parts(whole):
            yield from _pieces(part)
    elif whole.is_quantized:
        yield repr(whole).encode()
        yield from _pieces(whole.int_repr())
    elif whole.layout != torch.strided:
        coo = whole.to_sparse_coo().coalesce()
        yield from _pieces(coo.indices())
        yield from _pieces(coo.values())
    else:
        yield raw_bytes(whole.cpu())
