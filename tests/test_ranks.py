"""Several processes train with the bits of one: a group of four goes through all cases once."""

import random
import time

import numpy as np
import pytest
import torch

import obliviate as ob
from obliviate.training.gradients import joined, subtrees
from obliviate.training.room import Plan, Room
from tests.models import images
from tests.ranks import ended, found_by, started
from tests.ranks_child import CASES, GONE, GRID, story, trained

RANKS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def found(folder):
    """What each of four ranks has found."""
    return found_by(RANKS, folder / "four", *CASES, "faults", "failures")


@pytest.mark.parametrize("case", CASES)
def test_four_ranks_have_the_bits_of_one_process(case, found, folder):
    alone = story(case, folder / case.replace(" ", "-"))
    for rank in found[:3]:
        assert {**rank[case], "read": alone["read"]} == alone


def test_each_rank_reads_its_own_records_alone(found):
    """Beside those that all of them know the dataset by."""
    first, second = (set(rank["batch norm"]["read"]) for rank in found[1:3])
    assert len(first & second) <= 8
    assert len(first | second) < len(images())


FAULTS = {
    "six": ("invalid_recipe", "microbatches is 6, which 4 ranks cannot share out; give a multiple"),
    "sequence": ("invalid_recipe", 'only "tree" can be shared out'),
    "recipe": ("foreign_recipe", "rank 3 has recipe: epochs 2, rank 0 has 1"),
    "model": ("foreign_recipe", "rank 2 has recipe: model Bag, rank 0 has batch_norm_cnn"),
    "data": ("foreign_data", "rank 1 has other data than rank 0: record "),
    "options": ("invalid_option", "rank 1 has options: blocks 3, rank 0 has 2"),
    "folder": ("invalid_option", "rank 1 has options: path "),
    "invalid": ("invalid_option", "keep is 7; it must be between 1 and 1"),
    "sparse": ("invalid_recipe", "the gradient of '1.table.weight' is sparse"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_all_ranks_are_told_what_is_wrong_on_one(fault, found):
    code, message = FAULTS[fault]
    for rank in found[:3]:
        assert rank["faults"][fault][0] == code
        assert message in rank["faults"][fault][1]
        assert rank["faults"][fault] == found[0]["faults"][fault]


def test_nothing_is_written_before_all_ranks_agree(found):
    assert not found[0]["faults"]["is there"]


def test_a_rank_that_fails_leaves_nobody_waiting(found):
    for rank in found[:3]:
        code, message, _ = rank["failures"]["dataset"]
        assert code == "training_failed"
        assert "rank 2: block 1: the dataset raised ValueError" in message
        assert rank["failures"]["again"] == found[0]["batch norm"]["settle"]


def test_ranks_make_the_same_calls(found):
    for rank in found[:3]:
        assert rank["failures"]["mixed"][1] == "rank 1 calls settle, rank 0 calls verify"


def test_a_rank_that_is_lost_is_named_and_one_process_goes_on(found, folder):
    assert found[3] is None
    for rank in found[:3]:
        assert rank["failures"]["lost"][:2] == ["rank_lost", "rank 3 was lost"]
        assert rank["failures"]["and then"][0] == "rank_lost"
    with ob.load(folder / "four" / "failing", CASES["batch norm"], images()) as run:
        erasure = run.forget(records=[1], method="exact")
        assert erasure.guarantee == "exact"
        assert run.ledger.records.erased().tolist() == sorted([1, *GONE])
        assert run.verify(blocks=[2]).passed


@pytest.mark.parametrize("count", range(2, 13))
def test_subtrees_of_ranks_add_up_to_the_tree(count):
    """However many ranks there are, the sum has the bits of the whole tree."""
    values = np.random.default_rng(count).normal(size=count).astype(np.float32)
    whole, leaves = range(count), {range(at, at + 1): values[at] for at in range(count)}
    for ranks in (each for each in range(1, count + 1) if count % each == 0):
        size = count // ranks
        nodes = [
            node
            for rank in range(ranks)
            for node in subtrees(whole, range(rank * size, (rank + 1) * size))
        ]
        assert sorted(at for node in nodes for at in node) == list(whole)
        sums = {node: joined(node, leaves, np.add) for node in nodes}
        assert joined(whole, sums, np.add) == joined(whole, leaves, np.add)


def test_what_is_absent_leaves_no_trace_in_a_sum():
    tensors = [torch.tensor([0.0, -0.0, 3.0]), torch.ones(2, 2, dtype=torch.float64)]
    buffers = [torch.tensor(7), None, torch.tensor([True, False])]
    plan = Plan(summed=(*tensors,), carried=(*buffers,), numbers=1, pieces=4, device="cpu")
    first, second = Room(plan), Room(plan)
    first.fill([tensors[0], None])
    assert first.carry(buffers) is None
    second.fill([None, None])
    second.add(first)
    one, other = second.tensors()
    assert torch.equal(one.view(torch.int32), tensors[0].view(torch.int32))
    assert other is None
    counted, nothing, flags = second.carried()
    assert (int(counted), nothing, flags.tolist()) == (7, None, [True, False])
    assert first.carry([torch.tensor([7]), None, buffers[2]]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4, 8])
def test_the_number_of_ranks_is_no_part_of_the_program(count, folder):
    found = found_by(count, folder / f"grid-{count}", *GRID)
    for case in GRID:
        alone = trained(case, folder / f"{count}-{case.replace(' ', '-')}")
        assert all(rank[case] == alone for rank in found)


@pytest.mark.slow
def test_ranks_that_are_killed_at_random_go_on_with_the_same_bits(folder):
    """Twenty times one of four is killed at any instant; the same call goes on."""
    case, chance = "batch-norm-cnn, adam-carried", random.Random(1)
    alone, killed = trained(case, folder / "never-killed"), 0
    for story_number in range(100):
        place = folder / f"killed-{story_number}"
        while killed < 20:
            processes = started(RANKS, trained, case, place)
            time.sleep(chance.uniform(2, 12))
            chance.choice(processes).kill()
            codes = ended(processes)
            killed += any(codes)
            if not any(codes):
                break
        if killed == 20:
            break
    assert ended(started(RANKS, trained, case, place)) == [0] * RANKS
    with ob.load(place, GRID[case], images()) as run:
        assert run.digest == alone["forget"]
