"""Subjects: one spelling for each person, records of several people and of nobody."""

import unicodedata
import uuid

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset

import obliviate as ob
from obliviate import errors
from obliviate.recipe.subjects import Subjects, spelled

RECORDS, BLOCKS = 40, 4
SEVEN = uuid.UUID(int=7)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("José@x.org", unicodedata.normalize("NFD", "José@x.org")),
        ("José@x.org", "JOSÉ@X.ORG"),
        ("straße", "STRASSE"),
        ("Ünal", unicodedata.normalize("NFD", "üNAL")),
        (" ann\t", "ann"),
        ("\u00a0ann", "Ann"),
        ("17", 17),
        (17, np.int64(17)),
        ("17", torch.tensor(17)),
        (np.str_("ann"), "ann"),
        (SEVEN, str(SEVEN).upper()),
    ],
)
def test_two_spellings_of_one_person(one, other):
    assert spelled(one) == spelled(other)
    assert spelled(spelled(one)) == spelled(one)


def test_people_that_differ_stay_apart():
    names = [
        "ann",
        "anna",
        "an n",
        "ann.",
        "17",
        "017",
        "1.7",
        "jose",
        "josé",
        "\0",
        "a\nb",
        "x" * 5000,
    ]
    assert len({spelled(name) for name in names}) == len(names)


@pytest.mark.parametrize("odd", [None, 1.5, True, np.True_, b"ann", ["ann"], {"ann": 1}, range(2)])
def test_what_cannot_be_a_person_is_refused(odd):
    with pytest.raises(errors.InvalidOption, match="subjects holds"):
        spelled(odd)


@pytest.mark.parametrize("blank", ["", " ", "\t\n", "\u2003"])
def test_a_blank_name_is_nobody_in_data_and_a_slip_in_a_request(blank):
    assert list(Subjects.of([blank, "ann"], 2)) == [(), ("ann",)]
    with pytest.raises(errors.InvalidOption, match="names nobody"):
        spelled(blank)


FORMS = {
    "list": ["ann"] * RECORDS,
    "tuple": ("ann",) * RECORDS,
    "ints": list(range(RECORDS)),
    "range": range(RECORDS),
    "numbers": np.arange(RECORDS),
    "texts": np.array(["ann", "bob"] * 20),
    "objects": np.array(["ann", None] * 20, dtype=object),
    "tensor": torch.arange(RECORDS),
    "uuids": [SEVEN] * RECORDS,
    "pairs": [("ann", "bob")] * RECORDS,
    "sets": [{"ann", 17}] * RECORDS,
    "nobody": [None, ()] * 20,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_list_is_taken(form):
    assert len(Subjects.of(FORMS[form], RECORDS)) == RECORDS


NO_FORMS = {
    "set": {f"u{at}" for at in range(RECORDS)},
    "dict": dict.fromkeys(range(RECORDS), "ann"),
    "generator": (f"u{at}" for at in range(RECORDS)),
    "text": "a" * RECORDS,
    "bytes": b"a" * RECORDS,
    "two dimensions": np.array([["ann"], ["bob"]] * 20),
    "no dimension": np.array("ann"),
    "number": 7,
    "too few": ["ann"] * (RECORDS - 1),
    "too many": ["ann"] * (RECORDS + 1),
    "floats": [1.0] * RECORDS,
    "flags": [True] * RECORDS,
    "missing value of a table": ["ann"] * (RECORDS - 1) + [float("nan")],
    "bytes in it": [b"ann"] * RECORDS,
    "nested twice": [["ann", ["bob"]]] * RECORDS,
    "mappings": [{"ann": 1}] * RECORDS,
}


def test_what_is_no_list_in_the_order_of_the_records_is_refused(tmp_path, recipe_of, data):
    for form in NO_FORMS.values():
        with pytest.raises(errors.InvalidRecipe, match="subject"):
            ob.fit(recipe_of(), data, tmp_path / "run", blocks=BLOCKS, subjects=form)
        assert not (tmp_path / "run").exists()


PEOPLE = [
    ("Ann", "Bob"),
    ["bob", "Cid", "cid "],
    {"ann"},
    None,
    (),
    " ",
    17,
    SEVEN,
    *["others"] * (RECORDS - 8),
]


@pytest.fixture
def run(tmp_path, recipe_of, data):
    return ob.fit(recipe_of(), data, tmp_path / "run", blocks=BLOCKS, subjects=PEOPLE)


def records_of(run, *people):
    return run.preview(subjects=people).records


def test_a_request_for_any_of_its_people_names_a_record(run):
    assert records_of(run, "ann") == (0, 2)
    assert records_of(run, "BOB") == (0, 1)
    assert records_of(run, "cid") == (1,)
    assert records_of(run, "ann", " Ann", "cid") == (0, 1, 2)
    assert records_of(run, "17", SEVEN) == (6, 7)
    with pytest.raises(errors.UnknownSubject, match="'Dora'"):
        records_of(run, "ann", "Dora")


def test_erasing_one_of_two_people_erases_what_they_share(run, recipe_of, data, tmp_path):
    erasure = run.forget(subjects=["bob"], method="exact")
    never = ob.fit(
        recipe_of(), data, tmp_path / "never", blocks=BLOCKS, subjects=PEOPLE, exclude=[0, 1]
    )
    assert (erasure.records, run.digest) == (2, never.digest)
    assert records_of(run, "ann") == (2,)  # what they shared is nobody's any more
    for gone in ("bob", "cid"):
        with pytest.raises(errors.UnknownSubject, match="has no records in"):
            run.preview(subjects=[gone])
    assert run.verify().passed


def test_the_same_people_are_known_again_however_they_are_written(run, recipe_of, data):
    again = [
        ("BOB", "ann"),
        {"cid", "bob"},
        "ann",
        *[None] * 3,
        "17",
        str(SEVEN),
        *["Others"] * (RECORDS - 8),
    ]
    ob.fit(recipe_of(), data, run.folder, blocks=BLOCKS, subjects=again)
    with pytest.raises(errors.InvalidOption, match="other subjects"):
        ob.fit(recipe_of(), data, run.folder, blocks=BLOCKS, subjects=["bob", *again[1:]])


def test_an_extension_has_people_of_its_own_and_those_there_were(run, data):
    run.extend(data, blocks=2, subjects=[("ann", "dora"), "Dora", *[None] * (RECORDS - 2)])
    assert records_of(run, "ann") == (0, 2, RECORDS)
    assert records_of(run, "dora") == (RECORDS, RECORDS + 1)
    run.ledger.close()
    reopened = ob.load(run.folder, run.recipe, ConcatDataset([data, data]))
    assert records_of(reopened, "DORA") == (RECORDS, RECORDS + 1)


def test_a_part_keeps_to_its_places():
    whole = Subjects.of(["ann", ("bob", "ann"), None, ("cid", "dora", "bob")], 4)
    assert list(whole.part(1, 3)) == list(whole)[1:]
    assert list(whole.names()) == ["ann", "bob", "cid", "dora"]
