"""Updates give back the very bits, for every dtype and every value."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from obliviate.states.update import CHUNK, applied, captured, digest, real, update_between
from obliviate.vault.codec import decode_update, encode_update
from obliviate.vault.frames import Plain, framed

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64]
TAKEN = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
SPECIAL = [0.0, -0.0, float("inf"), float("-inf"), 1e-45, 5e-324, 1e-40, 6e-8, 6e4, 3e38, 1.0, -1.0]
VALUES = st.one_of(
    st.floats(width=32),
    st.floats(-2, 2, width=32),
    st.sampled_from(SPECIAL + [-each for each in SPECIAL]),
)
FINITE = st.one_of(
    st.floats(-2, 2, width=32),
    st.floats(-1e4, 1e4, width=16),
    st.sampled_from([0.0, -0.0, 1e-45, 1e-40, 6e-8, 1e-4, 3e4, -3e4, 1.0]),
)


def pairs_of(values):
    """Two float64 arrays of one small shape."""
    shapes = hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=6)

    def pair(shape):
        array = hnp.arrays(np.float64, (*shape, 2), elements=values)
        return st.tuples(array, array)

    return shapes.flatmap(pair)


def tensor(values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    pairs = torch.from_numpy(values)
    if dtype.is_complex:
        return torch.complex(pairs[..., 0].float(), pairs[..., 1].float())
    return pairs.to(dtype)


def reached(old, new):
    """The new state as it comes back from the vault, and whether it was promised to be exact."""
    update = decode_update(Plain(b"".join(framed(encode_update(update_between(old, new))))))
    before, state = digest(old), applied(old, update)
    assert digest(old) == before
    assert digest(applied(captured(old), update, consume=True)) == digest(state)
    return state, update.is_exact


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@given(pair=pairs_of(VALUES))
def test_an_update_that_says_it_is_exact_is_exact(dtype, pair):
    old, new = ({"a": tensor(each, dtype)} for each in pair)
    back, is_exact = reached(old, new)
    assert not is_exact or digest(back) == digest(new)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@given(pair=pairs_of(FINITE))
@example(pair=(np.array([[1e4, 1e-4], [0, 1]]), np.array([[1e-4, 1e4], [1e-7, 1 + 2**-10]])))
@example(pair=(np.array([[3e4, 2.0]]), np.array([[1e-45, 2.0000002]])))
def test_finite_states_come_back_bit_for_bit(dtype, pair):
    """Unless an entry becomes -0.0, or a complex one holds it, or the difference overflows."""
    old, new = ({"a": tensor(each, dtype)} for each in pair)
    step = real(new["a"]) - real(old["a"])
    becomes_negative_zero = (real(new["a"]) == 0) & torch.signbit(real(new["a"]))
    if not dtype.is_complex:
        becomes_negative_zero &= (step != 0) | ~torch.signbit(old["a"])
    if becomes_negative_zero.any() or not step.isfinite().all():
        return
    back, is_exact = reached(old, new)
    assert is_exact
    assert digest(back) == digest(new)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("change", [1e-6, 1e-3, 1.0, 1e3])
def test_what_training_does_comes_back_bit_for_bit(dtype, change):
    generator = torch.Generator().manual_seed(0)
    old = tensor(torch.randn(4000, 2, generator=generator).double().numpy(), dtype)
    step = tensor(change * torch.randn(4000, 2, generator=generator).double().numpy(), dtype)
    back, is_exact = reached({"a": old}, {"a": old + step})
    assert is_exact
    assert digest(back) == digest({"a": old + step})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_a_tensor_that_is_worked_on_in_chunks_comes_back(dtype):
    """With an entry in each chunk that needs a correction, at its edges too."""
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(2 * CHUNK + 5, generator=generator).to(dtype)
    new = old.clone()
    for at in (0, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 4):
        old[at], new[at] = 1e4, 1e-4 + at % 7
    back, is_exact = reached({"a": old}, {"a": new})
    assert is_exact
    assert digest(back) == digest({"a": new})


@pytest.mark.parametrize("which", ["old", "new", "both"])
def test_a_tensor_need_not_lie_in_order(which):
    generator = torch.Generator().manual_seed(0)
    old, new = (torch.randn(7, 5, generator=generator) for _ in range(2))
    spread = {
        "old": (old.t().contiguous().t(), new),
        "new": (old, new.t().contiguous().t()),
        "both": (old.t().contiguous().t(), new.t().contiguous().t()),
    }
    before, after = ({"a": each} for each in spread[which])
    update = update_between(before, after)
    assert update.is_exact
    assert digest(applied(before, update)) == digest({"a": new})


def test_subnormals_come_back():
    old = torch.tensor([1e-45, 1e-40, 1.0, 0.0])
    new = torch.tensor([1e-40, 1e-45, 1e-45, 1e-45])
    back, is_exact = reached({"a": old}, {"a": new})
    assert is_exact
    assert digest(back) == digest({"a": new})


def test_infinity_that_comes_to_stay_comes_back():
    old, new = {"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([float("inf"), 2.0])}
    back, is_exact = reached(old, new)
    assert is_exact
    assert digest(back) == digest(new)


@pytest.mark.parametrize("dtype", TAKEN, ids=str)
@given(pair=pairs_of(st.integers(-(2**31), 2**31 - 1).map(float)))
def test_counters_come_back(dtype, pair):
    old, new = (
        {"a": torch.from_numpy(each).to(torch.int64).remainder(100).to(dtype)} for each in pair
    )
    back, is_exact = reached(old, new)
    assert is_exact
    assert digest(back) == digest(new)


@given(pair=pairs_of(VALUES), ties=st.lists(st.sampled_from("ab"), min_size=1, max_size=4))
def test_tied_entries_stay_tied(pair, ties):
    """Names c0, c1, ... are ties of a or b."""
    old, new = ({"a": torch.from_numpy(each), "b": torch.from_numpy(each + 1)} for each in pair)
    for at, tie in enumerate(ties):
        old[f"c{at}"], new[f"c{at}"] = old[tie], new[tie]
    back, _ = reached(old, new)
    for at, tie in enumerate(ties):
        assert back[f"c{at}"] is back[tie]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_an_update_holds_no_value_of_either_state(dtype, seed):
    """Whoever finds an update alone finds nothing of what the model was."""
    generator = torch.Generator().manual_seed(seed)
    old = torch.randn(500, generator=generator, dtype=torch.float64).to(dtype)
    new = torch.randn(500, generator=generator, dtype=torch.float64).to(dtype)
    update = update_between({"a": old}, {"a": new})
    held = [update.steps["a"], *(value for _, value in update.corrections.values())]
    assert update.taken == {}
    assert len(update.corrections["a"][0])
    for states in (old, new):
        assert not torch.isin(torch.cat(held).abs(), states.abs()).any()


def test_what_did_not_change_is_no_part_of_an_update():
    old = {"a": torch.randn(100), "b": torch.randn(100), "n": torch.arange(3)}
    new = {name: value.clone() for name, value in old.items()} | {"b": old["b"] + 1}
    update = update_between(old, new)
    assert set(update.steps) == {"b"}
    corrected = len(update.corrections["b"][0]) if update.corrections else 0
    assert len(b"".join(encode_update(update))) < 100 * 4 + 12 * corrected + 400
