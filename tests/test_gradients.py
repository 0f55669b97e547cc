"""The order in which the gradients of microbatches are added."""

import weakref

import pytest
import torch
from torch import nn

from obliviate.training.buffers import Left
from obliviate.training.gradients import Gradients, added, in_tree


def leaf(number):
    """Gradients of two parameters; every third microbatch has none for the second."""
    generator = torch.Generator().manual_seed(number)
    both = torch.randn(2, 50, generator=generator)
    return Gradients(loss=both[0, 0], tensors=(both[0], both[1] if number % 3 else None))


def same(first, second):
    pairs = zip((first.loss, *first.tensors), (second.loss, *second.tensors), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_four_are_two_pairs():
    firsts, seconds = zip(*(leaf(number).tensors for number in range(4)), strict=True)
    pairs = (firsts[0] + firsts[1]), (firsts[2] + firsts[3])
    by_hand = [pairs[0] + pairs[1], seconds[1] + seconds[2]]  # the others have none
    summed = in_tree(range(4), leaf)
    assert all(map(torch.equal, summed.tensors, by_hand))
    in_a_row = firsts[0] + firsts[1] + firsts[2] + firsts[3]
    assert not torch.equal(summed.tensors[0], in_a_row)


@pytest.mark.parametrize(("count", "left"), [(2, 1), (3, 2), (4, 2), (6, 4), (7, 4), (8, 4)])
def test_halves_can_be_worked_out_apart(count, left):
    apart = added(in_tree(range(left), leaf), in_tree(range(left, count), leaf))
    assert same(in_tree(range(count), leaf), apart)


def test_what_is_absent_adds_nothing():
    def some(number):
        return leaf(number) if number in {1, 4, 5} else None

    assert same(in_tree(range(8), some), added(leaf(1), added(leaf(4), leaf(5))))
    assert in_tree(range(5), lambda number: None) is None


def test_few_gradients_are_there_at_once():
    """As many as the tree is deep, not as there are microbatches."""
    made, most = [], 0

    def counting(number):
        nonlocal most
        gradients = leaf(number)
        made.append(weakref.ref(gradients.tensors[0]))
        most = max(most, sum(each() is not None for each in made))
        return gradients

    in_tree(range(16), counting)
    assert most == 5


def test_sparse_gradients_are_added():
    def sparse(number):
        rows = torch.tensor([[number % 2, 2]])
        return torch.sparse_coo_tensor(
            rows, torch.full((2, 3), float(number)), (4, 3), check_invariants=True
        )

    def mixed(number):
        tensor = sparse(number) if number else torch.ones(4, 3)
        return Gradients(loss=torch.ones(()), tensors=(tensor, sparse(number)))

    dense, both = in_tree(range(3), mixed).tensors
    assert not dense.is_sparse
    assert torch.equal(dense, 1 + sparse(1).to_dense() + sparse(2).to_dense())
    assert torch.equal(both.to_dense(), sum(sparse(at).to_dense() for at in range(3)))


def test_gradients_are_taken_off_and_put_back():
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))]
    parameters[0].sum().backward()
    taken = Gradients.taken(torch.ones(()), parameters, Left())
    assert [each.grad for each in parameters] == [None, None]
    taken.put(parameters)
    assert torch.equal(parameters[0].grad, torch.ones(2))
    assert parameters[1].grad is None
