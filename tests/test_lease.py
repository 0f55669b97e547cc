"""The lease: one writer at a time, a dead one is not waited for, a sleeper does no harm."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import obliviate as ob
from obliviate.errors import LeaseLost, RunLocked
from obliviate.ledger import Ledger
from obliviate.ledger.lease import is_dead, this_process
from obliviate.vault import Vault
from tests.models import BLOCKS, images, recipe, records_in
from tests.prepared import PROCESSES
from tests.stories import CHAIN, DUE, FIRST, METHOD, ids, make

LONG = 30.0


@pytest.fixture
def ledger(tmp_path):
    """A ledger whose lease does not wait long."""
    ledger = make(tmp_path)
    ledger.lease.beat_seconds, ledger.lease.silence_seconds = 0.1, 1.0
    yield ledger
    ledger.lease.release()
    ledger.close()


@contextlib.contextmanager
def holder(folder, *options, beat_seconds=0.1, kind="holding"):
    """Another process that holds the lease; it writes a block for every line it is given."""
    words = [sys.executable, "-m", "tests.lease_child", kind, str(folder), str(beat_seconds)]
    process = subprocess.Popen(
        [*words, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def told(process, line):
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def taken(ledger, patience_seconds=LONG) -> list[str]:
    """Take the lease; who was waited for meanwhile."""
    return list(ledger.lease.held(patience_seconds=patience_seconds))


def test_it_is_taken_at_once_and_given_back(tmp_path, ledger):
    other = Ledger(tmp_path)
    for _ in range(3):
        assert taken(ledger, 0) == []
        ledger.lease.release()
        assert taken(other, 0) == []
        other.lease.release()
    other.lease.release()  # once more is no harm
    other.close()


def test_a_second_process_waits_and_then_goes_on(tmp_path, ledger):
    with holder(tmp_path, "and release") as process:
        waited = threading.Thread(target=lambda: time.sleep(0.5) or told(process, 1))
        waited.start()
        others = taken(ledger)
        waited.join()
        assert set(others) == {f"process {process.pid} on {this_process()['host']}"}
    ledger.chain.append([CHAIN[2]])
    assert [entry.block for entry in ledger.chain.entries()] == [0, 1, 2]


def test_patience_comes_to_an_end(tmp_path, ledger):
    with holder(tmp_path) as process:
        with pytest.raises(RunLocked, match=f"process {process.pid} .* is writing"):
            taken(ledger, 0)
        started = time.monotonic()
        with pytest.raises(RunLocked, match=f"process {process.pid} "):
            taken(ledger, 0.5)
        assert time.monotonic() - started >= 0.5
        assert ledger.chain.entries() == [FIRST]


def test_a_killed_holder_is_not_waited_for(tmp_path, ledger):
    ledger.lease.silence_seconds = 1000
    with holder(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert taken(ledger, 0) == []


def test_a_zombie_is_dead(tmp_path, ledger):
    """Nobody has asked yet what it died of: its entry in the system's list is still there."""
    ledger.lease.silence_seconds = 1000
    with holder(tmp_path, kind="dying") as process:
        process.stdout.read()  # it is gone
        assert taken(ledger, LONG) == []
        assert process.returncode is None


def test_a_silent_holder_is_taken_over_and_its_next_write_refused(tmp_path, ledger):
    with holder(tmp_path) as process:
        assert told(process, 1) == "written"
        os.kill(process.pid, signal.SIGSTOP)
        assert set(taken(ledger)) == {f"process {process.pid} on {this_process()['host']}"}
        before, said = ledger.chain.entries(), ledger.journal.head()
        os.kill(process.pid, signal.SIGCONT)
        assert told(process, 2) == "LeaseLost"
        assert told(process, 3) == "LeaseLost"
        assert ledger.chain.entries() == before
        assert ledger.journal.head() == said
        time.sleep(0.3)  # three of its beats
        ledger.chain.append([CHAIN[2]])


def test_what_was_lost_is_not_given_back_twice(tmp_path, ledger):
    with holder(tmp_path, "and release") as process:
        os.kill(process.pid, signal.SIGSTOP)
        taken(ledger)
        os.kill(process.pid, signal.SIGCONT)
        assert told(process, 1) == "LeaseLost"
        assert process.stdout.readline() == "released\n"
        process.wait()
    ledger.lease.check()
    ledger.chain.append([CHAIN[1]])


def test_a_slow_holder_that_beats_is_left_alone(tmp_path, ledger):
    with holder(tmp_path), pytest.raises(RunLocked):
        taken(ledger, 2.5)  # more than twice the silence


def test_clocks_that_jump_do_no_harm(tmp_path, ledger, monkeypatch):
    with holder(tmp_path):
        jumps = iter(range(0, 10**9, 10**6))
        monkeypatch.setattr(time, "time", lambda: float(next(jumps)))
        with pytest.raises(RunLocked):
            taken(ledger, 2)


def test_time_in_which_nobody_could_look_is_no_silence(tmp_path, ledger):
    """Two looks with a long transaction between them, in which the holder could not beat either."""
    with holder(tmp_path, beat_seconds=LONG):
        ledger.lease.silence_seconds = 1.0
        assert ledger.lease.try_taking() is not None
        time.sleep(1.2)
        assert ledger.lease.try_taking() is not None


def test_the_same_thread_does_not_wait_for_itself(tmp_path, ledger):
    assert taken(ledger, 0) == []
    other = Ledger(tmp_path)
    with pytest.raises(RunLocked, match="this very thread"):
        taken(other, LONG)
    with pytest.raises(RunLocked, match="this very thread"):
        taken(ledger, LONG)
    ledger.lease.check()
    other.close()


