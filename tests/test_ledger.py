"""The ledger: facts are written whole, kept, and not given away."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, event

import obliviate as ob
from obliviate.errors import OtherFormat, RunDamaged, RunMissing, StorageFull
from obliviate.evidence import gathered
from obliviate.ledger import Ledger
from obliviate.ledger.database import Database
from obliviate.ledger.outcome import Outcome
from obliviate.ledger.records import subject_hash
from obliviate.ledger.schema import declared, make_tables, schema_of
from tests.models import parts_of
from tests.stories import (
    CHAIN,
    EXACT,
    FIRST,
    KEY,
    RUN,
    carried_out,
    entry,
    ids,
    lived,
    make,
    newcomers,
    stored,
    trained,
)


@pytest.fixture
def ledger(tmp_path, ledger_url):
    """A ledger of a run that was trained to its end, on either database."""
    ledger = trained(tmp_path, ledger_url)
    yield ledger
    ledger.close()


@pytest.fixture
def file_ledger(tmp_path):
    """The same in a file."""
    ledger = trained(tmp_path)
    yield ledger
    ledger.close()


def raw_bytes(folder) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


def facts_of(ledger):
    """All that can be read of a ledger."""
    return (
        ledger.chain.entries(),
        ledger.erasures.all(),
        ledger.records.erased().tolist(),
        ledger.records.excluded().tolist(),
        [ledger.objects.keys(state) for state in ("live", "condemned", "destroyed")],
        ledger.run(),
    )


# Making one


def test_what_a_run_was_made_of_is_kept(tmp_path, ledger):
    assert ledger.run() == RUN
    again = Ledger(tmp_path)
    assert facts_of(again) == facts_of(ledger)
    assert again.chain.entries() == CHAIN
    again.close()


def test_there_is_no_ledger_before_it_is_whole(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:

        def killed(*_):
            raise KeyboardInterrupt

        patch.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path)
    with pytest.raises(RunMissing):
        Ledger(tmp_path)
    made = make(tmp_path)
    assert made.run() == RUN
    made.close()
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.sqlite"]


@pytest.mark.parametrize("left", ["ledger.part", "ledger.part-journal"])
@pytest.mark.parametrize("rest", [b"", b"half a ledger" * 1000])
def test_what_a_killed_process_left_is_ignored(tmp_path, left, rest):
    (tmp_path / left).write_bytes(rest)
    with pytest.raises(RunMissing):
        Ledger(tmp_path)
    made = make(tmp_path)
    assert made.run() == RUN
    assert made.chain.entries() == [FIRST]
    made.close()


def test_fitting_goes_on_over_what_a_killed_making_left(tmp_path, recipe_of, data, monkeypatch):
    other, folder = ob.fit(recipe_of(), data, tmp_path / "other", blocks=4), tmp_path / "run"
    rename = os.rename

    def killed(source, target):
        if Path(target).name == "ledger.sqlite":
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            ob.fit(recipe_of(), data, folder, blocks=4)
    with pytest.raises(RunMissing):
        ob.load(folder, recipe_of(), data)
    (folder / "vault" / f"{1:032x}.part").write_bytes(b"half")
    run = ob.fit(recipe_of(), data, folder, blocks=4)
    assert run.digest == other.digest
    assert not list(folder.rglob("*.part"))
    assert set(run.vault) == run.ledger.objects.keys("live")
    assert run.vault.foreign() == set()


def test_a_run_without_subjects_has_none(tmp_path, ledger, ledger_url):
    assert ledger.records.has_subjects()
    (tmp_path / "other").mkdir()
    without = make(tmp_path / "other", subjects=None, url=ledger_url)
    assert not without.records.has_subjects()
    without.close()


# Opening one


def test_no_ledger_is_no_run(tmp_path):
    with pytest.raises(RunMissing, match=str(tmp_path)):
        Ledger(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"no database" * 500, b"SQLite format 3\0" + bytes(4080)], ids=len
)
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    with pytest.raises(RunDamaged, match="cannot be read as a ledger"):
        Ledger(path.parent)
    assert path.read_bytes() == content


def test_a_cut_ledger_is_refused(tmp_path, file_ledger):
    file_ledger.close()
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(RunDamaged):
        facts_of(Ledger(path.parent))


def test_a_ledger_without_its_run_is_refused(tmp_path, file_ledger):
    file_ledger.close()
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM runs")
    connection.close()
    with pytest.raises(RunDamaged, match="lacks a row"):
        Ledger(path.parent)


def test_another_format_is_refused_and_left_alone(tmp_path, file_ledger):
    file_ledger.close()
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(OtherFormat, match="format 9999") as refusal:
        Ledger(path.parent)
    assert "the version of obliviate that wrote it" in refusal.value.hint
    assert path.read_bytes() == before


def test_a_folder_that_may_not_be_written_to_is_named(guarded_folder):
    folder, guarded = guarded_folder
    with guarded(), pytest.raises(StorageFull, match="cannot be written to"):
        make(folder)
    assert list(folder.iterdir()) == []
    ledger = make(folder)
    ledger.close()  # the next call opens the file anew
    with guarded(), pytest.raises(StorageFull, match="cannot be written to"):
        ledger.chain.append([CHAIN[1]])
    assert ledger.chain.entries() == [FIRST]
    ledger.close()


# People


def test_subjects_are_found_by_their_keyed_hash(ledger):
    ann, bob, cased = (subject_hash(f"{name}@example.org", KEY) for name in ("ann", "bob", "Bob"))
    found, missing = ledger.records.of_subjects([ann])
    assert (found.tolist(), missing) == ([0, 2], set())
    found, missing = ledger.records.of_subjects([bob, cased, ann, bob])
    assert (found.tolist(), missing) == ([0, 1, 2], {cased})
    other = subject_hash("bob@example.org", bytes(32))
    assert ledger.records.of_subjects([other])[1] == {other}


def test_no_file_names_a_person(tmp_path, file_ledger):
    kept = raw_bytes(tmp_path)
    file_ledger.close()
    kept += raw_bytes(tmp_path)
    assert b"d4" in kept
    for subject in ("ann", "bob", "cid", "example.org"):
        for encoding in ("utf-8", "utf-16-le"):
            assert subject.encode(encoding) not in kept


def test_two_runs_know_a_person_by_two_hashes():
    hashes = {subject_hash("ann", key) for key in (KEY, bytes(32))}
    assert len(hashes) == 2
    assert {len(each) for each in hashes} == {16}


# Erasures


def test_records_count_as_erased_once_the_erasure_is_carried_out(ledger):
    assert ledger.records.erased().tolist() == [8, 9] == ledger.records.excluded().tolist()
    begun = ledger.erasures.begin("forget", {"name": "exact"}, ids(4, 1))
    assert (begun.id, begun.state, begun.records) == (1, "running", 2)
    assert ledger.erasures.running() == begun
    assert ledger.records.erased().tolist() == [8, 9]
    assert ledger.records.erased(running=1).tolist() == [1, 4, 8, 9]
    ledger.erasures.commit(1, replaced=[], stitched=[], outcome=EXACT)
    assert ledger.records.erased().tolist() == [1, 4, 8, 9]
    assert ledger.records.excluded().tolist() == [8, 9]
    assert ledger.erasures.records_of(1).tolist() == [1, 4]
    assert ledger.erasures.running() is None
    done = ledger.erasures.erasure(1)
    assert (done.state, done.outcome, done.method) == (
        "committed",
        EXACT,
        {"name": "exact"},
    )
    assert done.finished >= done.started


def test_an_erasure_that_was_given_up_erased_nobody(ledger):
    before = ledger.chain.entries()
    ledger.erasures.begin("forget", {"name": "exact"}, ids(1, 4))
    ledger.erasures.give_up(1, "the loss is nan")
    assert ledger.records.erased().tolist() == ledger.records.erased(running=1).tolist() == [8, 9]
    assert ledger.erasures.running() is None
    assert ledger.erasures.erasure(1).state == "failed"
    assert ledger.erasures.erasure(1).outcome == Outcome(stop_reason="the loss is nan")
    assert ledger.chain.entries() == before
    assert ledger.erasures.begin("forget", {"name": "exact"}, ids(1)).id == 2


def test_a_running_erasure_survives_a_crash(tmp_path, ledger):
    ledger.erasures.begin("forget", {"name": "deepobliviate", "epsilon": 0.05}, ids(1))
    ledger.erasures.stage([entry(1, "n", origin="replayed", erasure=1)])
    ledger.close()
    again = Ledger(tmp_path)
    assert again.erasures.running().method == {"name": "deepobliviate", "epsilon": 0.05}
    assert again.erasures.staged(1) == {1: entry(1, "n", origin="replayed", erasure=1)}
    assert again.chain.entries() == CHAIN
    again.close()


# The chain, rewritten


def test_a_stitched_chain_keeps_updates_and_loses_states(ledger):
    replayed, last = carried_out(ledger)
    entries = ledger.chain.entries()
    assert entries[0] == FIRST
    assert entries[1] == replayed
    assert entries[4] == last
    for block in (2, 3):
        assert entries[block] == replace(
            CHAIN[block],
            origin="stitched",
            guarantee="approximate",
            digest=None,
            keyframe=None,
            optimizer=None,
            erasure=1,
        )


def test_what_held_the_trace_is_condemned_and_what_is_still_held_is_not(ledger):
    carried_out(ledger)
    assert ledger.objects.keys("condemned") == {"u1", "o1", "f2", "o2", "o3", "f4", "o4"}
    assert ledger.objects.keys("live") == {"f0", "u1n", "o1n", "u2", "u3", "u4", "f4n"}
    held = {each.key for entry in ledger.chain.entries() for each in entry.objects}
    assert held == ledger.objects.keys("live")


def test_destroyed_objects_are_written_down(ledger):
    carried_out(ledger)
    ledger.objects.mark_destroyed(["u1", "o1"])
    assert ledger.objects.keys("destroyed") == {"u1", "o1"}
    assert ledger.objects.keys("condemned", "destroyed") >= {"u1", "f2"}
    assert ledger.erasures.staged(1) == {}


def test_a_commit_that_fails_changes_nothing(ledger):
    ledger.erasures.begin("forget", {"name": "exact"}, ids(3))
    ledger.erasures.stage([entry(1, "n", erasure=1)])
    before = facts_of(ledger)
    of_nobody = entry(4, "n", erasure=99)
    with pytest.raises(RunDamaged):
        ledger.erasures.commit(1, replaced=[of_nobody], stitched=[range(2, 4)], outcome=EXACT)
    assert facts_of(ledger) == before
    assert list(ledger.erasures.staged(1)) == [1]


def test_giving_up_condemns_what_was_staged_and_nothing_of_the_chain(ledger):
    ledger.erasures.begin("forget", {"name": "exact"}, ids(3))
    ledger.erasures.stage([entry(1, "n", keyframe=True, erasure=1)])
    ledger.erasures.stage([entry(2, "n", erasure=1)])
    ledger.erasures.give_up(1, "no room")
    assert ledger.objects.keys("condemned") == {"u1n", "f1n", "o1n", "u2n", "o2n"}
    assert ledger.erasures.staged(1) == {}
    assert ledger.chain.entries() == CHAIN


def test_giving_up_spares_an_object_that_the_chain_holds_too(ledger):
    ledger.erasures.begin("forget", {"name": "exact"}, ids(3))
    ledger.erasures.stage([replace(CHAIN[3], optimizer=stored("o3n"), erasure=1)])
    ledger.erasures.give_up(1, "no room")
    assert ledger.objects.keys("condemned") == {"o3n"}
    assert ledger.chain.entries() == CHAIN


def test_rows_that_point_nowhere_are_refused(ledger):
    before = facts_of(ledger)
    with pytest.raises(RunDamaged, match=r"(?i)foreign key"):
        ledger.erasures.stage([entry(1, "n", erasure=5)])
    assert facts_of(ledger) == before


def test_the_content_hash_of_an_erased_record_is_wiped(tmp_path, file_ledger):
    file_ledger.erasures.begin("forget", {"name": "exact"}, ids(3))
    assert set(file_ledger.run().samples) == {3, 5}
    file_ledger.erasures.commit(1, replaced=[], stitched=[], outcome=EXACT)
    assert set(file_ledger.run().samples) == {5}
    file_ledger.close()
    kept = raw_bytes(tmp_path)
    assert b"the-hash-of-record-5" in kept
    assert b"the-hash-of-record-3" not in kept


def test_thousands_of_records_and_blocks_fit(tmp_path, ledger_url):
    run = replace(RUN, parts=parts_of(25_000, 12_000))
    subjects = [f"s{at % 12_000}" for at in range(25_000)]
    new = newcomers(records=25_000, subjects=subjects)
    ledger = Ledger.create(tmp_path, run, FIRST, new, ledger_url)
    ledger.erasures.begin("forget", {"name": "exact"}, np.arange(24_000))
    blocks = 12_000 if ledger_url is None else 1_000
    replaced = [entry(block, "n", erasure=1) for block in range(1, blocks + 1)]
    ledger.erasures.commit(1, replaced=replaced, stitched=[], outcome=EXACT)
    assert ledger.chain.entries()[1:] == replaced
    assert ledger.records.erased().tolist() == list(range(24_000))
    assert ledger.records.of_subjects([subject_hash("s7", KEY)])[0].tolist() == [24_007]
    assert ledger.records.of_subjects([subject_hash("s1007", KEY)])[0].tolist() == []
    assert ledger.faults() == []
    for chosen in (np.arange(24_999, -1, -1), ids(3, 24_999, 3), np.arange(5, 25_000, 1000)):
        assert np.array_equal(ledger.records.groups_of(chosen), new.groups[chosen])
    assert ledger.records.groups_of(ids()).tolist() == []
    with pytest.raises(RunDamaged, match="lacks records"):
        ledger.records.groups_of(ids(3, 25_000))
    ledger.close()


def test_reading_during_a_commit_sees_one_side_of_it(tmp_path, ledger):
    """Another process may carry out an erasure between two statements of a reader."""
    reader = Ledger(tmp_path)
    seen = []

    def interleave(connection, cursor, statement, *_):
        if not seen and "FROM objects" in statement:
            seen.append(statement)
            carried_out(ledger)

    before = reader.chain.entries()
    event.listen(Engine, "after_cursor_execute", interleave)
    try:
        found = reader.chain.entries()
    finally:
        event.remove(Engine, "after_cursor_execute", interleave)
        reader.close()
    assert found in (before, ledger.chain.entries())


# A whole life, and what may not be written to


def test_a_whole_life_leaves_no_faults(tmp_path, ledger_url):
    ledger = lived(tmp_path, ledger_url)
    assert ledger.faults() == []
    assert ledger.journal.head() == ledger.journal.entries()[-1].hash
    states = [each.state for each in ledger.requests.all()]
    assert states == ["replaying", "refused", "settled", "refused"]
    assert ledger.records.erased().tolist() == [3, 8, 9, 12]
    assert ledger.chain.length() == 6
    assert ledger.run().samples.keys() == {5, 7, 10}
    ledger.close()


def test_any_reason_can_be_written_down(ledger):
    """Python's texts may hold what no database takes."""
    ledger.erasures.begin("forget", {"name": "exact"}, ids(1))
    ledger.erasures.give_up(1, "a zero \0 and half a character \ud800")
    assert ledger.erasures.erasure(1).outcome == Outcome(
        stop_reason="a zero \\0 and half a character \\ud800"
    )
    assert ledger.faults() == []


