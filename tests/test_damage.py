"""Damage: a bit of a ledger that turned over is named, or does no harm.

The wrong person is never erased, nobody is said to be unknown who is not, no request is lost, and
nothing is raised that is not an error of ours.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing

import pytest
from torch import nn

import obliviate as ob
from obliviate.errors import (
    InvalidOption,
    OtherFormat,
    RunDamaged,
    RunLocked,
    StorageFull,
    TombstonesDamaged,
    TombstonesLost,
)
from obliviate.evidence import gathered, page
from tests.models import SGD, images, recipe

RECORDS, PAGE = 72, 4096
SUBJECTS = [f"u{record % 18}" for record in range(RECORDS)]
NAMED = (RunDamaged, RunLocked, StorageFull, OtherFormat)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def made():
    return recipe(linear, SGD, batch_size=12, repeats=1)


def records_of(number):
    return {record for record in range(RECORDS) if record % 18 == number}


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """The folder of a run: one person erased, another one's request waits."""
    folder = tmp_path_factory.mktemp("story") / "run"
    run = ob.fit(made(), images(), folder, blocks=4, subjects=SUBJECTS)
    run.forget(subjects=["u1"])
    run.settle()
    run.request(subjects=["u5"], due="2099-01-01")
    run.ledger.close()
    return folder


def outcome(folder) -> str:
    """What became of it when another person was erased: "named" or "done", as it should be."""
    try:
        run = ob.load(folder, made(), images(), patience_seconds=0)
        run.status()
        page(gathered(folder))
        run.queue()
        run.forget(subjects=["u3"], method="exact")
        erased = set(run.ledger.records.erased().tolist())
        waiting = run.ledger.requests.all("requested")
        records = run.ledger.requests.records_of([each.id for each in waiting])
    except NAMED:
        return "named"
    assert erased == records_of(1) | records_of(3)
    assert set(records.tolist()) == records_of(5)
    return "done"


def flipped(path, offset, bit) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def damaged_in(story, place, name, chance) -> str:
    """The outcome of one turned bit, in a page of a file that is not empty there."""
    folder = place / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(story, folder)
    data = (folder / name).read_bytes()
    start = chance.randrange(0, len(data), PAGE)
    told = [at for at, byte in enumerate(data[start : start + PAGE]) if byte] or [0]
    # half of them where something is written, half anywhere
    at = chance.choice(told) if chance.random() < 0.5 else chance.randrange(len(data) - start)
    flipped(folder / name, start + min(at, PAGE - 1), chance.randrange(8))
    return outcome(folder)


def test_without_damage_it_is_done(story, tmp_path):
    shutil.copytree(story, tmp_path / "run")
    assert outcome(tmp_path / "run") == "done"


@pytest.mark.parametrize("seed", range(24))
def test_one_turned_bit_of_a_ledger_is_named_or_does_no_harm(story, tmp_path, seed):
    damaged_in(story, tmp_path, "ledger.sqlite", random.Random(seed))


NO_ROWS = bytes([10, 0, 0, 0, 0, PAGE >> 8, PAGE & 255, 0])
"""The head of a page of an index, or of a table without row ids, that holds nothing."""


@pytest.mark.parametrize("asked", [["u3"], ["u3", "u7", "u9"]], ids=["one", "several"])
@pytest.mark.parametrize(
    "lost", ["subjects", "ix_subjects_run_hash", "records", "ix_records_run_subject"]
)
def test_nobody_is_unknown_whose_rows_are_lost(story, tmp_path, lost, asked):
    folder = shutil.copytree(story, tmp_path / "run")
    ledger = folder / "ledger.sqlite"
    with closing(sqlite3.connect(ledger)) as raw:
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        ((root,),) = raw.execute(query, (lost,)).fetchall()
    with ledger.open("r+b") as file:
        file.seek((root - 1) * PAGE)
        file.write(NO_ROWS)
    with pytest.raises(RunDamaged):  # noqa: PT012 - whichever of them looks first
        run = ob.load(folder, made(), images())
        run.forget(subjects=asked, method="exact")


