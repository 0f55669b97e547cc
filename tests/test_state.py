"""States: digests, copies and ties."""

from __future__ import annotations

import hashlib

import pytest
import torch
from blake3 import blake3
from torch import nn

from obliviate.states.update import (
    applied,
    captured,
    digest,
    is_additive,
    raw_bytes,
    update_between,
)


class Tied(nn.Module):
    """An embedding whose weight is the head's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embed.weight


def state(**tensors):
    return {name: torch.as_tensor(value) for name, value in tensors.items()}


# Digest


def test_the_digest_is_the_sha256_of_name_dtype_shape_and_blake3():
    """Spelled out, so that an outsider can compute it without this library."""
    expected = hashlib.sha256()
    for name, text in (("a", b"a\0int64\0[2]\0"), ("b", b"b\0float32\0[]\0")):
        expected.update(text)
        value = {"a": torch.tensor([1, 2]), "b": torch.tensor(0.5)}[name]
        expected.update(blake3(value.numpy().tobytes()).digest())
    assert digest(state(b=0.5, a=[1, 2])) == expected.hexdigest()


def test_the_order_of_entries_is_of_no_matter():
    one = state(a=[1.0], b=[2.0])
    assert digest(one) == digest(dict(reversed(one.items())))


@pytest.mark.parametrize(
    "other",
    [
        state(b=[1.0, 2.0]),
        state(a=[1.0, 2.0], b=[]),
        state(a=[[1.0, 2.0]]),
        state(a=[2.0, 1.0]),
        state(a=[1.0, 2.0 + 2.0**-22]),
        {"a": torch.tensor([1.0, 2.0], dtype=torch.float64)},
        {"a": torch.tensor([1.0, 2.0]).view(torch.int32)},
    ],
    ids=["name", "entry", "shape", "order", "bit", "width", "dtype"],
)
def test_the_digest_tells_states_apart(other):
    assert digest(other) != digest(state(a=[1.0, 2.0]))


def test_the_digest_tells_the_two_zeros_apart():
    assert digest(state(a=[0.0])) != digest(state(a=[-0.0]))


def test_the_digest_sees_values_not_memory():
    values = torch.arange(6.0).reshape(2, 3)
    spread = torch.empty(3, 2).t().copy_(values)
    assert not spread.is_contiguous()
    assert digest({"a": spread}) == digest({"a": values})
    assert digest({"a": values.clone().requires_grad_()}) == digest({"a": values})


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([1 + 2j, 3j]),
        torch.tensor(1j),
        torch.tensor([True, False]),
        torch.tensor(3, dtype=torch.uint8),
        torch.zeros(0, 4),
        torch.tensor([1.5], dtype=torch.bfloat16),
        torch.tensor([1.5], dtype=torch.float16),
    ],
    ids=lambda tensor: f"{tensor.dtype}{list(tensor.shape)}",
)
def test_all_kinds_of_tensors_have_bytes(tensor):
    assert len(raw_bytes(tensor)) == tensor.numel() * tensor.element_size()
    assert len(digest({"a": tensor})) == 64


# Copies


def test_a_copy_is_out_of_reach_of_training():
    model = nn.Linear(3, 2)
    copy = captured(model.state_dict())
    before = digest(copy)
    with torch.no_grad():
        model.weight.add_(1)
    assert digest(copy) == before
    assert not any(tensor.requires_grad for tensor in copy.values())


def test_tied_entries_are_copied_as_one_tensor():
    copy = captured(Tied().state_dict())
    assert copy["embed.weight"] is copy["head.weight"]
    assert copy["head.bias"] is not copy["head.weight"]
    assert len({id(tensor) for tensor in copy.values()}) == 2


def test_equal_values_are_no_tie():
    copy = captured({"a": torch.zeros(3), "b": torch.zeros(3)})
    assert copy["a"] is not copy["b"]


def test_empty_tensors_are_not_tied_by_their_lack_of_memory():
    copy = captured({"a": torch.zeros(0), "b": torch.zeros(0)})
    assert copy["a"] is not copy["b"]


def test_views_of_other_shapes_are_copied_one_by_one():
    whole = torch.arange(6.0)
    copy = captured({"whole": whole, "part": whole[:3], "square": whole.reshape(2, 3)})
    assert copy["part"].tolist() == [0, 1, 2]
    assert copy["square"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_copy_of_a_transposed_tensor_lies_in_order():
    copy = captured({"a": torch.arange(6.0).reshape(2, 3).t()})
    assert copy["a"].is_contiguous()
    assert copy["a"].tolist() == [[0, 3], [1, 4], [2, 5]]


# Small things


def test_what_can_be_subtracted():
    assert is_additive(torch.tensor(1.0))
    assert is_additive(torch.tensor(1j))
    assert not is_additive(torch.tensor(1))
    assert not is_additive(torch.tensor(True))


# Updates, by example; properties/test_update.py goes on


def test_what_did_not_change_costs_nothing():
    old = state(a=[1.0, 2.0], b=[3.0], c=[1])
    update = update_between(old, old | state(b=[4.0]))
    assert list(update.steps) == ["b"]
    assert update.taken == {}
    nothing = update_between(old, {name: tensor.clone() for name, tensor in old.items()})
    assert (nothing.steps, nothing.corrections, nothing.taken) == ({}, {}, {})
    assert nothing.is_exact


def test_counters_and_flags_are_taken():
    old, new = state(n=[1, 2], f=[True]), state(n=[1, 5], f=[False])
    update = update_between(old, new)
    assert update.steps == {}
    assert digest(applied(old, update)) == digest(new)


def test_applying_an_update_leaves_the_old_state_alone():
    old, new = state(a=[1.0, 1e-9]), state(a=[1e9, 1.5])
    before = digest(old)
    update = update_between(old, new)
    first = applied(old, update)
    assert digest(applied(old, update)) == digest(first) == digest(new)
    assert digest(old) == before


def test_tied_entries_change_as_one_and_are_kept_once():
    model = Tied()
    old = captured(model.state_dict())
    with torch.no_grad():
        model.embed.weight.mul_(1.5)
    new = captured(model.state_dict())
    update = update_between(old, new)
    assert len(update.steps) == 1
    reached = applied(old, update)
    assert reached["embed.weight"] is reached["head.weight"]
    assert digest(reached) == digest(new)


def test_a_zero_that_changes_its_sign_is_the_documented_exception():
    old, new = state(a=[1.0, 2.0]), state(a=[-0.0, 2.5])
    assert not update_between(old, new).is_exact
    assert update_between(state(a=[-0.0]), state(a=[0.0])).is_exact
    assert update_between(state(a=[-0.0, 1.0]), state(a=[-0.0, 2.0])).is_exact


@pytest.mark.parametrize("odd", ["a", "b"])
def test_one_entry_that_cannot_be_reached_is_enough_to_say_so(odd):
    old = state(a=[1.0], b=[1.0])
    assert not update_between(old, state(a=[2.0], b=[2.0]) | {odd: torch.tensor([-0.0])}).is_exact
