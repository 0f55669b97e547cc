"""The product's first promise: erasing exactly = never having trained on it, bit for bit."""

import itertools
import shutil

import pytest

import obliviate as ob
from tests.models import BLOCKS, MODELS, OPTIMIZERS, SCHEDULES, images, recipe, records_in

CASES = list(itertools.product(MODELS, OPTIMIZERS, SCHEDULES))
AS_SOON_AS_POSSIBLE = ob.DeepObliviate(epsilon=10.0)  # stops as soon as it can


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A trained run for each case, made once; tests work on copies."""
    made = {}

    def original(case):
        if case not in made:
            folder = tmp_path_factory.mktemp("-".join(case))
            ob.fit(recipe(*case), images(), folder / "run", blocks=BLOCKS)
            made[case] = folder / "run"
        return made[case]

    return original


@pytest.fixture(params=CASES, ids="/".join, scope="module")
def case(request):
    return request.param


@pytest.fixture
def run(case, originals, tmp_path):
    shutil.copytree(originals(case), tmp_path / "run")
    return ob.load(tmp_path / "run", recipe(*case), images())


@pytest.fixture
def never(case, tmp_path):
    """The digest of training that never saw some records."""

    def digest(records):
        exclude = sorted(records)
        return ob.fit(
            recipe(*case), images(), tmp_path / "never", blocks=BLOCKS, exclude=exclude
        ).digest

    return digest


def test_one_record(run, never):
    before = run.digest
    erasure = run.forget(records=[40], method="exact")
    assert erasure.digest == run.digest == never([40]) != before
    assert erasure.guarantee == run.guarantee == "exact"


def test_a_subject_in_five_blocks(run, never):
    records = records_in(run, 2, 3, 4, 5, 6)
    assert run.forget(records=records, method="exact").digest == never(records)


def test_a_whole_block(run, never):
    records = run.trainer.layout.members(3).tolist()
    assert run.forget(records=records, method="exact").digest == never(records)


def test_two_requests_in_a_row(run, never):
    early, late = records_in(run, 2, 5)
    run.forget(records=[late], method="exact")
    run.forget(records=[early], method="exact")
    assert run.digest == never([early, late])


def test_a_request_after_a_fast_one_and_a_settle(run, never):
    first, second = records_in(run, 1, 3)
    fast = run.forget(records=[first], method=AS_SOON_AS_POSSIBLE)
    assert fast.guarantee == "approximate"
    assert fast.blocks_replayed < BLOCKS
    assert run.settle().guarantee == "exact"
    run.forget(records=[second], method="exact")
    assert run.digest == never([first, second])
