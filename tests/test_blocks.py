"""Blocks and batches: who is trained on where."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from obliviate.recipe.deal import groups_of, key, keyed_hash
from obliviate.recipe.parts import with_part
from obliviate.recipe.subjects import Subjects
from obliviate.training.layout import Layout

NOBODY = np.array([], dtype=np.int64)


def layout(**changes) -> Layout:
    sizes = {"records": 50, "blocks": 6, "epochs": 1, "seed": 1, "batch_size": 4, "repeats": 2}
    chosen = sizes | changes
    its = {name: chosen.pop(name) for name in ("records", "blocks", "epochs")}
    deal_seed = chosen.pop("deal_seed", chosen["seed"])
    return Layout(parts=with_part((), np.arange(its["records"]), seed=deal_seed, **its), **chosen)


def slots(layout: Layout, erased=NOBODY):
    """Every (block, step) and the ids of its batch."""
    return {
        (block, step): batch.tolist()
        for block in range(1, layout.blocks + 1)
        for step, batch in layout.batches(block, np.array(sorted(erased), dtype=np.int64))
    }


def test_a_layout_depends_on_its_numbers_alone():
    assert slots(layout()) == slots(layout())


def test_another_seed_gives_other_blocks_and_other_batches():
    one, other = layout(seed=1), layout(seed=2)
    ids = np.arange(50)
    assert (one.places(ids).blocks != other.places(ids).blocks).sum() > 25
    assert slots(one) != slots(other)


def test_batches_are_drawn_anew_in_every_repeat():
    steps_once = layout(blocks=1).steps(1) // 2
    batches = slots(layout(blocks=1))
    assert [sorted(batches[1, at]) for at in range(steps_once)] != [
        sorted(batches[1, at + steps_once]) for at in range(steps_once)
    ]


@pytest.mark.parametrize(("records", "blocks"), [(1, 1), (7, 7), (23, 5), (23, 1)])
def test_no_record_is_dropped_as_a_remainder(records, blocks):
    """Seven of 23 records were never trained on in a known program for sharded unlearning."""
    batches = slots(layout(records=records, blocks=blocks, batch_size=8, repeats=3))
    seen = [record for batch in batches.values() for record in batch]
    assert sorted(seen) == sorted(list(range(records)) * 3)


def test_the_order_of_the_records_does_not_move_anybody():
    """The place of a record is a function of its own id: more records shift nobody's hash."""
    few, many = np.arange(10), np.arange(1000)
    assert (keyed_hash(few, 5) == keyed_hash(many, 5)[:10]).all()


def test_an_emptied_batch_is_skipped_and_its_step_number_stays_free():
    whole = slots(layout())
    place, batch = next((place, batch) for place, batch in whole.items() if place[0] == 3)
    left = slots(layout(), erased=batch)
    assert place not in left
    for (block, step), ids in whole.items():
        expected = [each for each in ids if each not in batch]
        assert left.get((block, step), []) == expected


def test_batches_too_small_for_batch_norm_are_skipped():
    whole = slots(layout(smallest_batch=2))
    place, batch = next(iter(whole.items()))
    assert len(slots(layout(smallest_batch=2), erased=batch[:-2])[place]) == 2
    assert place not in slots(layout(smallest_batch=2), erased=batch[:-1])
    assert len(slots(layout(smallest_batch=1), erased=batch[:-1])[place]) == 1


def test_a_chain_of_which_all_are_erased_has_no_batches_but_keeps_its_steps():
    emptied = layout()
    assert slots(emptied, erased=range(50)) == {}
    assert emptied.total_steps(1) == sum(emptied.steps(block) for block in range(1, 7))


def test_keys_of_two_purposes_differ_and_fit_in_64_bits():
    keys = {key(seed, purpose, at) for seed in (0, 1, -1) for purpose in "ab" for at in range(50)}
    assert len(keys) == 300
    assert all(0 <= each < 2**64 for each in keys)


@pytest.mark.statistical
@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_consecutive_ids_hash_uniformly(seed):
    """Pearson's chi-squared over 64 cells, of the high and of the low bits of 20,000 hashes.

    False-alarm rate: 1e-6 for each of the six statistics, were the seeds drawn at random.
    """
    hashes = keyed_hash(np.arange(20_000), key(seed, "block"))
    for cells in (hashes >> np.uint64(58), hashes & np.uint64(63)):
        counts = np.bincount(cells.astype(np.int64), minlength=64)
        expected = 20_000 / 64
        assert ((counts - expected) ** 2 / expected).sum() < chi2.isf(1e-6, df=63)


