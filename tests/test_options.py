"""Options: whatever a sweep or a notebook gives becomes plain Python, or is refused by name."""

import contextlib
import math
import sqlite3
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from types import NoneType

import numpy as np
import pytest
import torch

import obliviate as ob
from obliviate.chain.spacing import bytes_of
from obliviate.errors import InvalidOption, ObliviateError
from obliviate.options import MOST_WHOLE, flag, listed, path_text, real, text, whole

WHOLE = [
    8,
    np.int64(8),
    np.uint8(8),
    np.array(8),
    torch.tensor(8),
    torch.tensor(8, dtype=torch.int16),
]
NOT_WHOLE = [
    True,
    np.True_,
    torch.tensor(True),
    8.0,
    np.float64(8),
    torch.tensor(8.0),
    torch.tensor([8]),
    torch.empty((), dtype=torch.int64, device="meta"),
    np.array([8]),
    Decimal(8),
    Fraction(8),
    "8",
    b"8",
    None,
    [8],
    range(8),
    math.nan,
]
REAL = [
    2,
    2.0,
    np.float32(2),
    np.float64(2),
    np.int8(2),
    torch.tensor(2.0),
    Decimal(2),
    Fraction(2),
]
NOT_REAL = [
    True,
    np.False_,
    "2",
    b"2",
    None,
    [2.0],
    np.array([2.0]),
    2j,
    math.nan,
    math.inf,
    -math.inf,
    np.float32("nan"),
    torch.tensor(math.inf),
    10**400,
    Decimal("NaN"),
]


@pytest.mark.parametrize("value", WHOLE, ids=repr)
def test_whole_numbers_become_ints(value):
    assert type(whole(value, "blocks")) is int
    assert whole(value, "blocks") == 8


@pytest.mark.parametrize("value", NOT_WHOLE, ids=repr)
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(InvalidOption, match=r"blocks is .*must be an int") as refusal:
        whole(value, "blocks")
    assert refusal.value.hint


@pytest.mark.parametrize(
    "value",
    [-1, MOST_WHOLE + 1, 2**63, 10**5000, -(10**5000)],
    ids=lambda n: f"{n.bit_length()} bits",
)
def test_whole_numbers_out_of_bounds_are_refused(value):
    with pytest.raises(InvalidOption, match="blocks is") as refusal:
        whole(value, "blocks")
    assert len(refusal.value.message) < 400


@pytest.mark.parametrize("value", REAL, ids=repr)
def test_real_numbers_become_floats(value):
    assert type(real(value, "margin")) is float
    assert real(value, "margin") == 2


@pytest.mark.parametrize("value", NOT_REAL, ids=lambda value: type(value).__name__)
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(InvalidOption, match=r"margin is .*finite number"):
        real(value, "margin")


def test_bounds_of_real_numbers_are_said():
    for limits, said in (
        ({"above": 0}, "above 0"),
        ({"least": 1}, "1 or more"),
        ({"most": -1}, "most -1"),
    ):
        with pytest.raises(InvalidOption, match=said):
            real(0, "margin", **limits)


def test_flags_texts_and_lists():
    assert flag(np.True_, "repair") is True
    assert type(text(np.str_("why"), "reason")) is str
    assert listed({1}, "records", "") == [1]
    for wrong in (1, "yes", None, np.array([True])):
        with pytest.raises(InvalidOption, match="True or False"):
            flag(wrong, "repair")
    for wrong in (1, b"why", None):
        with pytest.raises(InvalidOption, match="a str"):
            text(wrong, "reason")
    for wrong in ("ann", b"ann", {"ann": 1}, 7, None, np.array(7), torch.tensor(7)):
        with pytest.raises(InvalidOption, match="people"):
            listed(wrong, "people", "")


def test_paths_are_text_that_a_file_can_be_called():
    for good in (
        "a b",
        "ünï/名前",
        "100%",
        "new\nline",
        PurePosixPath("pure"),
        Path("n" * 255),
        "\udcff",
    ):
        assert path_text(good, "the path") == str(good)
    for wrong, said in (
        ("", "empty"),
        ("  ", "empty"),
        ("a\0b", "zero character"),
        ("n" * 256, "255 bytes"),
        ("ü" * 128, "255 bytes"),
        ("a/" * 2048, "4095 bytes"),
        ("\ud800", "half a character"),
        (b"bytes", "no path"),
        (None, "no path"),
        (7, "no path"),
    ):
        with pytest.raises(InvalidOption, match=said) as refusal:
            path_text(wrong, "the path")
        assert "\0" not in refusal.value.message


