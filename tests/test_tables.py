"""Tables with a column of people, from CSV and from Parquet alike."""

import sys

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from obliviate.datasets import table
from obliviate.errors import ExtraMissing, InvalidOption

ROWS = {
    "who": ["ann", "bob", "", "ann"],
    "age": [30, 41, 25, 31],
    "town": ["Bonn", "Köln", "Bonn", "Aachen"],
    "size": ["s", "l", "m", "s"],
    "ill": [0, 2, 1, 0],
}


@pytest.fixture(params=["table.csv", "table.parquet"])
def path(request, tmp_path):
    """The same table in either form."""
    path = tmp_path / request.param
    if path.suffix == ".csv":
        lines = [list(ROWS), *zip(*ROWS.values(), strict=True)]
        path.write_text("\n".join(",".join(map(str, line)) for line in lines), encoding="utf-8")
    else:
        parquet.write_table(pa.table(ROWS), path, row_group_size=2)
    return path


def test_words_are_coded_as_it_is_given(path):
    loaded = table(path, target="ill", subject="who", coded={"town": 8, "size": ["s", "m", "l"]})
    inputs, targets = loaded.data.tensors
    assert inputs.shape == (4, 1 + 8 + 3)
    assert inputs[:, 0].tolist() == [30, 41, 25, 31]
    assert inputs[:, 1:9].sum(dim=1).tolist() == [1] * 4
    assert torch.equal(inputs[0, 1:9], inputs[2, 1:9])
    assert inputs[:, 9:].argmax(dim=1).tolist() == [0, 2, 1, 0]
    assert targets.tolist() == [0, 2, 1, 0]
    assert loaded.subjects == ["ann", "bob", None, "ann"]


def test_columns_are_chosen_and_classes_may_be_words(path):
    loaded = table(
        path, target="size", subject="who", features=["ill", "age"], coded={"size": ["s", "m", "l"]}
    )
    inputs, targets = loaded.data.tensors
    assert inputs[1].tolist() == [2, 41]
    assert targets.tolist() == [0, 2, 1, 0]


def test_a_number_may_be_predicted(path):
    loaded = table(path, target="age", subject="who", features=["ill"], target_kind="number")
    assert loaded.data.tensors[1].tolist() == [[30], [41], [25], [31]]


def test_people_may_be_numbers_with_gaps(tmp_path):
    people = pa.array([7, None, 9], pa.float64())
    rows = pa.table({"who": people, "x": [1.5, 2.5, 3.5], "y": [0, 1, 0]})
    parquet.write_table(rows, tmp_path / "table.parquet")
    assert table(tmp_path / "table.parquet", target="y", subject="who").subjects == ["7", None, "9"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "column 'town': 'Bonn' is no finite number"),
        (
            {"features": ["size"], "coded": {"size": ["s", "m"]}},
            "'l' is none of the words .*: s",
        ),
        ({"features": ["age"], "target": "town"}, "column 'town': 'Bonn' is no finite"),
        ({"features": ["age"], "target": "where"}, "has 0 columns called 'where'"),
        ({"features": ["age"], "subject": "whose"}, "has 0 columns called 'whose'"),
        ({"target": "where"}, "has no column 'where'"),
        ({"features": []}, "no column to learn from"),
        ({"features": ["age"], "coded": {"town": 4}}, "coded names 'town', which is no column"),
        ({"features": ["size"], "coded": {"size": 0}}, "is 0; it must be 1 or more"),
        ({"features": ["size"], "coded": {"size": ["s", "s"]}}, r"is \['s', 's'\]"),
        ({"features": ["age"], "target_kind": "word"}, "target_kind is 'word'"),
        ({"features": ["age"], "coded": ["town"]}, r"coded is \['town'\]"),
    ],
)
def test_what_is_wrong_is_named(path, options, words):
    with pytest.raises(InvalidOption, match=words) as caught:
        table(path, **{"target": "ill", "subject": "who"} | options)
    assert caught.value.hint


def test_a_cell_is_named_with_its_place(path):
    place = "line 3" if path.suffix == ".csv" else "row 2"
    with pytest.raises(InvalidOption, match=f"{place}, column 'size': 'l' is none"):
        table(path, target="ill", subject="who", features=["size"], coded={"size": ["s", "m"]})


@pytest.mark.parametrize("content", [b"", b"PAR1 cut short"])
def test_a_damaged_parquet_file_is_named(tmp_path, content):
    (tmp_path / "table.parquet").write_bytes(content)
    with pytest.raises(InvalidOption, match=r"table\.parquet cannot be read"):
        table(tmp_path / "table.parquet", target="ill", subject="who")
    with pytest.raises(InvalidOption, match=r"other\.parquet cannot be read"):
        table(tmp_path / "other.parquet", target="ill", subject="who")


def test_an_empty_parquet_file_is_refused(tmp_path):
    parquet.write_table(pa.table({"who": [], "ill": []}), tmp_path / "table.parquet")
    with pytest.raises(InvalidOption, match="holds no records"):
        table(tmp_path / "table.parquet", target="ill", subject="who")


def test_what_parquet_takes_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ExtraMissing, match=r"table\.parquet cannot be read") as caught:
        table(tmp_path / "table.parquet", target="ill", subject="who")
    assert "obliviate[datasets]" in caught.value.hint