@pytest.mark.slow
def test_three_thousand_turned_bits(story, tmp_path):
    chance = random.Random(0)
    found = [damaged_in(story, tmp_path, "ledger.sqlite", chance) for _ in range(3_000)]
    assert {"named", "done"} == set(found)


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM parts",
        "DELETE FROM deals",
        "UPDATE parts SET epochs = 0",
        "UPDATE parts SET blocks = 3",
        "UPDATE parts SET records = records - 1",
        "UPDATE deals SET counts = x''",
        "UPDATE deals SET cuts = substr(cuts, 2)",
        "UPDATE deals SET counts = zeroblob(length(counts))",
    ],
)
def test_a_ledger_that_does_not_say_who_was_dealt_where_is_damaged(story, tmp_path, change):
    shutil.copytree(story, tmp_path / "run")
    with closing(sqlite3.connect(tmp_path / "run" / "ledger.sqlite")) as raw, raw:
        raw.execute(change)
    with pytest.raises(RunDamaged):
        ob.load(tmp_path / "run", made(), images())


@pytest.mark.parametrize("column", ["subject", "record"])
def test_an_index_that_lies_is_found_before_anybody_is_erased(story, tmp_path, column):
    folder = tmp_path / "run"
    shutil.copytree(story, folder)
    ledger = folder / "ledger.sqlite"
    with closing(sqlite3.connect(ledger)) as raw:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = 'ix_records_run_subject'"
        [root] = raw.execute(query).fetchone()
        number = raw.execute("SELECT subject FROM records WHERE record = 3").fetchone()[0]
    data = ledger.read_bytes()
    # a row of the index: four lengths, then run, subject and record; the run takes no byte
    entry = bytes([4, 9, 1, 1, number, 3])
    at = data.index(entry, (root - 1) * PAGE)
    assert at < root * PAGE
    flipped(ledger, at + (4 if column == "subject" else 5), 3)
    run = ob.load(folder, made(), images())
    with pytest.raises(RunDamaged, match="does not say what its table says"):
        run.forget(subjects=["u3"])
    with pytest.raises(RunDamaged, match="does not say what its table says"):
        run.request(subjects=["u3"])
    assert any("ix_records_run_subject" in fault for fault in run.verify().journal)


@pytest.mark.parametrize("loss", ["removed", "cut", "turned"])
def test_a_request_that_was_acknowledged_outlives_the_log(story, tmp_path, loss):
    folder, copy = tmp_path / "run", tmp_path / "copy"
    shutil.copytree(story, folder)
    run = ob.load(folder, made(), images())
    number = run.request(subjects=["u7"]).id
    shutil.copytree(folder, copy)  # as it is at this moment, the run still open
    log = copy / "ledger.sqlite-wal"
    if log.exists() and loss == "removed":
        log.unlink()
    elif log.exists() and log.stat().st_size:
        flipped(log, 40, 1) if loss == "turned" else log.write_bytes(log.read_bytes()[:-9])
    again = ob.load(copy, made(), images())
    assert number in {each.id for each in again.ledger.requests.all("requested")}


