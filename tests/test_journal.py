"""The journal: nothing that it speaks of can be changed from outside without being found."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from contextlib import closing

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import obliviate as ob
from obliviate.errors import InvalidOption, RunDamaged
from obliviate.ledger import Ledger, journal, row_groups, tables
from tests.stories import lived

TABLES = (*row_groups.GROUPED, *row_groups.SPANNED, "journal", "salts")
COLUMNS = [(name, each.name) for name in TABLES for each in tables.metadata.tables[name].columns]


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """The folder of a ledger to which everything has happened."""
    folder = tmp_path_factory.mktemp("story")
    ledger = lived(folder)
    assert ledger.faults() == []
    ledger.close()
    return folder


@pytest.fixture(scope="module")
def tampered(story, tmp_path_factory):
    """A function that changes a copy of the ledger by raw SQL, and returns what is found of it."""
    folder = tmp_path_factory.mktemp("tampered")

    def found(change):
        (folder / "ledger.sqlite-wal").unlink(missing_ok=True)
        (folder / "ledger.sqlite-shm").unlink(missing_ok=True)
        shutil.copy(story / "ledger.sqlite", folder)
        with closing(sqlite3.connect(folder / "ledger.sqlite", isolation_level=None)) as raw:
            change(raw)
        return faults_in(folder)

    return found


def faults_in(folder) -> list[str]:
    try:
        ledger = Ledger(folder)
    except RunDamaged as error:
        return [str(error)]
    try:
        return ledger.faults()
    except RunDamaged as error:
        return [str(error)]
    finally:
        ledger.close()


def is_named(faults: list[str], table: str) -> bool:
    """Whether what was found says where: the table, or a journal or file that is broken."""
    # without its last entry, a journal speaks of rows as they were; a salt is that of other rows
    is_of_all = table in ("journal", "salts")
    places = ("",) if is_of_all else (table, "journal entry", "the journal is empty", "/")
    return bool(faults) and all(fault.startswith(places) for fault in faults)


def rows_of(raw, table):
    return raw.execute(f'SELECT * FROM "{table}"').fetchall()


def keys_of(table):
    return [each.name for each in tables.metadata.tables[table].primary_key]


def where(table, row):
    """The condition that finds a row again."""
    names = [each.name for each in tables.metadata.tables[table].columns]
    values = dict(zip(names, row, strict=True))
    keys = keys_of(table)
    return " AND ".join(f'"{key}" = ?' for key in keys), [values[key] for key in keys]


def changed(value, at: int, bit: int):
    """A value of which one byte is another, or which is there instead of not."""
    if value is None:
        return ["", b"", 0, 0.5, "x"][at % 5]
    if isinstance(value, int):
        return value ^ (1 << (at % 40))
    if isinstance(value, float):
        return [math.nextafter(value, math.inf), -value, value * 2, value + 1][at % 4]
    raw = bytearray(value if isinstance(value, bytes) else value.encode())
    if not raw:
        return b"x" if isinstance(value, bytes) else "x"
    raw[at % len(raw)] ^= 1 << bit
    return bytes(raw) if isinstance(value, bytes) else raw.decode("latin-1")


def set_value(raw, table, column, row, value) -> bool:
    """Set one value; say whether the file holds another one afterwards."""
    before = raw.execute(f'SELECT * FROM "{table}"').fetchall()
    condition, keys = where(table, row)
    try:
        raw.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE {condition}', [value, *keys])
    except sqlite3.IntegrityError:  # a NULL where none may be, or a key that is taken
        return False
    return [list(map(repr, each)) for each in rows_of(raw, table)] != [
        list(map(repr, each)) for each in before
    ]


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_no_column_can_be_changed(tampered, table, column):
    done = []

    def change(raw):
        *_, row = rows_of(raw, table)
        names = [each.name for each in tables.metadata.tables[table].columns]
        value = row[names.index(column)]
        done.append(set_value(raw, table, column, row, changed(value, 25, 0)))

    assert is_named(tampered(change), table)
    assert done == [True]


@given(data=st.data())
def test_no_byte_can_be_changed(tampered, data):
    """Any value of any row: one bit of it, or NULL in its place, or the same bytes as a blob."""
    table, column = data.draw(st.sampled_from(COLUMNS))
    done = []

    def change(raw):
        rows = rows_of(raw, table)
        row = rows[data.draw(st.integers(0, len(rows) - 1))]
        names = [each.name for each in tables.metadata.tables[table].columns]
        value = row[names.index(column)]
        other = data.draw(st.sampled_from(["bit", "bit", "bit", "null", "blob"]))
        if other == "bit":
            at, bit = data.draw(st.integers(0, 10_000)), data.draw(st.integers(0, 6))
            new = changed(value, at, bit)
        else:
            new = None if other == "null" else str(value).encode()
        done.append(set_value(raw, table, column, row, new))

    faults = tampered(change)
    assume(done == [True])
    assert is_named(faults, table)


@pytest.mark.parametrize("table", TABLES)
def test_no_row_can_be_removed(tampered, story, table):
    with closing(sqlite3.connect(story / "ledger.sqlite")) as raw:
        rows = rows_of(raw, table)
    for row in {rows[0], rows[len(rows) // 2], rows[-1]}:
        condition, keys = where(table, row)
        statement = f'DELETE FROM "{table}" WHERE {condition}'
        assert is_named(tampered(lambda raw, s=statement, k=keys: raw.execute(s, k)), table)


@pytest.mark.parametrize("whose", ["this run's", "no run's"])
@pytest.mark.parametrize("table", TABLES)
def test_no_row_can_be_added(tampered, table, whose):
    def change(raw):
        names = [each.name for each in tables.metadata.tables[table].columns]
        values = dict(zip(names, rows_of(raw, table)[-1], strict=True))
        key = keys_of(table)[-1] if whose == "this run's" else keys_of(table)[0]
        for each in {key, *({"name"} & values.keys()), *({"hash"} & values.keys())}:
            value = values[each]
            values[each] = value + 7 if isinstance(value, int) else value[::-1] + value[:1]
        marks = ", ".join("?" for _ in values)
        raw.execute(f'INSERT INTO "{table}" VALUES ({marks})', list(values.values()))

    assert is_named(tampered(change), table)


@pytest.mark.parametrize(
    "table",
    [name for name in TABLES if name not in ("runs", "erased", "requested", "staged", "further")],
)
def test_no_rows_can_change_places(tampered, table):
    """Of the other tables, some have a single row."""

    def change(raw):
        one, *_, other = rows_of(raw, table)
        names = [each.name for each in tables.metadata.tables[table].columns]
        is_key = [name in keys_of(table) for name in names]
        for row in (one, other):
            condition, keys = where(table, row)
            raw.execute(f'DELETE FROM "{table}" WHERE {condition}', keys)
        marks = ", ".join("?" for _ in names)
        for keeps, gets in ((one, other), (other, one)):
            row = [a if key else b for a, b, key in zip(keeps, gets, is_key, strict=True)]
            raw.execute(f'INSERT INTO "{table}" VALUES ({marks})', row)

    assert is_named(tampered(change), table)


def test_a_whole_journal_cannot_be_removed(tampered):
    assert tampered(lambda raw: raw.execute("DELETE FROM journal")) == ["the journal is empty"]


def test_text_that_is_no_text_is_damage(tampered):
    def change(raw):
        raw.execute("UPDATE journal SET body = CAST(x'ff41' AS TEXT) WHERE number = 2")

    [fault] = tampered(change)
    assert "cannot be read as a ledger" in fault


# Forgers


def entry_rows(raw):
    query = "SELECT number, time, event, body, hash FROM journal ORDER BY number"
    return raw.execute(query).fetchall()


def test_an_entry_that_is_not_chained_is_found(tampered):
    def change(raw):
        number, time, event, body, _ = entry_rows(raw)[-1]
        text = journal.chained("0" * 64, number + 1, time, event, body)
        row = (1, number + 1, time, event, body, text)
        raw.execute("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?)", row)

    assert "is not what was written" in tampered(change)[0]


@pytest.mark.parametrize("body", ["[]", "5", "null", '{"runs": 5}', '{"records": {"x": "y"}}'])
def test_an_entry_in_no_known_form_is_found(tampered, body):
    def change(raw):
        number, time, _, _, previous = entry_rows(raw)[-1]
        text = journal.chained(previous, number + 1, time, "x", body)
        row = (1, number + 1, time, "x", body, text)
        raw.execute("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?)", row)

    faults = tampered(change)
    assert faults == [] if body == "[]" else "no form that was ever written" in faults[0]


def forged(raw):
    """Another reason of a refusal, and a journal that has never said anything else."""
    row = raw.execute("SELECT * FROM requests WHERE id = 2").fetchone()
    new = [*row[:7], "a person after all", row[8]]
    raw.execute("UPDATE requests SET reason = ? WHERE id = 2", [new[7]])
    salted = row_groups.Salted()
    salted.add([new])
    digest = salted.hash
    condition = "of = 'requests' AND rows = '2'"
    raw.execute(f"UPDATE salts SET salt = ?, hash = ? WHERE {condition}", [salted.salt, digest])
    [previous] = raw.execute("SELECT name FROM runs").fetchone()
    previous = journal.origin(previous)
    for number, time, event, body, _ in entry_rows(raw):
        said = json.loads(body)
        if event == "request refused":
            said["requests"]["2"] = digest
        text = json.dumps(said, sort_keys=True)
        previous = journal.chained(previous, number, time, event, text)
        raw.execute(
            "UPDATE journal SET body = ?, hash = ? WHERE number = ?", [text, previous, number]
        )


def test_a_forged_whole_has_another_head(story, tampered):
    before, heads = Ledger(story), []

    def change(raw):
        forged(raw)
        heads.extend(row[4] for row in entry_rows(raw))

    assert tampered(change) == []
    assert before.journal.head() == before.journal.entries()[-1].hash
    assert before.journal.head() not in heads
    before.close()


# By the run


@pytest.fixture
def run(tmp_path, recipe_of, data):
    subjects = [f"user-{record % 20}" for record in range(len(data))]
    run = ob.fit(recipe_of(), data, tmp_path / "run", blocks=4, subjects=subjects)
    run.forget(subjects=["user-3"])
    return run


def by_hand(run, statement):
    with closing(sqlite3.connect(run.folder / "ledger.sqlite", isolation_level=None)) as raw:
        raw.execute(statement)


def test_a_run_is_verified_with_its_journal(run):
    head = run.status().journal_head
    assert run.verify(journal_head=head).passed
    run.forget(records=[5])
    assert run.verify(journal_head=head).passed
    assert run.status().journal_head != head
    by_hand(run, "UPDATE erasures SET started = '2020-01-01T00:00:00+00:00' WHERE id = 1")
    found = run.verify()
    assert not found.passed
    assert found.failed == {}
    assert found.journal == ("erasures, id 1: not what was written",)
    assert run.verify([1]).passed
    assert not run.verify([1], journal_head=head).passed


def test_a_head_that_is_gone_is_missed(run):
    head = "ab" * 32
    found = run.verify([1], journal_head=head)
    assert found.reproduced == (1,)
    assert not found.passed
    assert head in found.journal[0]


@pytest.mark.parametrize("head", ["", "ab", "AB" * 32, 7, "xy" * 32])
def test_what_is_no_head_is_refused(run, head):
    with pytest.raises(InvalidOption, match="journal head"):
        run.verify([1], journal_head=head)
