"""Memory is used again, and never while anybody holds on to it."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
import torch

from obliviate.states.memory import LEAST_BYTES, Memory
from obliviate.states.update import captured

SIZE = 4 * LEAST_BYTES


def address(view: memoryview) -> int:
    return np.frombuffer(view, np.uint8).ctypes.data


def test_memory_is_given_again_once_it_is_let_go_of():
    memory = Memory()
    view = memory.view(SIZE)
    where = address(view)
    del view
    assert address(memory.view(SIZE)) == where


HOLDERS = {
    "itself": lambda view: view,
    "a part of it": lambda view: view[10:20],
    "another form": lambda view: view.cast("I")[3:],
    "an array": lambda view: np.frombuffer(view, np.uint8),
    "a part of an array": lambda view: np.frombuffer(view, np.uint8)[5:9],
    "an array of an array": lambda view: np.frombuffer(view, np.uint8)[5:].reshape(-1, 1)[1:],
    "a tensor": lambda view: torch.frombuffer(view, dtype=torch.float32),
    "a part of a tensor": lambda view: torch.frombuffer(view, dtype=torch.float32)[3:5].view(2, 1),
    "what numpy sees of a tensor": lambda view: torch.frombuffer(view, dtype=torch.uint8).numpy(),
}


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)
def test_nothing_is_given_again_that_something_holds_on_to(holder):
    memory = Memory()
    view = memory.view(SIZE)
    where, held = address(view), holder(view)
    del view
    gc.collect()
    others = [memory.view(SIZE) for _ in range(3)]
    assert where not in [address(each) for each in others]
    del held
    assert address(memory.view(SIZE)) == where


def test_states_are_captured_into_the_memory_of_earlier_ones():
    memory, live = Memory(), {"weight": torch.randn(SIZE), "small": torch.randn(3)}
    live["tied"] = live["weight"]
    first = captured(live, memory)
    second = captured(live, memory)
    wheres = [each["weight"].data_ptr() for each in (first, second)]
    assert len(set(wheres)) == 2
    part = first["weight"][1:3]
    del first
    live["weight"].add_(1)
    third = captured(live, memory)
    assert third["weight"].data_ptr() not in wheres
    assert third["tied"] is third["weight"]
    assert torch.equal(third["weight"], live["weight"])
    del part, second
    assert captured(live, memory)["weight"].data_ptr() in wheres


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (257, 1031)])
def test_what_is_captured_lies_in_order_and_as_torch_has_it(dtype, shape):
    tensor = torch.ones(shape, dtype=dtype).permute(tuple(reversed(range(len(shape)))))
    copy = captured({"a": tensor}, Memory())["a"]
    assert torch.equal(copy, tensor)
    assert copy.dtype == dtype
    assert copy.is_contiguous()
    assert copy.data_ptr() % 64 == 0


def test_several_threads_never_get_the_same():
    memory, wrong = Memory(), []

    def work(number: int) -> None:
        for _ in range(200):
            view = np.frombuffer(memory.view(LEAST_BYTES), np.uint8)
            view[:] = number
            if not (view == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong
