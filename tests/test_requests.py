"""Requests: registered now, carried out later, together, and to their end."""

import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

import obliviate as ob
from obliviate import clock, errors
from obliviate.policy import Policy
from tests.models import BLOCKS, Guarded, images, recipe, records_in

FAST = ob.DeepObliviate(epsilon=9)
SUBJECTS = [f"u{record % 36}" for record in range(72)]


@pytest.fixture
def run(tmp_path):
    return ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS, subjects=SUBJECTS)


def states(run):
    return {facts.id: facts.state for facts in run.ledger.requests.all()}


def never(run, records):
    folder = run.folder.with_name("never")
    return ob.fit(recipe(), images(), folder, blocks=BLOCKS, exclude=records)


def test_a_request_is_registered_and_changes_nothing_else(run):
    digest = run.digest
    facts = run.request(subjects=["u4"], due="2099-12-20", method=FAST)
    assert (facts.id, facts.state, facts.records) == (1, "requested", 2)
    assert facts.due == "2099-12-20T23:59:59+00:00"
    assert facts.method == {"name": "deepobliviate", "epsilon": 9}
    assert run.digest == digest
    assert run.status().erased == 0
    assert [entry.event for entry in run.ledger.journal()][-1] == "request received"


def test_a_deadline_is_a_month_from_now_if_none_is_given(run):
    due = datetime.fromisoformat(run.request(records=[1]).due)
    assert abs(due - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=5)


def test_requests_are_carried_out_together_and_come_to_their_end(run):
    early, late, third = records_in(run, 1, each=3)
    run.request(records=[early], method=FAST)
    run.request(records=[late], method=FAST)
    run.request(records=[third], method="exact")
    (done,) = run.work()
    assert (done.records, done.guarantee) == (2, "approximate")
    assert states(run) == {1: "destroyed", 2: "destroyed", 3: "requested"}
    assert run.work() == []
    (settled,) = run.work(everything=True)
    assert settled.guarantee == "exact"
    assert set(states(run).values()) == {"settled"}
    assert run.digest == never(run, [early, late, third]).digest
    assert all(facts.closed for facts in run.ledger.requests.all())
    assert run.ledger.faults() == []


def test_forget_is_a_request_too(run):
    (record,) = records_in(run, 2)
    run.forget(records=[record], method=FAST)
    run.settle()
    (facts,) = run.ledger.requests.all()
    assert (facts.state, facts.erasure, facts.records) == ("settled", 1, 1)


def test_a_request_for_somebody_who_is_forgotten_meanwhile_is_closed_with_it(run):
    (record,) = records_in(run, 2)
    run.request(records=[record], method="exact")
    run.forget(records=[record], method=FAST)
    assert states(run) == {1: "destroyed", 2: "destroyed"}
    run.settle()
    assert states(run) == {1: "settled", 2: "settled"}


def test_a_request_for_somebody_who_was_forgotten_before_is_closed_at_once(run):
    (record,) = records_in(run, 2)
    run.forget(records=[record], method="exact")
    facts = run.request(records=[record])
    assert facts.state == "settled"
    assert "were erased" in facts.reason
    assert run.queue().waiting == ()


def test_a_near_deadline_brings_one_exact_replay_for_all(run):
    first, second = records_in(run, 2, 3)
    soon = clock.now() + timedelta(days=1)
    run.request(records=[first], method=FAST)
    run.request(records=[second], method="exact", due=soon)
    queue = run.queue()
    assert [(step.method["name"], step.requests) for step in queue.steps] == [("exact", (1, 2))]
    assert queue.settle_by < clock.stamp(soon)
    (done,) = run.work()
    assert (done.guarantee, done.records) == ("exact", 2)
    assert set(states(run).values()) == {"settled"}


