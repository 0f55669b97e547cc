"""Requests: registered now, carried out later, together, and to their end."""

import sqlite3
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch
from torch import nn

import obliviate as ob
from obliviate import clock, errors
from obliviate.desk.policy import Policy
from obliviate.evidence import gathered, page
from obliviate.run.make import new_trainer
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
    return ob.fit(recipe(), images(), folder, blocks=BLOCKS, subjects=SUBJECTS, exclude=records)


def test_a_request_is_registered_and_changes_nothing_else(run):
    digest = run.digest
    facts = run.request(subjects=["u4"], due="2099-12-20", method=FAST)
    assert (facts.id, facts.state, facts.records) == (1, "requested", 2)
    assert facts.due == "2099-12-20T23:59:59+00:00"
    assert facts.method == {"name": "deepobliviate", "epsilon": 9}
    assert run.digest == digest
    assert run.status().erased == 0
    assert [entry.event for entry in run.ledger.journal.entries()][-1] == "request received"


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


def test_one_call_with_a_clock_far_ahead_ends_no_fast_path(run, monkeypatch):
    first, second = records_in(run, 1, 2)
    with monkeypatch.context() as patched:
        patched.setattr(clock, "now", lambda: datetime(2090, 1, 1, tzinfo=UTC))
        run.request(records=[first], method="exact")
    run.request(records=[second], method="exact")
    assert run.queue().steps == ()
    assert run.work() == []


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
    work = run.work(everything=True)
    assert work == []
    (failure,) = work.failed
    assert failure.requests == (1,)
    assert "was read" in str(failure.error)
    assert states(run)[1] == "requested"
    assert "was read" in run.ledger.requests.request(1).reason
    data.forbidden = set()
    run.work(everything=True)
    assert states(run)[1] == "settled"
    assert run.ledger.records.erased().tolist() == [first]


class Paired:
    """Records of which one cannot be trained on without another, and a step that says so."""

    WHOLE, HALF = 100.0, 200.0

    def __init__(self, half, whole):
        self.data = images()
        self.data.tensors[0][half, 0, 0, 0] = self.HALF
        self.data.tensors[0][whole, 0, 0, 0] = self.WHOLE

    def step(self, model, batch):
        x, y = batch
        marks = set(x[:, 0, 0, 0].tolist())
        if self.HALF in marks and self.WHOLE not in marks:
            raise ValueError("a half without its whole")
        return nn.functional.cross_entropy(model(x.clamp(-5, 5)), y)


@pytest.mark.parametrize("everything", [False, True])
def test_a_request_that_cannot_be_carried_out_keeps_nobody_else_waiting(tmp_path, everything):
    layout = new_trainer(recipe(repeats=1), images(), 72, BLOCKS).layout
    _, (half, whole, *_) = next(iter(layout.batches(2, np.array([], dtype=np.int64))))
    paired = Paired(half, whole)
    made = recipe(step=paired.step, loss=None, repeats=1)
    run = ob.fit(made, paired.data, tmp_path / "run", blocks=BLOCKS)
    good = one, three, five = records_in(run, 1, 3, 5)
    for records in ([one], [whole], [three], [five]):
        run.request(records=records, method=FAST)
    work = run.work(everything=everything)
    assert [failure.requests for failure in work.failed] == [(2,)]
    assert run.ledger.records.erased().tolist() == sorted(good)
    assert states(run)[2] == "requested"
    assert sum(erasure.records for erasure in work) == 3
    if everything:
        other = ob.fit(made, paired.data, tmp_path / "never", blocks=BLOCKS, exclude=good)
        assert run.digest == other.digest
    # nor those who come later, whatever they call
    run.forget(records=records_in(run, 6), method="exact")
    assert len(run.work().failed) == 1
    assert run.ledger.faults() == []


def test_what_was_carried_out_stays_in_the_answer_when_later_ones_fail(tmp_path, monkeypatch):
    run = ob.fit(recipe(), images(), tmp_path / "run", blocks=24)
    near, far = records_in(run, 2, 1)
    run.request(records=[far], method=FAST)
    run.request(records=[near], method=ob.DeepObliviate(epsilon=8))
    write, kept = type(run.vault).write, []

    def full(vault, *given, **options):
        if any(state == "destroyed" for state in states(run).values()):
            raise errors.StorageFull("no room")
        kept.append(given)
        return write(vault, *given, **options)

    monkeypatch.setattr(type(run.vault), "write", full)
    work = run.work()
    assert len(work) == 1
    assert [str(failure.error) for failure in work.failed] == ["no room"]


def test_two_methods_go_together_where_an_exact_replay_costs_no_more(run):
    first, second = records_in(run, 1, 1, each=2)[:2]
    run.request(records=[first], method=ob.DeepObliviate(epsilon=0.01))
    run.request(records=[second], method=ob.DeepObliviate(epsilon=9))
    (done,) = run.work()
    assert (done.records, done.guarantee) == (2, "exact")
    assert run.digest == never(run, [first, second]).digest


