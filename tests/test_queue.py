"""The queue: what is said of many requests costs no more questions than of a few."""

from __future__ import annotations

import numpy as np
import pytest

import obliviate as ob
from obliviate.desk.policy import Waiting, batches
from obliviate.errors import NothingLeft
from obliviate.ledger.facts import CARRIED_OUT, OPEN
from obliviate.methods.exact import Exact
from tests.counting import asked
from tests.stories import DUE, METHOD, carried_out, ids, trained

FAST = ob.DeepObliviate(epsilon=9)
SUBJECTS = [f"u{record % 20}" for record in range(40)]


@pytest.fixture
def run(tmp_path, recipe_of, data):
    return ob.fit(recipe_of(), data, tmp_path / "run", blocks=8, subjects=SUBJECTS)


@pytest.fixture
def ledger(tmp_path):
    ledger = trained(tmp_path)
    yield ledger
    ledger.close()


def cost_of(ledger, call):
    with asked(ledger) as counted:
        call()
    return counted.statements, counted.steps


def test_the_last_of_many_requests_costs_what_the_first_did(ledger):
    def register():
        return ledger.requests.register(METHOD, ids(2, 4), due=DUE)

    first = cost_of(ledger, register)
    for _ in range(200):
        register()
    last = cost_of(ledger, register)
    assert last[0] == first[0]
    assert last[1] <= first[1] + 5
    assert ledger.faults() == []


def test_a_request_is_read_alone(ledger):
    for _ in range(100):
        ledger.requests.register(METHOD, ids(2), due=DUE)
    few, many = (cost_of(ledger, lambda n=n: ledger.requests.find(n)) for n in (1, 100))
    assert (many[0], many[1] // 2) == (few[0], few[1] // 2)
    assert ledger.requests.find(100).records == 1
    assert ledger.requests.find(101) is None


def test_only_a_request_of_erased_people_is_closed_at_once(ledger):
    waits = ledger.requests.register(METHOD, ids(4), due=DUE)
    carried_out(ledger, record=3)
    closed = ledger.requests.register(METHOD, ids(3), due=DUE)
    assert closed.reason == "all its records were erased"
    assert ledger.requests.request(waits.id).state == "requested"


def test_a_replayed_block_does_not_write_down_again_what_its_requests_do(ledger):
    from tests.stories import entry

    for _ in range(3):
        ledger.requests.register(METHOD, ids(2), due=DUE)
    number = ledger.erasures.begin("forget", METHOD, ids(2), requests=[1, 2, 3]).id
    for block in (1, 2):
        ledger.erasures.stage([entry(block, "n", origin="replayed", erasure=number)])
    first, second = ledger.journal.entries()[-2:]
    assert set(first.rows["requests"]) == {"1", "2", "3"}
    assert second.rows.get("requests", {}) == {}
    assert {each.state for each in ledger.requests.all()} == {"replaying"}


def test_a_long_queue_costs_as_many_queries_as_a_short_one(run):
    costs = []
    for many in (2, 28):
        for record in range(many):
            run.request(records=[record], method=FAST if record % 2 else "exact")
        costs.append(cost_of(run.ledger, run.queue))
    assert costs[0][0] == costs[1][0]
    queue = run.queue()
    assert len(queue.waiting) == 30
    for each in queue.waiting:
        alone = run.preview(records=each.plan.records, method=str(each.request.method["name"]))
        assert each.plan == alone
    assert queue.seconds_alone == pytest.approx(sum(each.plan.seconds for each in queue.waiting))
    together = [run.preview(records=range(0, 28, 2), method="exact")]
    together.append(run.preview(records=range(1, 28, 2)))
    assert queue.seconds_together == pytest.approx(sum(each.seconds for each in together))


def test_in_a_queue_that_would_leave_nobody_the_last_waits(run):
    run.request(records=range(20))
    run.request(records=range(20, 40))
    assert len(run.queue().waiting) == 2
    work = run.work(everything=True)
    assert run.status().erased == 20
    (failure,) = work.failed
    assert failure.requests == (2,)
    assert isinstance(failure.error, NothingLeft)


def test_closed_requests_are_not_read_for_the_queue(ledger):
    def waiting():
        return ledger.requests.all(*OPEN, *CARRIED_OUT)

    ledger.requests.register(METHOD, ids(4), due=DUE)
    short = cost_of(ledger, waiting)
    for _ in range(100):
        ledger.requests.refuse(ledger.requests.register(METHOD, ids(2), due=DUE).id, "withdrawn")
    long = cost_of(ledger, waiting)
    assert (long[0], long[1] // 2) == (short[0], short[1] // 2)
    assert [each.id for each in waiting()] == [1]
    assert [each.id for each in ledger.requests.all()] == list(range(1, 102))


def test_many_people_are_previewed_with_as_many_queries_as_one(run):
    run.preview(subjects=["u3"])  # a connection may have to be made first
    one = cost_of(run.ledger, lambda: run.preview(subjects=["u3"]))
    many = cost_of(run.ledger, lambda: run.preview(subjects=[f"u{n}" for n in range(18)]))
    assert many[0] <= one[0]
    assert len(run.preview(subjects=["u3", "u4"]).records) == 4


def test_what_is_erased_is_asked_of_the_named_alone(ledger):
    assert ledger.records.erased().tolist() == [8, 9]
    assert ledger.records.erased_among(ids(9, 2, 9)).tolist() == [9]
    assert ledger.records.erased_among(ids()).tolist() == []
    assert ledger.records.erased_count() == 2
    ledger.erasures.begin("forget", METHOD, ids(3), due=DUE)
    assert ledger.records.erased_count() == 2
    assert np.array_equal(ledger.records.erased_among(np.arange(10)), ids(8, 9))


def test_requests_of_one_method_are_one_batch_however_many_methods_there_are():
    def waiting(number, method):
        return Waiting(id=number, due=None, method=method)

    many = [waiting(n, {"name": "deepobliviate", "epsilon": n % 700}) for n in range(1400)]
    found = batches([*many, waiting(9000, {"epsilon": 0, "name": "deepobliviate"})])
    assert len(found) == 700
    assert found[0] == ({"name": "deepobliviate", "epsilon": 0}, [0, 700, 9000])
    assert Exact.name not in {method["name"] for method, _ in found}