def test_another_thread_waits(tmp_path, ledger):
    other, waited = Ledger(tmp_path), []
    assert taken(ledger, 0) == []
    thread = threading.Thread(
        target=lambda: [waited.append(each) for each in other.lease.held(patience_seconds=LONG)]
    )
    thread.start()
    while not waited:  # until it has seen that the lease is not free
        time.sleep(0.01)
        assert thread.is_alive()
    ledger.chain.append([CHAIN[1]])
    ledger.lease.release()
    thread.join()
    other.lease.release()
    other.close()


def test_a_lease_that_could_not_be_given_back_is_free_for_this_process(tmp_path, ledger):
    """As when the database cannot be reached at that moment; nobody's heart beats for it then."""
    ledger.lease.silence_seconds = 1000
    assert taken(ledger, 0) == []
    ledger.lease._heart.stopped.set()
    other = Ledger(tmp_path)
    assert taken(other, 0) == []
    with pytest.raises(LeaseLost):
        ledger.chain.append([CHAIN[1]])
    other.lease.release()
    other.close()


@pytest.mark.parametrize(
    ("patience", "milliseconds"), [(None, 30_000), (2.0, 2000), (0.0, 1000), (90.0, 30_000)]
)
def test_transactions_are_waited_for_as_long_as_the_patience_says(tmp_path, patience, milliseconds):
    make(tmp_path).close()
    ledger = Ledger(tmp_path, patience)
    for transaction in (ledger._database.reading, ledger._database.writing):
        with transaction() as connection:
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == milliseconds
    taken(ledger)
    with ledger._changing("block 1 trained") as change:  # giving up would cost the block
        assert change.connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000
    ledger.lease.release()
    ledger.close()


def test_a_process_that_hangs_in_a_transaction_is_waited_for_no_longer_than_asked(tmp_path):
    make(tmp_path).close()
    ledger = Ledger(tmp_path, 1.0)
    waits = []
    with holder(tmp_path, kind="hanging"):
        for call in (
            lambda: waits.extend(ledger.lease.held(patience_seconds=1.0)),
            lambda: ledger.requests.register(METHOD, ids(1), due=DUE),
        ):
            with pytest.raises(RunLocked, match="keeps the ledger") as locked:
                call()
            assert "continue it, or end it" in locked.value.hint
        assert waits == []  # the first look took all the patience
        assert ledger.chain.entries() == [FIRST]  # reading goes on
    assert taken(ledger, 0) == []
    ledger.requests.register(METHOD, ids(1), due=DUE)
    ledger.lease.release()
    ledger.close()


def test_a_run_hands_its_patience_on(tmp_path, recipe_of, data):
    ob.fit(recipe_of(), data, tmp_path / "run", blocks=2)
    run = ob.load(tmp_path / "run", recipe_of(), data, patience_seconds=2)
    assert run.ledger._database.patience_seconds == 2


def test_who_is_dead():
    me = this_process()
    assert not is_dead(me)
    assert is_dead(me | {"started": "1"})  # the number was given to another process
    assert not is_dead(me | {"started": "1", "machine": "another"})
    assert not is_dead(me | {"pid": 2**22 + 1, "started": None})  # cannot be seen


def test_a_request_is_received_while_another_process_writes(tmp_path, ledger):
    with holder(tmp_path) as process:
        request = ledger.requests.register(METHOD, ids(1), due=DUE)
        assert told(process, 1) == "written"
    assert request.state == "requested"
    assert ledger.faults() == []


def test_a_sweep_of_a_sleeper_spares_what_is_new(tmp_path, recipe_of, data):
    run = ob.fit(recipe_of(), data, tmp_path / "run", blocks=4)
    asleep, chain = ob.load(tmp_path / "run", recipe_of(), data), run.chain()
    chain = asleep.chain()
    list(asleep.ledger.lease.held(patience_seconds=0))
    asleep.ledger.lease._heart.stopped.set()  # as if it were stopped: it beats no more
    list(run.ledger.lease.held(patience_seconds=0))
    fresh = Vault(run.vault.storage).write([b"of the new holder"])
    with pytest.raises(LeaseLost):
        chain.sweep()
    assert bytes(run.vault.read(fresh)) == b"of the new holder"
    run.ledger.lease.release()


# Whole runs


def forgetting(folder, record):
    import torch

    torch.set_num_threads(1)
    ob.load(folder, recipe(), images()).forget(records=[record], method="exact")


def test_two_processes_that_forget_at_once_queue_up(tmp_path):
    run = ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS)
    records = records_in(run, 2, 4)
    children = [
        PROCESSES.Process(target=forgetting, args=(run.folder, record)) for record in records
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0]
    without = ob.fit(recipe(), images(), tmp_path / "other", blocks=BLOCKS, exclude=records)
    assert run.digest == without.digest
    assert run.guarantee == "exact"
    assert np.array_equal(run.ledger.records.erased(), sorted(records))
    assert run.ledger.faults() == []


def test_a_request_that_was_refused_meanwhile_is_not_carried_out(tmp_path, recipe_of, data):
    run = ob.fit(recipe_of(), data, tmp_path / "run", blocks=4)
    one = run.request(records=[5])
    events = run.writer.erasing("forget", ids(5), ob.Exact(), requests=(one.id,))
    run.refuse(one.id, "withdrawn")
    with pytest.raises(ob.errors.RefusedMeanwhile, match="refused meanwhile"):
        list(events)
    assert run.ledger.records.erased().tolist() == []
    assert run.ledger.erasures.all() == []
