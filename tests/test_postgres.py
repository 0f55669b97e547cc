"""A ledger on a server: many runs in one database, the same bits as in a file, and its failures."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine

import obliviate as ob
from obliviate.errors import (
    ConnectionLost,
    InvalidOption,
    RunDamaged,
    RunLocked,
    RunMissing,
    StorageFull,
)
from obliviate.events import finish
from obliviate.ledger import Ledger, tables
from obliviate.ledger.migrations.versions import r0001_first
from obliviate.ledger.open import checked_url
from tests.models import BLOCKS, images, recipe, records_in
from tests.prepared import PROCESSES
from tests.stories import DUE, METHOD, carried_out, ids, lived, trained

SUBJECTS = [f"user-{record % 24}" for record in range(72)]


def fit(folder, url, **options):
    return ob.fit(recipe(), images(), folder, blocks=BLOCKS, ledger=url, **options)


# Many runs


def test_many_runs_share_a_database_and_know_nothing_of_each_other(tmp_path, database):
    ledgers = []
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        ledgers.append((lived if name == "two" else trained)(tmp_path / name, database))
    one, two, three = ledgers
    before = (
        two.chain.entries(),
        two.journal.entries(),
        two.requests.all(),
        two.objects.keys("live", "condemned"),
    )
    carried_out(one, record=4)
    one.objects.mark_destroyed(one.objects.keys("condemned"))
    assert (two.chain.entries(), two.journal.entries(), two.requests.all()) == before[:3]
    assert two.objects.keys("live", "condemned") == before[3]
    assert three.records.erased().tolist() == [8, 9]
    assert three.requests.all() == []
    for ledger in ledgers:
        assert ledger.faults() == []
        ledger.close()


def test_what_is_changed_on_a_server_is_found(tmp_path, server):
    name = server.database()
    ledger = lived(tmp_path, server.url(name))
    server.execute("UPDATE chain SET loss = 0.25 WHERE block = 5", database=name)
    assert ledger.faults() == ["chain, block 5: not what was written"]
    ledger.close()


def making(folder, url):
    import torch

    torch.set_num_threads(1)
    fit(folder, url)


def test_two_processes_make_runs_at_once(tmp_path, database):
    folders = [tmp_path / name for name in ("one", "two")]
    children = [PROCESSES.Process(target=making, args=(folder, database)) for folder in folders]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0]
    runs = [ob.load(folder, recipe(), images()) for folder in folders]
    assert runs[0].digest == runs[1].digest
    assert runs[0].ledger.faults() == runs[1].ledger.faults() == []


def test_first_leases_are_taken_one_after_the_other(tmp_path, database):
    made = trained(tmp_path, database)
    others, taken = [Ledger(tmp_path) for _ in range(4)], []

    def take(ledger):
        list(ledger.lease.held(patience_seconds=60))
        taken.append(ledger)
        ledger.lease.release()

    threads = [threading.Thread(target=take, args=(each,)) for each in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(others)
    for each in (made, *others):
        each.close()


# The same as in a file


def test_the_whole_story_has_the_same_digests_as_in_a_file(tmp_path, database):
    runs = [fit(tmp_path / "file", None, subjects=SUBJECTS)]
    runs.append(fit(tmp_path / "server", database, subjects=SUBJECTS))
    stories = []
    for run in runs:
        first, second = records_in(run, 2, 4)
        steps = [run.digest, run.forget(records=[first]).digest]
        steps.append(run.forget(subjects=["user-5"], method="exact").digest)
        run.request(records=[second])
        run.work(everything=True)
        steps.append(run.settle().digest)
        again = ob.load(run.folder, recipe(), images())
        steps.append(again.digest)
        found = again.verify(journal_head=run.status().journal_head)
        assert found.passed
        steps.append(found.reproduced)
        stories.append(steps)
    assert stories[0] == stories[1]
    assert not (tmp_path / "server" / "ledger.sqlite").exists()


def test_the_declared_schema_is_the_migrated_one(server):
    name = server.database()
    engine = create_engine(server.url(name))
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        with Operations.context(context):
            r0001_first.upgrade()
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


# Failures


@pytest.fixture
def failing(server):
    """The server; afterwards it runs again."""
    yield server
    server.start() if not is_up(server) else None


def is_up(server):
    try:
        server.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize("what", ["fit", "forget"])
def test_a_server_that_crashes_on_the_way(tmp_path, failing, what):
    url = failing.url(failing.database())
    whole = fit(tmp_path / "whole", None)
    [record] = records_in(whole, 2)
    if what == "fit":
        events = ob.fit.events(recipe(), images(), tmp_path / "run", blocks=BLOCKS, ledger=url)
    else:
        run = fit(tmp_path / "run", url)
        events = run.forget.events(records=[record], method="exact")
        whole.forget(records=[record], method="exact")
    for event in events:
        if event.done >= 2:
            break
    failing.crash()
    with pytest.raises(ConnectionLost, match="cannot be reached") as lost:
        finish(events)
    assert "call again" in lost.value.hint
    with pytest.raises(ConnectionLost):
        fit(tmp_path / "run", url)
    failing.start()
    if what == "forget":
        assert run.forget(records=[record], method="exact").digest == whole.digest
    else:
        run = fit(tmp_path / "run", url)
    assert run.digest == whole.digest
    assert run.verify().passed


def nothing_left(folder):
    return not folder.exists()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://ann:secret@localhost/runs",
        "postgresql+psycopg://ann@localhost/runs?password=secret",
        "postgresql+nosuchdriver://ann:secret@localhost/runs",
        "postgresql://ann:secret@localhost:port/runs",
        "mysql://ann:secret@localhost/runs",
        "sqlite:///secret.sqlite",
        "secret",
        "",
        7,
    ],
)
def test_a_url_that_is_no_good_is_refused_without_giving_it_away(tmp_path, url):
    with pytest.raises(InvalidOption, match="ledger") as refusal:
        fit(tmp_path / "run", url)
    assert ":secret@" not in str(refusal.value)
    assert "=secret" not in str(refusal.value)
    assert nothing_left(tmp_path / "run")


def test_the_driver_goes_without_saying():
    url = checked_url("postgresql://ann@host/runs")
    assert url.render_as_string() == "postgresql+psycopg://ann@host/runs"


@pytest.mark.parametrize("where", ["no server", "no database"])
def test_what_cannot_be_reached_leaves_nothing_behind(tmp_path, server, where):
    nowhere = f"postgresql+psycopg://ann@/runs?host={tmp_path}"
    with pytest.raises(ConnectionLost, match="cannot be reached"):
        fit(tmp_path / "run", nowhere if where == "no server" else server.url("nowhere"))
    assert nothing_left(tmp_path / "run")


def test_a_user_who_may_not_write_is_told_so(tmp_path, server):
    name = server.database()
    server.execute("DROP ROLE IF EXISTS guest", "CREATE ROLE guest LOGIN")
    with pytest.raises(StorageFull, match="permission denied"):
        fit(tmp_path / "run", server.url(name, user="guest"))
    assert nothing_left(tmp_path / "run")


def test_a_database_of_something_else_is_left_alone(tmp_path, server):
    name = server.database()
    server.execute("CREATE TABLE runs (distance_km int)", database=name)
    with pytest.raises(InvalidOption, match="in use for something else: it has a table runs"):
        fit(tmp_path / "run", server.url(name))
    assert nothing_left(tmp_path / "run")


def test_a_server_that_only_reads(tmp_path, server):
    name = server.database()
    run = fit(tmp_path / "run", server.url(name))
    server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    run.ledger.close()
    reader = ob.load(tmp_path / "run", recipe(), images())
    assert reader.status().digest == run.digest
    assert reader.preview(records=[5]).records == (5,)
    with pytest.raises(StorageFull, match="read-only transaction"):
        reader.forget(records=[5])
    with pytest.raises(StorageFull, match="read-only transaction"):
        reader.request(records=[5])
    with pytest.raises(StorageFull, match="read-only transaction"):
        fit(tmp_path / "other", server.url(name))


def test_a_making_that_was_killed_before_there_were_tables(tmp_path, server, monkeypatch):
    """The folder names a database that knows nothing of it."""
    name = server.database()
    trained(tmp_path, server.url(name)).close()
    pointer = (tmp_path / "ledger.json").read_text()
    empty = server.database()
    (tmp_path / "ledger.json").write_text(pointer.replace(f"/{name}?", f"/{empty}?"))
    with pytest.raises(RunMissing):
        Ledger(tmp_path)


@pytest.mark.parametrize("pointer", ["", "{}", '{"url": 5, "run": "x"}', "[1]", '{"run": "x"}'])
def test_a_pointer_that_points_nowhere_is_damage(tmp_path, pointer):
    (tmp_path / "ledger.json").write_text(pointer)
    with pytest.raises((RunDamaged, InvalidOption)):
        Ledger(tmp_path)


def settings(connection):
    names = ("lock_timeout", "idle_in_transaction_session_timeout")
    return [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in names]


def test_no_transaction_waits_or_hangs_for_ever(tmp_path, database):
    trained(tmp_path, database).close()
    ledger = Ledger(tmp_path, 2)
    with ledger._database.reading() as connection:
        assert settings(connection) == ["2s", "2min"]
    with ledger._database.writing() as connection:
        assert settings(connection) == ["2s", "2min"]
    list(ledger.lease.held(patience_seconds=0))
    with ledger._changing("block 5 trained") as change:  # giving up would cost the block
        assert settings(change.connection) == ["30s", "2min"]
    ledger.lease.release()
    ledger.close()


@pytest.mark.parametrize("where", ["runs", "leases", "all tables"])
def test_a_session_that_hangs_is_waited_for_no_longer_than_asked(tmp_path, server, where):
    name = server.database()
    ledger = trained(tmp_path, server.url(name))
    list(ledger.lease.held(patience_seconds=0))  # so that its row is there
    ledger.lease.release()
    ledger.close()
    ledger = Ledger(tmp_path, 1)
    lock = f"SELECT * FROM {where} FOR UPDATE"
    if where == "all tables":
        lock = "LOCK TABLE runs, leases, requests, journal"
    with psycopg.connect(host=str(server.folder), user=server.user, dbname=name) as other:
        other.execute(lock)
        with pytest.raises(RunLocked, match="keeps the ledger") as locked:
            list(ledger.lease.held(patience_seconds=1))
        assert "continue it, or end it" in locked.value.hint
        if where != "leases":
            with pytest.raises(RunLocked):
                ledger.requests.register(METHOD, ids(1), due=DUE)
        other.rollback()
    list(ledger.lease.held(patience_seconds=0))
    ledger.lease.release()
    ledger.requests.register(METHOD, ids(1), due=DUE)
    ledger.close()


def test_a_session_of_ours_that_hangs_is_taken_back(tmp_path, database):
    hung, other = trained(tmp_path, database), Ledger(tmp_path)

    def hang():
        with hung._database.writing(hanging_seconds=0.2) as connection:
            connection.exec_driver_sql("SELECT * FROM runs FOR UPDATE")
            other.requests.register(METHOD, ids(1), due=DUE)  # waits until the server has ended it
            connection.exec_driver_sql("SELECT * FROM runs FOR UPDATE")

    with pytest.raises(ConnectionLost, match="cannot be reached"):
        hang()
    assert len(hung.requests.all()) == 1  # and the next call connects anew
    for each in (hung, other):
        each.close()


def test_a_long_transaction_of_the_holder_is_not_silence(tmp_path, database):
    """While it lasts, nobody can look, and the holder cannot beat."""
    holder, other = trained(tmp_path, database), Ledger(tmp_path)
    holder.lease.beat_seconds = 0.2
    other.lease.silence_seconds = 1.0
    list(holder.lease.held(patience_seconds=0))
    waiting = threading.Thread(target=lambda: list(other.lease.held(patience_seconds=60)))
    waiting.start()
    with holder._changing("something long"):
        time.sleep(1.6)
    time.sleep(0.5)
    holder.erasures.begin("forget", METHOD, ids(1))
    holder.lease.release()
    waiting.join()
    other.lease.check()
    other.lease.release()
    for each in (holder, other):
        each.close()