def test_a_chain_with_a_gap_is_damage(tmp_path, file_ledger):
    file_ledger.close()
    connection = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    connection.execute("DELETE FROM chain WHERE block = 2")
    again = Ledger(tmp_path)
    with pytest.raises(RunDamaged, match="lacks blocks"):
        again.chain.entries()
    connection.execute("DELETE FROM chain")
    with pytest.raises(RunDamaged, match="lacks blocks"):
        again.chain.length()
    again.close()
    connection.close()


def test_a_full_disk_is_named_also_in_bulk(tmp_path, monkeypatch):
    """What many rows are written by bypasses SQLAlchemy."""

    @event.listens_for(Engine, "connect")
    def small(connection, _record):
        connection.execute("PRAGMA max_page_count=60").close()

    try:
        run = replace(RUN, parts=parts_of(50_000, 4))
        with pytest.raises(StorageFull, match="full"):
            Ledger.create(tmp_path, run, FIRST, newcomers(records=50_000))
    finally:
        event.remove(Engine, "connect", small)


@pytest.mark.parametrize("name", ["run", "50% of a run?", "a#run"])
def test_readers_need_no_permission_to_write(guarded_folder, recipe_of, data, name):
    parent, guarded = guarded_folder
    folder, subjects = parent / name, [f"user-{record % 20}" for record in range(len(data))]
    run = ob.fit(recipe_of(), data, folder, blocks=4, subjects=subjects)
    run.request(subjects=["user-3"])
    said = (run.status(), run.preview(subjects=["user-4"]), run.digest)
    run.ledger.close()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with guarded(folder, folder / "vault"):
        run = ob.load(folder, recipe_of(), data)
        assert (run.status(), run.preview(subjects=["user-4"]), run.digest) == said
        assert [each.request.id for each in run.queue().waiting] == [1]
        assert gathered(folder).digest == run.digest
        assert run.verify().passed
        for write in (
            lambda: run.forget(records=[5]),
            lambda: run.request(records=[5]),
            lambda: run.refuse(1, "no"),
            run.settle,
            run.ledger.destroy_subject_key,
        ):
            with pytest.raises(StorageFull, match=r"ledger\.sqlite cannot be written to"):
                write()
        run.ledger.close()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_schema_of_a_file_is_the_declared_one(tmp_path):
    database = Database.file(tmp_path / "ledger.sqlite")
    with database.writing() as connection:
        make_tables(connection)
        assert schema_of(connection) == declared()
    database.close()
