"""Upgrading: an older ledger comes up to date with nothing lost, or stays as it is."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

import obliviate as ob
from obliviate.blocks import Layout, parts_of
from obliviate.errors import NewerFormat, OlderFormat, RunDamaged, StorageFull
from obliviate.ledger import Ledger, Newcomers, tables
from obliviate.ledger.people import subject_hash
from obliviate.ledger.upgrade import Upgrade, upgraded
from tests.first_format import set_back
from tests.models import BLOCKS, images, recipe, records_in
from tests.stories import CHAIN, FIRST, KEY, METHOD, RUN, SUBJECTS, carried_out, entry, ids
from tests.test_cli import ask, call

CONTEXT = multiprocessing.get_context("forkserver")
LAID_OUT = {"seed": "3", "batch_size": "2", "epochs": "1"}


def first_format(folder):
    """A ledger of format 0001 with people and erasures, one of them running; and what it said."""
    run = replace(RUN, content_key=KEY, fingerprint=RUN.fingerprint | LAID_OUT)
    parts = parts_of([(10, 4)])
    layout = Layout(parts=parts, seed=3, batch_size=2, epochs=1, smallest_batch=2)
    new = Newcomers(blocks=layout.all_blocks(), subjects=SUBJECTS, excluded=ids(8, 9))
    ledger = Ledger.create(folder, run, FIRST, new)
    for each in CHAIN[1:]:
        ledger.append(each)
    carried_out(ledger)
    running = ledger.begin("forget", METHOD, ids(2))
    ledger.stage(entry(1, "r", origin="replayed", erasure=running.id))
    said = facts_of(ledger)
    ledger.close()
    set_back(folder)
    return said


def facts_of(ledger):
    everyone = ids(*range(10))
    return {
        "run": ledger.run(),
        "entries": ledger.entries(),
        "erasures": ledger.erasures(),
        "erased": ledger.erased().tolist(),
        "excluded": ledger.excluded().tolist(),
        "records": ledger.records_of_erasure(2).tolist(),
        "staged": ledger.staged(2),
        "objects": [ledger.objects.keys(state) for state in ("live", "condemned", "destroyed")],
        "blocks": ledger.people.blocks_of(everyone).tolist(),
        "people": [ledger.people.records_of(subject_hash(who, KEY)) for who in set(SUBJECTS)],
        "same": ledger.people.has_same_subjects(0, SUBJECTS, KEY),
    }


def test_an_older_format_is_refused_with_a_way_on(tmp_path):
    first_format(tmp_path)
    before = (tmp_path / "ledger.sqlite").read_bytes()
    with pytest.raises(OlderFormat, match="format 0001") as refusal:
        Ledger(tmp_path)
    assert f"obliviate upgrade {tmp_path}" in refusal.value.hint
    assert (tmp_path / "ledger.sqlite").read_bytes() == before


def test_it_is_brought_up_to_date_with_all_it_said(tmp_path):
    said = first_format(tmp_path)
    before = (tmp_path / "ledger.sqlite").read_bytes()
    found = upgraded(tmp_path)
    copy = tmp_path / "ledger-0001.sqlite"
    assert found == Upgrade(before="0001", after=tables.HEAD, copy=copy)
    ledger = Ledger(tmp_path)
    assert facts_of(ledger) == said
    assert ledger.faults() == []
    assert [each.event for each in ledger.journal()] == [
        f"brought from format 0001 to {tables.HEAD}"
    ]
    assert ledger.requests.all() == []
    ledger.close()
    with closing(sqlite3.connect(copy)) as kept:
        assert kept.execute("SELECT records FROM runs").fetchall() == [(10,)]
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "ledger.sqlite").write_bytes(before)
    assert upgraded(tmp_path / "again").before == "0001"
    assert upgraded(tmp_path) == Upgrade(before=tables.HEAD, after=tables.HEAD)


def test_what_the_copy_still_holds_goes_with_the_next_erasure(tmp_path):
    first_format(tmp_path)
    copy = upgraded(tmp_path).copy
    ledger = Ledger(tmp_path)
    ledger.give_up(2, "enough")
    assert copy.exists()
    ledger.begin("forget", METHOD, ids(5))
    ledger.commit(3, replaced=[], stitched=[], outcome={})
    assert not copy.exists()
    ledger.close()


def test_the_key_of_an_upgraded_run_is_destroyed_everywhere(tmp_path):
    """In the first format, samples were hashed under the same key."""
    first_format(tmp_path)
    upgraded(tmp_path)
    ledger = Ledger(tmp_path)
    ledger.destroy_subject_key()
    assert ledger.run().subject_key is None
    assert ledger.run().content_key != KEY
    assert ledger.run().samples == {}
    assert ledger.faults() == []
    ledger.close()
    for path in tmp_path.iterdir():
        assert KEY not in path.read_bytes(), path


def test_what_is_no_ledger_is_not_called_up_to_date(tmp_path):
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as raw:
        raw.execute("CREATE TABLE diary (day)")
    with pytest.raises(RunDamaged, match="no tables of a ledger"):
        upgraded(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.sqlite"]


def test_a_newer_format_is_refused(tmp_path):
    first_format(tmp_path)
    upgraded(tmp_path)
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as raw, raw:
        raw.execute("UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(NewerFormat, match="format 0099"):
        upgraded(tmp_path)


def test_a_folder_that_may_not_be_written_to_is_named(guarded_folder):
    folder, guarded = guarded_folder
    first_format(folder)
    before = (folder / "ledger.sqlite").read_bytes()
    with guarded(), pytest.raises(StorageFull, match="cannot be written to"):
        upgraded(folder)
    assert (folder / "ledger.sqlite").read_bytes() == before


def dying(folder, number):
    """Upgrade, and be killed after so many statements."""
    from sqlalchemy import Engine, event

    count = iter(range(number))

    def die(*_):
        if next(count, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "after_cursor_execute", die)
    upgraded(folder)


@pytest.mark.parametrize("statements", [8, 30, 60])
def test_killed_on_the_way_it_leaves_the_old_file(tmp_path, statements):
    said = first_format(tmp_path)
    child = CONTEXT.Process(target=dying, args=(tmp_path, statements))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    with pytest.raises(OlderFormat):
        Ledger(tmp_path)
    assert upgraded(tmp_path).before == "0001"
    ledger = Ledger(tmp_path)
    assert facts_of(ledger) == said
    ledger.close()


def test_a_run_goes_on_after_it(tmp_path, monkeypatch):
    """With the same bits as a run that never knew another format."""
    secret = secrets.token_bytes(32)
    with monkeypatch.context() as patch:
        patch.setattr(secrets, "token_bytes", lambda _: secret)  # one key for everything, as then
        run = ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS)
    other = ob.fit(recipe(), images(), tmp_path / "other", blocks=BLOCKS)
    first, second = records_in(run, 2, 4)
    for each in (run, other):
        each.forget(records=[first])
    run.ledger.close()
    set_back(run.folder)
    with pytest.raises(OlderFormat):
        ob.load(run.folder, recipe(), images())
    assert upgraded(run.folder).before == "0001"
    again = ob.load(run.folder, recipe(), images())
    assert again.digest == other.digest
    assert again.forget(records=[second]).digest == other.forget(records=[second]).digest
    assert again.settle().digest == other.settle().digest
    assert again.verify().passed


def test_by_the_command_line(tmp_path):
    first_format(tmp_path)
    assert "obliviate upgrade" in call("status", tmp_path, code=2).output
    answer = ask("upgrade", tmp_path)
    assert (answer["before"], answer["after"]) == ("0001", tables.HEAD)
    assert "already" in call("upgrade", tmp_path).stdout


def test_the_migrated_schema_is_the_declared_one(tmp_path):
    first_format(tmp_path)
    upgraded(tmp_path)
    engine = create_engine(f"sqlite:///{tmp_path}/ledger.sqlite")
    with engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()
