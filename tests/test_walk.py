"""Going through a chain: every object is read once, and what is damaged is named as before."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import obliviate as ob
from obliviate.chain import storing
from obliviate.chain.spacing import ROOM, Sizes
from obliviate.chain.walk import Walk
from obliviate.errors import RunDamaged
from obliviate.vault.folder import Folder
from tests.counting import asked


@pytest.fixture
def run_of(tmp_path, recipe_of, data):
    """A function that makes a run whose keyframes are as far apart as a small disk asks for."""

    def make(blocks):
        folder = tmp_path / str(blocks)
        budget = ROOM * Sizes.expected(60).chain_bytes(blocks, blocks)
        run = ob.fit(recipe_of(), data, folder, blocks=blocks, disk_budget=budget)
        assert run.facts.blocks == blocks
        return run

    return make


@pytest.fixture
def reads(monkeypatch):
    """How often each object was read."""
    counts, read = Counter(), Folder.read

    def counted(place, key):
        counts[key] += 1
        return read(place, key)

    monkeypatch.setattr(Folder, "read", counted)
    return counts


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_walk_reads_what_single_looks_read(run_of):
    chain = run_of(12).chain()
    for steps in (range(13), range(0, 13, 3), [2, 3, 9, 9, 12], [12]):
        walk = Walk(chain)
        for block in steps:
            assert same(walk.state(block), chain.state(block))


def test_a_state_at_hand_stays_as_it_is(run_of):
    chain = run_of(12).chain()
    walk = Walk(chain)
    before = walk.state(3)
    walk.state(4)
    walk.state(9)
    assert same(before, chain.state(3))


def test_verify_reads_every_object_once(run_of, reads):
    run = run_of(16)
    run.ledger.close()
    reads.clear()
    assert run.verify().reproduced == tuple(range(17))
    first = run.chain().entries[0].keyframe.key
    del reads[first]  # keyframes refer to it
    assert set(reads.values()) == {1}


def test_what_verify_asks_of_the_ledger_grows_no_faster_than_the_blocks(run_of):
    counts = []
    for blocks in (6, 24):
        run = run_of(blocks)
        with asked(run.ledger) as counted:
            assert run.verify().passed
        counts.append(counted)
    few, many = counts
    assert many.statements < 5 * few.statements
    assert many.steps < 6 * few.steps


def test_a_request_meanwhile_is_no_change_of_the_chain(run_of):
    run = run_of(10)
    events = run.verify.events()
    for event in events:
        if event.block == 4:
            run.request(records=[1])
    assert run.verify().reproduced == tuple(range(11))


def test_what_is_rewritten_meanwhile_is_skipped(tmp_path, run_of, recipe_of, data):
    run = run_of(10)
    other, events = ob.load(run.folder, recipe_of(), data), run.verify.events()
    found = None
    while found is None:
        try:
            if next(events).block == 4:
                other.forget(records=[int(run.trainer.layout.members(2)[0])], method="exact")
        except StopIteration as end:
            found = end.value
    assert found.passed
    assert found.reproduced == (0, 1, 2, 3)
    assert set(found.skipped) == set(range(4, 11))
    assert "changed meanwhile" in found.skipped[10]


def test_a_lost_update_fails_all_blocks_up_to_the_next_keyframe(run_of, reads):
    run = run_of(12)
    entries = run.chain().entries
    (lost, *_) = [entry for entry in entries[2:] if not entry.keyframe]
    run.vault.destroy(lost.update.key)
    reads.clear()
    found = run.verify()
    until = next(each.block for each in entries if each.block > lost.block and each.keyframe)
    assert set(found.failed) == set(range(lost.block, until + 1))
    assert all(lost.update.key in fault for fault in found.failed.values())
    assert max(reads.values()) <= len([entry for entry in entries if entry.keyframe]) + 1
    walk = Walk(run.chain())
    with pytest.raises(RunDamaged, match=lost.update.key):
        walk.state(lost.block)
    assert same(walk.state(until), run.chain().state(until))


def test_a_forged_digest_fails_its_block_and_the_next(run_of):
    run = run_of(12)
    chain = run.chain()
    forged = next(entry.block for entry in chain.entries[2:] if not entry.keyframe)
    vars(chain.entries[forged])["digest"] = "0" * 64
    walk, fails = Walk(chain), []
    for block in range(forged - 1, forged + 2):
        try:
            walk.state(block)
        except ob.errors.Mismatch as error:
            fails.append((block, error.message))
    assert fails == [(forged, f"the state of block {forged} is not the one that the ledger names")]


def test_fit_and_settle_ask_the_ledger_no_more_for_a_late_block_than_for_an_early_one(
    tmp_path, recipe_of, data, monkeypatch
):
    monkeypatch.setattr(storing, "GROUP_SECONDS", 0.0)  # every block is committed by itself
    monkeypatch.setattr(storing, "SHARE", 0)
    fitted, settled = [], []
    for blocks in (10, 40):
        folder = tmp_path / str(blocks)
        with asked() as counted:
            ob.fit(recipe_of(), data, folder, blocks=blocks).close()
        fitted.append(counted.steps)
        run = ob.load(folder, recipe_of(), data)
        for record in run.trainer.layout.members(2).tolist():
            run.request(records=[record], method=ob.DeepObliviate(epsilon=9))
        run.work()
        with asked() as counted:
            run.settle()
        settled.append(counted.steps)
    for few, many in (fitted, settled):
        assert 0 < many < 5 * few
