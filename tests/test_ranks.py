"""Several processes train with the bits of one: a group of four goes through all cases once."""

import random
import signal
import time

import numpy as np
import pytest
import torch

import obliviate as ob
from obliviate.run.fingerprint import SAMPLED_RECORDS
from obliviate.states.update import size_bytes
from obliviate.training.exchange import IN_HALVES_BYTES
from obliviate.training.gradients import joined, subtrees
from obliviate.training.room import Plan, Room
from tests.models import images
from tests.ranks import ended, found_by, started
from tests.ranks_child import (
    CASES,
    FEW,
    GONE,
    GRID,
    SECONDS_NAME,
    SPARSE,
    halved,
    shot,
    story,
    timed,
    trained,
    wide,
)

RANKS = 4
KILLS, LEFT_WAITING_SECONDS = 20, 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def found(folder):
    """What each of four ranks has found."""
    ob.fit(SPARSE, images(), folder / "four" / "alone", blocks=2).close()
    return found_by(RANKS, folder / "four", *CASES, "halved", "faults", "failures")


@pytest.mark.parametrize("case", CASES)
def test_four_ranks_have_the_bits_of_one_process(case, found, folder):
    alone = story(case, folder / case.replace(" ", "-"))
    for rank in found[:3]:
        assert {**rank[case], "read": alone["read"]} == alone


def test_large_sums_are_worked_out_in_halves_with_the_same_bits(found, folder):
    assert size_bytes(dict(wide().named_parameters())) > IN_HALVES_BYTES
    alone = halved(folder)
    assert all(rank["halved"] == alone for rank in found[:3])


def test_each_rank_reads_its_own_records_alone(found):
    """Beside the first batch, and those that all of them know the dataset by."""
    first, second = (set(rank["batch norm"]["read"]) for rank in found[1:3])
    assert len(first & second) <= FEW.keywords["batch_size"] + SAMPLED_RECORDS
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
    "sparse": ("invalid_recipe", "the gradient of '2.table.weight' is sparse"),
    "grows": ("invalid_recipe", "the buffer 'seen' has another shape or dtype after a microbatch"),
    "counts": ("not_deterministic", "another result on 4 ranks than in one process"),
    "synchronised": ("invalid_recipe", "'2' is SyncBatchNorm, which exchanges by itself"),
    "wrapped": ("invalid_recipe", "'2' is DistributedDataParallel, which exchanges by itself"),
    "side by side": ("invalid_option", "work side by side is called on 4 ranks"),
    "demo": ("invalid_option", "the demo is called on 4 ranks"),
    "made alone": ("invalid_recipe", "the gradient of '2.table.weight' is sparse"),
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
    assert found[0]["faults"]["is as it was"]


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


def test_a_rank_that_does_not_answer_is_named_with_what_to_do(folder):
    first, second = found_by(2, folder / "late", "late")
    code, message, hint = first["late"]
    assert (code, message) == ("rank_lost", "rank 1 did not answer for 8.0 s")
    assert "end what is left of all ranks, and run the same command again" in hint
    assert second["late"][0] == "rank_lost"
    with ob.load(folder / "late" / "run", CASES["batch norm"], images()) as run:
        assert run.forget(records=GONE, method="exact").guarantee == "exact"


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
    """Twenty times one of four is killed at any instant of its work; the same call goes on."""
    case, chance, killed, stories = "batch-norm-cnn, adam-carried", random.Random(1), 0, 0
    alone = trained(case, folder / "never-killed")
    assert ended(started(RANKS, timed, case, folder / "undisturbed")) == [0] * RANKS
    usual = float((folder / "undisturbed" / SECONDS_NAME).read_text())
    while killed < KILLS:
        place, stories = folder / f"killed-{stories}", stories + 1
        assert stories <= KILLS, f"{killed} of {2 * KILLS} kills hit a rank at work"
        for most in (1, 0.5):  # of a run that goes on there is less left
            victim, seconds = chance.randrange(RANKS), chance.uniform(0, most * usual)
            begun = time.monotonic()
            codes = ended(started(RANKS, shot, case, place, victim, seconds))
            assert time.monotonic() - begun < LEFT_WAITING_SECONDS
            is_killed = codes[victim] == -signal.SIGALRM
            killed += is_killed
            if not is_killed and most == 1:  # it took no longer than that
                usual = min(usual, seconds)
        assert ended(started(RANKS, trained, case, place)) == [0] * RANKS
        with ob.load(place, GRID[case], images()) as run:
            assert run.digest == alone["forget"]
