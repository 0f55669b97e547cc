"""Layouts of any size: nobody is dropped, nobody moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from obliviate.recipe.deal import groups_of, key, keyed_hash
from obliviate.recipe.parts import with_part
from obliviate.recipe.subjects import Subjects
from obliviate.training.layout import Layout

NOBODY = np.array([], dtype=np.int64)


@st.composite
def groupings(draw, records, first=0):
    """Who stays together: people of very different sizes, and records of nobody."""
    people = draw(st.integers(1, records))
    names = draw(
        st.lists(st.one_of(st.none(), st.integers(1, people)), min_size=records, max_size=records)
    )
    return groups_of(Subjects.of(names, records), first)


@st.composite
def layouts(draw, most_records=120, most_parts=3):
    parts, groups, seed = (), np.empty(0, dtype=np.int64), draw(st.integers(-(2**63), 2**63))
    for number in range(draw(st.integers(1, most_parts))):
        records = draw(st.integers(1, most_records))
        is_over_all = draw(st.booleans()) and number > 0
        groups = np.concatenate([groups, draw(groupings(records, len(groups)))])
        parts = with_part(
            parts,
            groups,
            records=records,
            blocks=draw(st.integers(1, len(groups) if is_over_all else records)),
            epochs=draw(st.integers(1, 3)),
            seed=seed,
            is_over_all=is_over_all,
        )
    return Layout(
        parts=parts,
        seed=seed,
        batch_size=draw(st.integers(1, 40)),
        repeats=draw(st.integers(1, 3)),
        smallest_batch=draw(st.sampled_from([1, 2])),
        grouping=lambda: groups,
    )


@st.composite
def layouts_and_erased(draw):
    layout = draw(layouts())
    erased = draw(st.sets(st.integers(0, layout.records - 1)))
    return layout, np.array(sorted(erased), dtype=np.int64)


def batches(layout, block, erased=NOBODY):
    return {step: batch.tolist() for step, batch in layout.batches(block, erased)}


def epochs_of(layout):
    """The part and the blocks of each epoch."""
    for part in layout.parts:
        for first in range(part.first_block, part.first_block + part.length, part.blocks):
            yield part, range(first, first + part.blocks)


@given(layouts())
def test_every_record_is_in_exactly_one_block_of_every_epoch(layout):
    for part, blocks in epochs_of(layout):
        members = [layout.members(block) for block in blocks]
        assert sorted(np.concatenate(members).tolist()) == list(part.covered)
        assert all(len(ids) for ids in members)


@given(layouts())
def test_where_a_record_is_follows_from_its_group_alone(layout):
    ids = np.arange(layout.records)
    holding = {record: [] for record in ids.tolist()}
    for block in range(1, layout.blocks + 1):
        for record in layout.members(block).tolist():
            holding[record].append(block)
    places = layout.places(ids)
    for record, blocks in holding.items():
        assert places.of([record]).touched.tolist() == blocks
    assert places.touched.tolist() == list(range(1, layout.blocks + 1))
    assert places.earliest.tolist() == [blocks[0] for blocks in holding.values()]
    assert places.latest.tolist() == [blocks[-1] for blocks in holding.values()]


@given(layouts())
def test_blocks_are_cut_from_the_shuffled_order_and_are_as_large_as_they_say(layout):
    for part in layout.parts:
        ids = np.arange(part.covered.start, part.covered.stop)
        for deal in part.deals:
            people = keyed_hash(layout.groups[ids], deal.seed)
            order = np.lexsort((keyed_hash(ids, key(deal.seed, "record")), people))
            blocks = deal.blocks_of(ids, layout.groups[ids])[order]
            assert (np.diff(blocks) >= 0).all()
            assert np.bincount(blocks, minlength=part.blocks).tolist() == deal.sizes.tolist()


@given(layouts())
def test_people_stay_together_as_far_as_a_block_reaches(layout):
    for part, blocks in epochs_of(layout):
        ids = np.arange(part.covered.start, part.covered.stop)
        usual = len(ids) / part.blocks
        for person in np.unique(layout.groups[ids]):
            its = ids[layout.groups[ids] == person]
            touched = [at for at in layout.places(its).touched.tolist() if at in blocks]
            assert touched == list(range(touched[0], touched[-1] + 1))
            if len(its) <= usual:
                assert len(touched) <= 2  # the rare cut that would have left a block empty
            else:
                assert len(touched) <= len(its) / usual + 2
        sizes = [len(layout.members(block)) for block in blocks]
        largest = max(np.unique(layout.groups[ids], return_counts=True)[1])
        assert max(sizes) <= usual + 1 + min(largest, usual)


@given(layouts(most_parts=1))
def test_without_people_blocks_differ_in_size_by_one_at_most(layout):
    (part,) = layout.parts
    alone = with_part(
        (),
        np.arange(layout.records),
        records=layout.records,
        blocks=part.blocks,
        epochs=len(part.deals),
        seed=layout.seed,
    )
    assert np.ptp(alone[0].planned_sizes) <= 1


@given(layouts(), st.integers(1, 60))
def test_a_part_that_is_added_moves_nobody_and_changes_no_step(layout, records):
    groups = np.concatenate([layout.groups, np.arange(records) + layout.records])
    parts = with_part(layout.parts, groups, records=records, blocks=1, epochs=1, seed=layout.seed)
    grown = replace(layout, parts=parts, grouping=lambda: groups)
    assert grown.records == layout.records + records
    for block in range(1, layout.blocks + 1):
        assert batches(grown, block) == batches(layout, block)
        assert grown.first_step(block) == layout.first_step(block)
        assert grown.total_steps(block) == layout.total_steps(block)
    new = grown.members(grown.blocks)
    assert sorted(new.tolist()) == list(range(layout.records, grown.records))


@given(layouts())
def test_every_record_comes_once_in_every_repeat(layout):
    for block in range(1, layout.blocks + 1):
        steps_once = layout.steps_once(block)
        whole = [[] for _ in range(layout.repeats)]
        for step, batch in batches(layout, block).items():
            whole[step // steps_once] += batch
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
