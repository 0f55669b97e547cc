"""A disk budget: what a chain takes, and the chain that fits."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import obliviate as ob
from obliviate.chain.spacing import (
    ROOM,
    Sizes,
    bytes_of,
    chain_within,
    keyframe_count,
    keyframe_spacing,
)
from obliviate.errors import InvalidOption
from tests.models import images, recipe

SIZES = st.builds(
    Sizes.expected, state_bytes=st.integers(1, 10**9), moments_bytes=st.integers(0, 2 * 10**9)
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2e9),
        ("500 MB", 5e8),
        ("1.5g", 1.5e9),
        ("12", 12),
        (12, 12),
        ("3kb", 3e3),
        (1e6, 1e6),
    ],
)
def test_a_size_is_read(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-2GB", "2 apples", "0", 0, "2GiB", None, True])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InvalidOption, match="disk budget"):
        bytes_of(text)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 299))
def test_keyframes_are_counted_as_the_chain_sets_them(blocks, spacing, gap):
    gap = min(gap, blocks - 1)
    placed = {block for block in range(gap + 1, blocks + 1) if block % spacing == 0}
    assert keyframe_count(blocks, spacing, gap) == len({0, *placed, blocks})


@pytest.mark.parametrize(("epochs", "blocks", "keep"), [(3, 6, 3), (4, 5, 1), (3, 1, 1)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam-carried"])
def test_what_a_chain_holds_is_counted_as_it_is_kept(tmp_path, epochs, blocks, keep, optimizer):
    made = replace(recipe("mlp", optimizer), epochs=epochs)
    with ob.fit(made, images(), tmp_path / "run", blocks=blocks, keep=keep) as run:
        entries, spacing = run.chain().entries, run.chain().spacing
    moments = 10**8 if optimizer == "adam-carried" else 0
    sizes = Sizes(update_bytes=1, keyframe_bytes=10**4, moments_bytes=moments)
    assert sizes.chain_bytes(blocks, spacing, epochs=epochs, keep=keep) == (
        sum(entry.update is not None for entry in entries)
        + 10**4 * sum(entry.keyframe is not None for entry in entries)
        + 10**8 * sum(entry.optimizer is not None for entry in entries)
    )


@given(SIZES, st.integers(1, 200), st.floats(0, 1.5))
def test_the_chain_fits_and_no_better_one_does(sizes, blocks, share):
    budget = share * sizes.chain_bytes(blocks, keyframe_spacing(blocks))
    assume(budget >= sizes.chain_bytes(1, 1))
    number, spacing, _ = chain_within(ROOM * budget, sizes, blocks)
    assert 1 <= number <= blocks
    assert sizes.chain_bytes(number, spacing) <= budget
    if number < blocks:
        assert sizes.chain_bytes(number + 1, number + 1) > budget
    if spacing > keyframe_spacing(number):
        assert sizes.chain_bytes(number, spacing - 1) > budget
    if share >= 1:
        assert (number, spacing) == (blocks, min(blocks, keyframe_spacing(blocks)))


@given(SIZES)
def test_too_small_a_budget_is_refused(sizes):
    with pytest.raises(InvalidOption, match="one block"):
        chain_within(0.99 * ROOM * sizes.chain_bytes(1, 1), sizes, 100)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum-carried", "adam-carried"])
@pytest.mark.parametrize("share", [1.0, 0.9, 0.5])
def test_a_run_keeps_to_its_budget(tmp_path, optimizer, share):
    made = recipe("mlp", optimizer)
    free = ob.fit(made, images(), tmp_path / "free", blocks=18).stock().size_bytes()
    budget = int(share * free)
    run = ob.fit(made, images(), tmp_path / "run", blocks=18, disk_budget=budget)
    assert run.stock().size_bytes() <= budget
    again = ob.fit(made, images(), tmp_path / "run", blocks=18, disk_budget=budget)
    assert (again.digest, again.facts.blocks) == (run.digest, run.facts.blocks)
    entries = run.chain().entries
    spacing = run.facts.vault["spacing"]
    keyframes = [entry.block for entry in entries if entry.keyframe]
    assert keyframes == sorted({*range(0, run.facts.blocks + 1, spacing), run.facts.blocks})


def test_a_budget_that_holds_nothing_makes_no_run(tmp_path):
    with pytest.raises(InvalidOption, match="more room"):
        ob.fit(recipe(), images(), tmp_path / "run", blocks=6, disk_budget="10B")
    assert not (tmp_path / "run").exists()