def test_a_clock_that_was_set_back_delays_nothing(run, monkeypatch):
    (record,) = records_in(run, 2)
    run.request(records=[record], method="exact", due=clock.now() + timedelta(days=1))
    long_ago = datetime(2001, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(clock, "now", lambda: long_ago)
    assert len(run.work()) == 1


def test_the_queue_says_what_waiting_saves(run):
    for record in records_in(run, 1, 1, 1, each=3)[:3]:
        run.request(records=[record], method="exact")
    queue = run.queue()
    assert len(queue.waiting) == 3
    assert queue.seconds_together == pytest.approx(queue.seconds_alone / 3)
    assert queue.seconds_saved == pytest.approx(queue.seconds_alone * 2 / 3)
    assert queue.seconds_exact == pytest.approx(queue.seconds_together)
    assert run.queue(Policy(fast_first=False)).steps == ()


def test_a_refused_request_is_closed_and_not_carried_out(run):
    run.request(records=[3])
    facts = run.refuse(1, "withdrawn")
    assert (facts.state, facts.reason) == ("refused", "withdrawn")
    assert run.work(everything=True) == []
    assert run.status().erased == 0
    for number, said in ((1, "cannot be refused any more"), (9, "no request 9")):
        with pytest.raises(errors.UnknownRequest, match=said):
            run.refuse(number, "again")


def test_a_failed_forget_is_refused_and_a_failed_request_goes_on_waiting(tmp_path):
    data = Guarded(images())
    run = ob.fit(recipe(), data, tmp_path / "run", blocks=BLOCKS)
    first, other = records_in(run, 2, 4)
    run.request(records=[first], method="exact")
    data.forbidden = {other}  # it cannot be read for the moment
    with pytest.raises(errors.TrainingFailed):
        run.forget(records=[records_in(run, 3)[0]], method="exact")
    assert states(run) == {1: "requested", 2: "refused"}
    assert "was read" in run.ledger.requests.request(2).reason
    with pytest.raises(errors.TrainingFailed):
        run.work(everything=True)
    assert states(run)[1] in ("planned", "replaying")
    data.forbidden = set()
    run.work(everything=True)
    assert states(run)[1] == "settled"
    assert run.ledger.erased().tolist() == [first]


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({}, errors.InvalidOption, "names nobody"),
        ({"records": [999]}, errors.UnknownRecord, "999"),
        ({"subjects": ["nobody"]}, errors.UnknownSubject, "nobody"),
        ({"records": [1], "due": "2001-01-01"}, errors.InvalidOption, "has passed"),
        ({"records": [1], "due": "soon"}, errors.InvalidOption, "is no date"),
        ({"records": [1], "method": "magic"}, errors.UnknownMethod, "magic"),
        ({"records": range(72)}, errors.NothingLeft, "every record"),
    ],
    ids=["nobody", "record", "subject", "past", "date", "method", "everybody"],
)
def test_wrong_requests_are_not_registered(run, asked, error, said):
    with pytest.raises(error, match=said):
        run.request(**asked)
    assert run.ledger.requests.all() == []


def test_the_subject_key_can_be_destroyed(run):
    run.request(subjects=["u4"], method=FAST)
    key = run.facts.subject_key
    run.ledger.destroy_subject_key()
    run.ledger.close()
    kept = b"".join(path.read_bytes() for path in run.folder.glob("ledger.sqlite*"))
    assert key not in kept
    again = ob.load(run.folder, recipe(), images())
    with pytest.raises(errors.UnknownSubject, match="was destroyed"):
        again.forget(subjects=["u5"])
    (done,) = again.work(everything=True)  # requests that wait know their records
    assert done.records == 2
    assert again.ledger.faults() == []


def test_a_file_from_outside_is_found_by_the_journal(run):
    run.request(records=[3], due="2099-01-01")
    run.ledger.close()
    connection = sqlite3.connect(run.folder / "ledger.sqlite")
    connection.execute("UPDATE requests SET due = '2199-01-01T23:59:59+00:00'")
    connection.commit()
    connection.close()
    assert run.ledger.faults() == ["requests, id 1: not what was written"]