BLOCKS = 4


def kept_types(folder) -> set[str]:
    """Of all values in the number columns of a ledger: what SQLite took them for."""
    connection = sqlite3.connect(f"file:{folder / 'ledger.sqlite'}?immutable=1", uri=True)
    found = set()
    try:
        names = [
            row[0]
            for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        for name in names:
            for _, column, kind, *_ in connection.execute(f"PRAGMA table_info({name})").fetchall():
                if kind in ("INTEGER", "BIGINT", "DOUBLE"):
                    query = f'SELECT DISTINCT typeof("{column}") FROM "{name}"'
                    found |= {row[0] for row in connection.execute(query)}
    finally:
        connection.close()
    return found


ODD = [*WHOLE, *NOT_WHOLE, *REAL, *NOT_REAL, -1, 0, 2**31, 2**63, 10**5000, "", "\0", object, {}]


@pytest.fixture
def run(tmp_path, recipe_of, data):
    return ob.fit(recipe_of(), data, tmp_path / "run", blocks=np.int64(BLOCKS))


def calls(run, data, value):
    """Every number or flag that the public interface takes, and something in its place."""
    return [
        lambda: ob.DeepObliviate(epsilon=value),
        lambda: ob.DeepObliviate(blocks=value),
        lambda: ob.DeepObliviate(functional=value),
        lambda: ob.Calibrated(tolerance=value),
        lambda: ob.Calibrated(blocks=value),
        lambda: ob.Exact(functional=value),
        lambda: ob.Policy(margin_days=value),
        lambda: ob.Policy(fast_first=value),
        lambda: bytes_of(value),
        lambda: run.preview(records=[value]),
        lambda: run.request(records=[value], method=ob.DeepObliviate(epsilon=value)),
        lambda: run.request(records=[1], due=value),
        lambda: run.refuse(value, "why"),
        lambda: run.refuse(1, value),
        lambda: run.verify(blocks=[] if value is None else value),
        lambda: run.verify(blocks=[1], journal_head=value),
        lambda: run.work(value, everything=None),
        lambda: run.extend(data, blocks=0 if value is None or is_count(value) else value),
        lambda: ob.fit(run.recipe, data, run.folder, blocks=-1 if is_count(value) else value),
        lambda: ob.fit(run.recipe, data, run.folder, blocks=BLOCKS, exclude=[value]),
        lambda: ob.fit(run.recipe, data, run.folder, blocks=BLOCKS, exclude=value),
    ]


def is_count(value):
    with contextlib.suppress(InvalidOption):
        return 1 <= whole(value, "") <= 40
    return False


def outcome(call):
    """What a call gave, or the error of ours that it raised."""
    try:
        return call()
    except ObliviateError as error:
        return error


def test_no_option_raises_raw_or_is_kept_as_bytes(run, data):
    before = run.digest
    for value in ODD:
        for call in calls(run, data, value):
            said = outcome(call)
            if isinstance(said, ObliviateError):
                assert said.message
                assert len(str(said)) < 2000
            elif isinstance(said, ob.Policy | ob.DeepObliviate | ob.Calibrated | ob.Exact):
                assert {type(each) for each in vars(said).values()} <= {int, float, bool, NoneType}
    run.ledger.close()
    again = ob.load(run.folder, run.recipe, data, patience_seconds=np.float32(1))
    assert again.digest == before
    again.ledger.close()
    assert kept_types(run.folder) <= {"integer", "real", "null"}


def test_numbers_of_a_sweep_reach_the_ledger_as_numbers(run, data):
    run.extend(data, blocks=np.int32(2))
    run.forget(
        records=[np.int64(3)], method=ob.DeepObliviate(epsilon=np.float32(9), blocks=np.int8(1))
    )
    run.request(records=torch.tensor([4]), method=ob.Calibrated(tolerance=torch.tensor(2.5)))
    run.work(ob.Policy(margin_days=np.float32(3)))
    run.ledger.close()
    assert kept_types(run.folder) <= {"integer", "real", "null"}
    both = torch.utils.data.ConcatDataset([data, data])
    assert ob.load(run.folder, run.recipe, both).status().blocks == BLOCKS + 2
