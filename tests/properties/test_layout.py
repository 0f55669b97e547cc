"""Layouts of any size: nobody is dropped, nobody moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from obliviate.training.layout import Layout, parts_of

NOBODY = np.array([], dtype=np.int64)


@st.composite
def layouts(draw, most_records=120):
    sizes = []
    for _ in range(draw(st.integers(1, 3))):
        records = draw(st.integers(1, most_records))
        sizes.append((records, draw(st.integers(1, records))))
    return Layout(
        parts=parts_of(sizes),
        seed=draw(st.integers(-(2**63), 2**63)),
        batch_size=draw(st.integers(1, 40)),
        epochs=draw(st.integers(1, 3)),
        smallest_batch=draw(st.sampled_from([1, 2])),
    )


@st.composite
def layouts_and_erased(draw):
    layout = draw(layouts())
    erased = draw(st.sets(st.integers(0, layout.records - 1)))
    return layout, np.array(sorted(erased), dtype=np.int64)


def batches(layout, block, erased=NOBODY):
    return {step: batch.tolist() for step, batch in layout.batches(block, erased)}


@given(layouts())
def test_every_record_is_in_exactly_one_block(layout):
    members = [layout.members(block) for block in range(1, layout.blocks + 1)]
    assert sorted(np.concatenate(members).tolist()) == list(range(layout.records))
    for block, ids in enumerate(members, start=1):
        assert (layout.block_of(ids) == block).all()


@given(layouts())
def test_blocks_differ_in_size_by_one_at_most(layout):
    for part in layout.parts:
        numbers = range(part.first_block, part.first_block + part.blocks)
        sizes = {len(layout.members(block)) for block in numbers}
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1


@given(layouts(), st.integers(1, 60))
def test_a_part_that_is_added_moves_nobody_and_changes_no_step(layout, records):
    sizes = [(part.records, part.blocks) for part in layout.parts]
    grown = replace(layout, parts=parts_of([*sizes, (records, 1)]))
    assert grown.records == layout.records + records
    for block in range(1, layout.blocks + 1):
        assert batches(grown, block) == batches(layout, block)
        assert grown.first_step(block) == layout.first_step(block)
        assert grown.total_steps(block) == layout.total_steps(block)
    new = grown.members(grown.blocks)
    assert sorted(new.tolist()) == list(range(layout.records, grown.records))


@given(layouts())
def test_every_record_comes_once_in_every_epoch(layout):
    for block in range(1, layout.blocks + 1):
        per_epoch = layout.steps(block) // layout.epochs
        whole = [[] for _ in range(layout.epochs)]
        for step, batch in batches(layout, block).items():
            whole[step // per_epoch] += batch
        if layout.smallest_batch == 1:
            assert all(sorted(ids) == sorted(layout.members(block)) for ids in whole)


@given(layouts())
def test_batches_differ_in_size_by_one_at_most_and_are_never_too_large(layout):
    for block in range(1, layout.blocks + 1):
        sizes = [len(batch) for batch in batches(layout, block).values()] or [1]
        assert max(sizes) <= layout.batch_size
        assert max(sizes) - min(sizes) <= 1


@given(layouts())
def test_steps_are_counted_without_a_gap(layout):
    firsts = {part.first_block for part in layout.parts}
    for block in range(1, layout.blocks + 1):
        at, following = layout.first_step(block), layout.first_step(block) + layout.steps(block)
        assert at == 0 or block not in firsts
        is_last = block + 1 in firsts or block == layout.blocks
        assert following == (layout.total_steps(block) if is_last else layout.first_step(block + 1))
        assert all(0 <= step < following - at for step in batches(layout, block))
        if layout.smallest_batch == 1:
            assert list(batches(layout, block)) == list(range(following - at))


@given(layouts_and_erased())
def test_erasing_anybody_moves_nobody_else_and_renumbers_no_step(case):
    layout, erased = case
    gone = set(erased.tolist())
    for block in range(1, layout.blocks + 1):
        left = batches(layout, block, erased)
        for step, batch in batches(layout, block).items():
            expected = [each for each in batch if each not in gone]
            if len(expected) >= layout.smallest_batch:
                assert left.pop(step) == expected
        assert left == {}
