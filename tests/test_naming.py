"""Naming: whose records a request means, and what is no name at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from obliviate.desk.subjects import record_ids, records_of_subjects
from obliviate.errors import InvalidOption, UnknownRecord, UnknownSubject
from obliviate.ledger import Entry, Ledger, Newcomers, RunFacts
from obliviate.recipe.subjects import Subjects
from tests.counting import asked
from tests.models import parts_of

RUN = RunFacts(
    parts=parts_of(4, 2),
    smallest_batch=1,
    fingerprint={},
    environment={},
    subject_key=bytes(32),
    content_key=bytes(32),
)
FIRST = Entry(block=0, origin="initial", guarantee="exact", digest="d0")


@pytest.fixture
def ledger_of(tmp_path):
    """A function that makes the ledger of some subjects."""
    made = []

    def make(subjects):
        nobody = np.array([], dtype=np.int64)
        people = None if subjects is None else Subjects.of(subjects, 4)
        new = Newcomers(groups=np.arange(4), subjects=people, excluded=nobody)
        made.append(Ledger.create(tmp_path, RUN, FIRST, new))
        return made[-1]

    yield make
    for ledger in made:
        ledger.close()


@pytest.mark.parametrize(
    "records",
    [
        [4, 0, 4],
        (0, 4),
        {0, 4},
        iter([4, 0]),
        range(0, 5, 4),
        np.array([4, 0]),
        np.array([4, 0], dtype=np.uint8),
        torch.tensor([4, 0]),
        [np.int64(4), torch.tensor(0)],
    ],
    ids=lambda records: type(records).__name__,
)
def test_ids_come_sorted_and_once_from_whatever_holds_them(records):
    ids = record_ids(records, total=5)
    assert ids.tolist() == [0, 4]
    assert ids.dtype == np.int64


def test_nobody_is_nobody():
    assert record_ids([], total=5).tolist() == []


@pytest.mark.parametrize(
    "records",
    ["17", b"17", 17, 17.0, None, np.int64(1), torch.tensor(1), np.array(1)],
    ids=lambda records: f"{type(records).__name__} {records}",
)
def test_what_is_no_list_is_refused(records):
    with pytest.raises(InvalidOption, match="records is") as refusal:
        record_ids(records, total=5)
    assert "give a list" in refusal.value.hint


@pytest.mark.parametrize(
    "records",
    [[1.0], ["1"], [None], [True], [[1]], [np.bool_(True)], np.array([1.0]), np.array([[1]])],
    ids=repr,
)
def test_what_is_no_id_is_refused(records):
    with pytest.raises(InvalidOption, match="records holds"):
        record_ids(records, total=5)


@pytest.mark.parametrize(
    "mask",
    [
        [False, True, False],
        np.array([False, True, False]),
        torch.tensor([False, True, False]),
        (torch.tensor(True),),
    ],
    ids=["list", "numpy", "torch", "tuple"],
)
def test_a_mask_is_not_taken_for_ids(mask):
    """It would erase records 0 and 1, whomever it was meant for."""
    with pytest.raises(InvalidOption, match="a record id is an int"):
        record_ids(mask, total=3)


def test_unknown_ids_are_listed():
    with pytest.raises(UnknownRecord, match=r"not in the dataset: -1, 5\n") as refusal:
        record_ids([5, 0, -1, 4, 5], total=5)
    assert "0 to 4" in refusal.value.hint


def test_of_many_unknown_ids_a_few_are_listed():
    with pytest.raises(UnknownRecord, match=r"5, 6, 7, 8, 9, \.\.\.\n"):
        record_ids(range(100), total=5)


def test_an_id_beyond_64_bits_is_unknown():
    with pytest.raises(UnknownRecord, match=str(2**70)):
        record_ids([2**70], total=5)


def test_the_fault_names_the_argument():
    with pytest.raises(UnknownRecord, match="exclude that are not"):
        record_ids([7], total=5, what="exclude")


def test_people_have_all_their_records(ledger_of):
    ledger = ledger_of(["ann", "bob", "ann", "cid"])
    found = records_of_subjects(["ann", "cid", "ann"], ledger, RUN, "runs/x")
    assert found.tolist() == [0, 2, 3]
    assert found.dtype == np.int64


def test_many_people_cost_as_many_queries_as_one(ledger_of):
    ledger = ledger_of(["ann", "bob", "ann", "cid"])
    with asked(ledger) as of_one:
        records_of_subjects(["ann"], ledger, RUN, "runs/x")
    with asked(ledger) as of_many:
        found = records_of_subjects(["ann", "bob", "cid"] * 1000, ledger, RUN, "runs/x")
        names = ["ann", *(f"nobody {number}" for number in range(5000))]
        with pytest.raises(UnknownSubject, match="'nobody 0'"):
            records_of_subjects(names, ledger, RUN, "runs/x")
    assert found.tolist() == [0, 1, 2, 3]
    assert of_many.statements == 2 * of_one.statements


def test_no_people_have_no_records(ledger_of):
    assert records_of_subjects([], ledger_of(None), RUN, "runs/x").tolist() == []


def test_an_unknown_person_is_named_with_the_place(ledger_of):
    ledger = ledger_of(["ann", "bob", "ann", "cid"])
    for subject in ("Anna", "an n", "nobody"):
        with pytest.raises(UnknownSubject, match=r"no records in runs/x") as refusal:
            records_of_subjects(["ann", subject], ledger, RUN, "runs/x")
        assert repr(subject) in refusal.value.message
        assert "spelling" in refusal.value.hint


def test_a_run_without_subjects_says_so(ledger_of):
    with pytest.raises(UnknownSubject, match="without subjects") as refusal:
        records_of_subjects(["ann"], ledger_of(None), RUN, "runs/x")
    assert "subjects=[...]" in refusal.value.hint


@pytest.mark.parametrize("subjects", ["ann", b"ann", 17, [17.5], [" "], [None], [b"ann"]], ids=repr)
def test_what_is_no_list_of_people_is_refused(ledger_of, subjects):
    with pytest.raises(InvalidOption, match="subjects"):
        records_of_subjects(subjects, ledger_of(["ann", "bob", "ann", "cid"]), RUN, "runs/x")


def test_a_name_that_is_no_valid_text_is_unknown(ledger_of):
    """File names that are no UTF-8 come as such strings from Python."""
    with pytest.raises(UnknownSubject, match="no records"):
        records_of_subjects(["ann\udcff"], ledger_of(["ann"] * 4), RUN, "runs/x")