def test_answers_are_facts_and_models_are_read_when_asked_for(run):
    first, second = records_in(run, 3, 1)
    gone = run.forget(records=[first], method=FAST)
    kept = run.forget(records=[second], method="exact")
    assert kept.model.state_dict().keys() == run.model.state_dict().keys()
    assert all(
        torch.equal(a, b)
        for a, b in zip(kept.model.parameters(), run.model.parameters(), strict=True)
    )
    with pytest.raises(errors.ModelGone, match=r"erasure 1 .*replaced by a later one"):
        gone.model  # noqa: B018
    run.forget(records=records_in(run, 2), method="exact")
    kept.model  # noqa: B018 - it was read before


def test_a_request_that_is_refused_meanwhile_is_not_carried_out(run):
    first, second = records_in(run, 1, 2)
    run.request(records=[first], method="exact")
    run.request(records=[second], method="exact")
    other = ob.load(run.folder, recipe(), images())
    waiting = run.ledger.requests.waiting
    calls = []

    def refused_in_between(numbers):
        found = waiting(numbers)
        if not calls:
            calls.append(other.refuse(1, "withdrawn"))
        return found

    run.ledger.requests.waiting = refused_in_between
    (done,) = run.work(everything=True)
    assert done.records == 1
    assert states(run) == {1: "refused", 2: "settled"}


def half_trained(folder, subjects=None):
    """A run whose first training was stopped after block 3."""
    made = recipe("dropout-cnn", "momentum-carried", "cosine")
    events = ob.fit.events(made, images(), folder, blocks=BLOCKS, subjects=subjects)
    next(event for event in events if event.task == "fit" and event.block == event.done == 3)
    events.close()
    return ob.load(folder, made, images())


def goes_on(run, erased, subjects=None):
    """Go on with training, settle, and compare with a training that never saw the erased."""
    trained = ob.fit(run.recipe, images(), run.folder, blocks=BLOCKS)
    trained.settle()
    folder = run.folder.with_name("never")
    whole = ob.fit(run.recipe, images(), folder, blocks=BLOCKS, subjects=subjects, exclude=erased)
    assert trained.digest == whole.digest
    assert trained.status().guarantee == "exact"
    assert trained.verify().passed
    return trained


@pytest.mark.parametrize("method", ["exact", FAST, ob.Calibrated(tolerance=100)])
def test_an_unfinished_run_forgets(tmp_path, method):
    run = half_trained(tmp_path / "run")
    trained, ahead = records_in(run, 2, 5)
    erasure = run.forget(records=[trained, ahead], method=method)
    assert (erasure.records, erasure.blocks_total) == (2, 3)
    assert run.settle().guarantee == "exact"
    assert run.verify().passed
    goes_on(run, [trained, ahead])


def test_an_unfinished_run_carries_requests_out(tmp_path):
    run = half_trained(tmp_path / "run", SUBJECTS)
    run.request(subjects=["u4"], method=FAST)
    (ahead,) = records_in(run, 6)
    run.request(records=[ahead])
    assert len(run.queue().waiting) == 2
    run.work()
    assert {facts.state for facts in run.ledger.requests.all()} <= {"destroyed", "settled"}
    goes_on(run, sorted({4, 40, ahead}), SUBJECTS)


def test_records_that_were_not_trained_on_yet_are_erased_without_a_replay(tmp_path):
    run = half_trained(tmp_path / "run")
    (ahead,) = records_in(run, 6)
    before = run.chain().entries
    erasure = run.forget(records=[ahead])
    assert (erasure.records, erasure.blocks_replayed, erasure.guarantee) == (1, 0, "exact")
    assert "has been trained on yet" in erasure.stop_reason
    assert run.chain().entries == before
    goes_on(run, [ahead])


def test_what_a_model_reads_beside_its_batch_is_not_called_exact(tmp_path):
    made = recipe(reads="more")
    run = ob.fit(made, images(), tmp_path / "run", blocks=BLOCKS)
    erasure = run.forget(records=records_in(run, 2), method="exact")
    assert "does not cover what it reads of the erased records" in erasure.stop_reason
    assert "does not cover" in run.status().caveat
    assert "does not cover" in gathered(run.folder).meaning
    assert ob.load(run.folder, recipe(), images()).status().caveat is None  # it may be found later
    with pytest.raises(errors.InvalidRecipe, match="reads is 'all'"):
        recipe(reads="all")


def test_a_report_tells_of_an_erasure_that_replayed_nothing(tmp_path):
    run = half_trained(tmp_path / "run")
    run.forget(records=records_in(run, 6))
    assert "0 of 6" in page(gathered(run.folder))


@pytest.mark.parametrize("role", ["update", "optimizer"])
def test_a_damaged_object_late_in_a_first_training_leads_in_no_circle(tmp_path, role):
    run = half_trained(tmp_path / "run")
    key = getattr(run.chain().entries[3], role).key
    (path,) = (tmp_path / "run").rglob(f"*{key}*")
    path.write_bytes(b"damaged")
    with pytest.raises(errors.RunDamaged):
        ob.fit(run.recipe, images(), tmp_path / "run", blocks=BLOCKS)
    (record,) = records_in(run, 1)
    run.forget(records=[record], method="exact")  # this replays what is damaged
    goes_on(run, [record])
    run = half_trained(tmp_path / "other")
    key = getattr(run.chain().entries[3], role).key
    (path,) = (tmp_path / "other").rglob(f"*{key}*")
    path.write_bytes(b"damaged")
    assert run.verify(repair=True).rebuilt == (3,)
    ob.fit(run.recipe, images(), tmp_path / "other", blocks=BLOCKS)


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