@pytest.mark.statistical
def test_hashes_under_two_keys_are_independent():
    """Chi-squared over the 16 x 16 table of the high bits under two keys, 20,000 ids.

    False-alarm rate: 1e-6 for each of the two pairs of keys, were the seeds drawn at random.
    """
    for other in (key(2, "block"), key(1, "slot", 0)):
        ids = np.arange(20_000)
        pair = [keyed_hash(ids, each) >> np.uint64(60) for each in (key(1, "block"), other)]
        counts = np.bincount((pair[0] * np.uint64(16) + pair[1]).astype(np.int64), minlength=256)
        expected = 20_000 / 256
        assert ((counts - expected) ** 2 / expected).sum() < chi2.isf(1e-6, df=255)


@pytest.mark.statistical
def test_one_bit_of_the_id_turns_half_of_the_hash():
    """Flipped bits of 2,000 hashes when the lowest bit of the id flips: Bin(128,000, 1/2).

    False-alarm rate: 6e-7 (five standard deviations), were the key drawn at random.
    """
    ids = np.arange(0, 4000, 2)
    flipped = keyed_hash(ids, key(0, "x")) ^ keyed_hash(ids + 1, key(0, "x"))
    bits = np.unpackbits(flipped.view(np.uint8)).sum()
    assert abs(bits - 64_000) < 5 * np.sqrt(128_000) / 2


def test_a_block_seed_fixes_the_blocks_and_leaves_the_batches_to_the_seed():
    ids = np.arange(50)
    one, other = layout(seed=1, deal_seed=7), layout(seed=2, deal_seed=7)
    assert (one.places(ids).blocks == other.places(ids).blocks).all()
    assert slots(one) != slots(other)
    assert slots(layout(seed=1, deal_seed=1)) == slots(layout(seed=1))


def test_every_epoch_deals_all_records_anew():
    dealt = layout(epochs=3)
    assert dealt.blocks == 18
    epochs = [
        [sorted(dealt.members(block).tolist()) for block in range(first, first + 6)]
        for first in (1, 7, 13)
    ]
    for blocks in epochs:
        assert sorted(record for block in blocks for record in block) == list(range(50))
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_the_last_block_that_held_a_record_so_far():
    dealt = layout(epochs=3)
    places = dealt.places(np.arange(dealt.records))
    members = {block: dealt.members(block) for block in range(1, dealt.blocks + 1)}
    for until in (0, 1, dealt.blocks // 2, dealt.blocks):
        expected = np.zeros(dealt.records, dtype=np.int64)
        for block in range(1, until + 1):
            expected[members[block]] = block
        assert places.held(until).tolist() == expected.tolist()


def test_the_records_of_a_person_lie_in_one_block_of_every_epoch():
    people = Subjects.of([f"p{at % 12}" for at in range(60)], 60)
    groups = groups_of(people)
    parts = with_part((), groups, records=60, blocks=4, epochs=5, seed=3)
    dealt = Layout(parts=parts, seed=3, batch_size=8, grouping=lambda: groups)
    for person in range(12):
        places = dealt.places(np.arange(person, 60, 12))
        assert len(places.touched) == 5
    sizes = {len(dealt.members(block)) for block in range(1, 21)}
    assert sizes <= {10, 15, 20}


def test_a_person_larger_than_a_block_fills_blocks_that_follow_each_other():
    people = Subjects.of(["large"] * 40 + [None] * 20, 60)
    groups = groups_of(people)
    parts = with_part((), groups, records=60, blocks=6, epochs=4, seed=0)
    dealt = Layout(parts=parts, seed=0, batch_size=8, grouping=lambda: groups)
    for epoch in range(4):
        touched = [at for at in dealt.places(np.arange(40)).touched if (at - 1) // 6 == epoch]
        assert touched == list(range(touched[0], touched[-1] + 1))
        assert 4 <= len(touched) <= 5
        assert all(len(dealt.members(at)) for at in range(epoch * 6 + 1, epoch * 6 + 7))


def test_a_record_of_several_people_goes_with_the_first_named():
    people = Subjects.of([("a", "b"), "b", "a", None, ("b", "a")], 5)
    assert groups_of(people, 100).tolist() == [100, 101, 100, 103, 101]
