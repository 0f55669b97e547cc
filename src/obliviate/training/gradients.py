"""Gradients of microbatches, and the order in which they are added up to a batch's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch

from obliviate.training.buffers import Left

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """What a part of a batch adds to a step.

    Attributes:
        loss: Its part of the batch's loss, detached.
        tensors: The gradient of each parameter; None where it has none.
        left: What it leaves in the buffers.
    """

    loss: Tensor
    tensors: tuple[Tensor | None, ...]
    left: Left = field(default_factory=Left)

    @classmethod
    def taken(cls, loss: Tensor, parameters: Sequence[nn.Parameter], left: Left) -> Gradients:
        """Take the gradients off their parameters."""
        tensors = tuple(each.grad for each in parameters)
        for each in parameters:
            each.grad = None
        return cls(loss=loss, tensors=tensors, left=left)

    def put(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give them to the parameters."""
        for parameter, tensor in zip(parameters, self.tensors, strict=True):
            parameter.grad = tensor


def added(first: Gradients, second: Gradients) -> Gradients:
    """The sum of both, in the memory of the first where it can be."""
    pairs = zip(first.tensors, second.tensors, strict=True)
    with torch.no_grad():
        tensors = tuple(_sum(one, other) for one, other in pairs)
    left = first.left.joined(second.left)
    return Gradients(loss=first.loss + second.loss, tensors=tensors, left=left)


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    if first.is_sparse:
        return second + first  # a dense one comes first; of two sparse ones the order is no matter
    return first.add_(second)


def in_tree(whole: range, leaf: Callable[[int], Gradients | None]) -> Gradients | None:
    """Add up the gradients of some microbatches in a binary tree that their number fixes.

    The left half is the largest power of two below the number, so that a whole subtree is the same
    sum of the same bits wherever it is worked out. No more than log2(count) + 1 gradients are there
    at once.

    Args:
        whole: The numbers of the microbatches, absent ones among them.
        leaf: The gradients of a microbatch; None where it adds nothing.
    """
    if len(whole) == 1:
        return leaf(whole.start)
    parts = [in_tree(half, leaf) for half in _halves(whole)]
    there = [each for each in parts if each is not None]
    return added(*there) if len(there) > 1 else next(iter(there), None)


def subtrees(whole: range, own: range) -> list[range]:
    """The largest subtrees of `in_tree` that lie within some of the microbatches, in order.

    Args:
        whole: The numbers of all microbatches.
        own: Some of them that follow each other.
    """
    if whole.start >= own.start and whole.stop <= own.stop:
        return [whole]
    if whole.stop <= own.start or whole.start >= own.stop:
        return []
    return [tree for half in _halves(whole) for tree in subtrees(half, own)]


def joined(
    whole: range, parts: Mapping[range, Part | None], add: Callable[[Part, Part], Part]
) -> Part | None:
    """What some subtrees come to, added in the order of `in_tree`; None where none is there.

    Args:
        whole: The numbers of all microbatches.
        parts: The subtrees that they fall into; None of one that adds nothing.
        add: Adds two that follow each other.
    """
    if whole in parts:
        return parts[whole]
    both = [joined(half, parts, add) for half in _halves(whole)]
    there = [each for each in both if each is not None]
    return add(*there) if len(there) > 1 else next(iter(there), None)


def _halves(whole: range) -> tuple[range, range]:
    cut = whole.start + (1 << (len(whole) - 1).bit_length() - 1)
    return range(whole.start, cut), range(cut, whole.stop)