def test_what_is_to_be_gone_stays_condemned_while_somebody_reads_from_before(story, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(story, folder)
    run = ob.load(folder, made(), images())
    told = [each.hash for entry in run.ledger.chain.entries()[1:] for each in entry.objects]
    with closing(sqlite3.connect(folder / "ledger.sqlite", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM objects").fetchone()
        erasure = run.forget(subjects=["u3"], method="exact")
        assert erasure.condemned == run.status().condemned > 0
        assert {each.state for each in run.ledger.requests.all()} == {
            "settled",
            "requested",
            "committed",
        }
        files = b"".join(path.read_bytes() for path in folder.glob("ledger.sqlite*"))
        assert any(each.encode() in files for each in told)
        reader.execute("COMMIT")
    run = ob.load(folder, made(), images())  # whoever comes next does the rest
    assert run.status().condemned == 0
    assert "committed" not in {each.state for each in run.ledger.requests.all()}
    gone = {*told} - {each.hash for entry in run.ledger.chain.entries() for each in entry.objects}
    files = b"".join(path.read_bytes() for path in folder.glob("ledger.sqlite*"))
    assert gone
    assert not any(each.encode() in files for each in gone)


@pytest.mark.parametrize("column", ["subject_key", "content_key"])
def test_a_key_whose_bit_turned_over_is_named(story, tmp_path, column):
    folder = tmp_path / "run"
    shutil.copytree(story, folder)
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as raw, raw:
        [key] = raw.execute(f"SELECT {column} FROM runs").fetchone()
        turned = bytes([key[0] ^ 1]) + key[1:]
        raw.execute(f"UPDATE runs SET {column} = ?", (turned,))
    with pytest.raises(RunDamaged, match="not what was written"):
        ob.load(folder, made(), images())


def test_a_letter_of_the_schema_that_turned_over_is_named(story, tmp_path):
    shutil.copytree(story, tmp_path / "run")
    ledger = tmp_path / "run" / "ledger.sqlite"
    flipped(ledger, ledger.read_bytes().index(b"CREATE TABLE runs (\n\tid INTEGER") + 26, 7)
    with pytest.raises(RunDamaged, match=r"schema|malformed"):
        ob.load(tmp_path / "run", made(), images())


@pytest.mark.parametrize("options", ['{"name": "deepoblivicte"}', '{"nbme": "exact"}', "[1]"])
def test_a_method_that_was_never_written_is_named(story, tmp_path, options):
    shutil.copytree(story, tmp_path / "run")
    with closing(sqlite3.connect(tmp_path / "run" / "ledger.sqlite")) as raw, raw:
        raw.execute("UPDATE requests SET method = ? WHERE state = 'requested'", (options,))
    run = ob.load(tmp_path / "run", made(), images())
    with pytest.raises(RunDamaged, match=r"a method that cannot be|not what was written"):
        run.queue()


@pytest.fixture(scope="module")
def stones_story(tmp_path_factory):
    """A run with its file of tombstones, one person erased; and a copy to begin anew from."""
    place = tmp_path_factory.mktemp("stones") / "live"
    options = {"blocks": 4, "subjects": SUBJECTS, "tombstones": place / "erased.sqlite"}
    with ob.fit(made(), images(), place / "run", **options) as run:
        run.forget(subjects=["u1"], method="exact")
    shutil.copytree(place, place.with_name("kept"))
    return place


def outcome_beside_tombstones(place) -> str:
    """What became of an erasure and of a new run: "named", or whoever was erased is left out."""
    stones = place / "erased.sqlite"
    try:
        with ob.load(place / "run", made(), images(), patience_seconds=0) as run:
            run.forget(subjects=["u3"], method="exact")
        options = {"blocks": 4, "subjects": SUBJECTS, "tombstones": stones}
        with ob.fit(made(), images(), place / "new", **options) as new:
            left_out = set(new.excluded().tolist())
    except (*NAMED, TombstonesDamaged, TombstonesLost, InvalidOption):
        return "named"
    assert left_out == records_of(1) | records_of(3)
    return "done"


def damaged_tombstones(place, chance) -> str:
    """The outcome of one turned bit in the file of tombstones."""
    shutil.rmtree(place)
    shutil.copytree(place.with_name("kept"), place)
    stones = place / "erased.sqlite"
    data = stones.read_bytes()
    start = chance.randrange(0, len(data), PAGE)
    told = [at for at, byte in enumerate(data[start : start + PAGE]) if byte] or [0]
    flipped(stones, start + chance.choice(told), chance.randrange(8))
    return outcome_beside_tombstones(place)


@pytest.mark.parametrize(
    "times", [4, pytest.param(600, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_turned_bits_of_tombstones_let_nobody_back(stones_story, times):
    chance = random.Random(3)
    assert {damaged_tombstones(stones_story, chance) for _ in range(times)} <= {"named", "done"}
