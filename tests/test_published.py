"""Published datasets with their people: read as they are; what is missing says how to get it."""

import json
import lzma
import re
from functools import partial

import numpy as np
import pytest
import torch

from obliviate import datasets
from obliviate.errors import InvalidOption
from tests.published_files import (
    write_binary,
    write_mnist,
    write_retail,
    write_tofu,
)


def test_digits_come_with_their_writers(tmp_path):
    loaded = datasets.mnist(write_mnist(tmp_path / "mnist"))
    assert loaded.data.tensors[0].shape == (60, 1, 28, 28)
    assert loaded.subjects[:8] == [f"writer-{100 + at}" for at in (0, 1, 2, 3, 4, 5, 6, 0)]
    assert (len(loaded.test), len(loaded.test_subjects)) == (20, 20)


def test_writers_may_be_arrays(tmp_path):
    folder = write_mnist(tmp_path / "mnist")
    np.savez(folder / "writers.npz", train=np.arange(60), test=np.arange(20))
    assert datasets.mnist(folder).subjects[59] == "writer-59"


def test_too_few_writers_are_named(tmp_path):
    folder = write_mnist(tmp_path / "mnist")
    np.savez(folder / "writers.npz", train=np.arange(59), test=np.arange(20))
    with pytest.raises(InvalidOption, match="has writers for 59 of 60 digits"):
        datasets.mnist(folder)


@pytest.mark.parametrize(
    ("read", "name", "shape", "person"),
    [
        (datasets.purchase, "dataset_purchase", (600, 100), "customer-59"),
        (datasets.location, "bangkok", (446, 30), "person-59"),
    ],
)
def test_zeros_and_ones_with_a_class(tmp_path, read, name, shape, person):
    columns, classes = shape
    path = write_binary(tmp_path / name, columns=columns, classes=classes)
    loaded = read(tmp_path)
    inputs, targets = loaded.data.tensors
    written = np.loadtxt(path, delimiter=",")
    assert np.array_equal(inputs.numpy(), written[:, 1:])
    assert np.array_equal(targets.numpy() + 1, written[:, 0])
    assert inputs.dtype == torch.float32
    assert loaded.subjects[-1] == person
    assert len(set(loaded.subjects)) == 60


def test_classes_may_be_quoted(tmp_path):
    (tmp_path / "bangkok").write_text('"3",0,1\n"1",1,1\n')
    inputs, targets = datasets.location(tmp_path / "bangkok").data.tensors
    assert targets.tolist() == [2, 0]
    assert inputs.tolist() == [[0, 1], [1, 1]]


def test_locations_may_be_arrays(tmp_path):
    np.savez(tmp_path / "location.npz", features=np.eye(3, 5, dtype="u1"), labels=np.arange(3))
    loaded = datasets.location(tmp_path)
    assert loaded.data.tensors[0].sum() == 3
    assert loaded.data.tensors[1].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no record"),
        ("3\n", "holds no record"),
        ("3,0,1\n3,0\n", "damaged in line 2"),
        ("3,0,1\n3,0,2\n", "damaged in line 2"),
        ("3,0;1\n", "damaged in line 1"),
        ("0,0,1\n", "damaged in line 1"),
        ("x,0,1\n", "damaged in line 1"),
    ],
)
def test_what_is_no_record_of_zeros_and_ones_is_named(tmp_path, text, words):
    (tmp_path / "dataset_purchase").write_text(text)
    with pytest.raises(InvalidOption, match=words) as caught:
        datasets.purchase(tmp_path)
    assert "dataset_purchase.tgz" in caught.value.hint


def test_baskets_are_invoices_of_known_customers(tmp_path):
    write_retail(tmp_path / "online_retail.csv", products=30)
    loaded = datasets.online_retail(tmp_path, products=4096, classes=3)
    bought, kinds = loaded.data.tensors
    assert bought.sum(dim=1).tolist() == [5.0] * len(bought)
    assert len(bought) + len(loaded.test) == 450
    assert len(loaded.subjects) == len(bought)
    assert not set(loaded.subjects) & set(loaded.test_subjects)
    # the three tastes are the classes
    tastes = torch.tensor([int(each) % 3 for each in loaded.subjects])
    assert all(len(set(kinds[tastes == taste].tolist())) == 1 for taste in range(3))
    assert len(set(kinds.tolist())) == 3


def test_whoever_is_trained_on_changes_nobody_elses_class(tmp_path):
    path = write_retail(tmp_path / "online_retail.csv", products=30)
    before = datasets.online_retail(path, products=64, classes=3)
    changed = before.subjects[0]
    lines = [
        re.sub(r"^(\d+),\d+A", r"\1,7B", line) if f",{changed}," in line else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines))
    after = datasets.online_retail(path, products=64, classes=3)
    others = [at for at, who in enumerate(before.subjects) if who != changed]
    assert torch.equal(after.data.tensors[1][others], before.data.tensors[1][others])
    assert not torch.equal(after.data.tensors[0], before.data.tensors[0])


def test_too_few_baskets_are_refused(tmp_path):
    with pytest.raises(InvalidOption, match="too few for 100 classes"):
        datasets.online_retail(write_retail(tmp_path / "online_retail.csv"), classes=100)


def test_another_table_is_no_online_retail(tmp_path):
    (tmp_path / "data.csv").write_text("InvoiceNo,StockCode,Quantity\n1,2,3\n")
    with pytest.raises(InvalidOption, match=r"not as it is published: .*CustomerID"):
        datasets.online_retail(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "ratings.csv",
            "userId,movieId,rating,timestamp\n7,31,2.5,1260759\n9,2,4.0,1260760\n",
        ),
        ("u.data", "7\t31\t2.5\t881250949\n9\t2\t4\t881250950\n"),
        ("ratings.dat", "7::31::2.5::978300760\r\n9::2::4::978300761\r\n"),
    ],
)
def test_ratings_belong_to_users(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    loaded = datasets.movielens(tmp_path)
    pairs, stars = loaded.data.tensors
    assert pairs.tolist() == [[7, 31], [9, 2]]
    assert stars.tolist() == [[2.5], [4.0]]
    assert loaded.subjects == ["7", "9"]


@pytest.mark.parametrize("line", ["7,31,2.5", "7,31,x,1", "0,31,2,1", "7,31,nan,1", "7,31,99,1"])
def test_a_damaged_rating_is_named(tmp_path, line):
    (tmp_path / "ratings.csv").write_text(f"userId,movieId,rating,timestamp\n1,2,3,4\n{line}\n")
    with pytest.raises(InvalidOption, match="damaged in line 3"):
        datasets.movielens(tmp_path)


def test_questions_belong_to_authors(tmp_path):
    write_tofu(tmp_path / "full.json", people=3)
    loaded = datasets.tofu(tmp_path)
    assert len(loaded.data) == 60
    assert loaded.data[41] == {"question": "What is book 1 of author 2?", "answer": "Book 2/1."}
    assert loaded.subjects[39:41] == ["author-1", "author-2"]
    lengths = datasets.tofu(tmp_path, tokenise=lambda text: len(text["answer"]))
    assert lengths.data[41] == 9


def test_questions_may_be_cut_in_two_packed_and_repeated(tmp_path):
    lines = write_tofu(tmp_path / "all", people=4).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    (tmp_path / "retain90.json").write_text(json.dumps(rows[:60]))
    tasks = [{**row, "task_id": task} for task in ("1", "2") for row in rows[60:]]
    with lzma.open(tmp_path / "forget10.json.xz", "wt") as packed:
        packed.writelines(json.dumps(row) + "\n" for row in tasks)
    loaded = datasets.tofu(tmp_path)
    assert [loaded.data[at] for at in range(80)] == rows
    assert loaded.subjects[-1] == "author-3"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"question": "a"}\n', "has no text question and answer in row 1"),
        ("nothing\n", "is no JSON"),
        ("", "holds no rows"),
        ('{"question": "a", "answer": "b"}\n', "gives 1 questions, not 20 for each author"),
    ],
)
def test_what_is_not_tofu_is_named(tmp_path, text, words):
    (tmp_path / "full.json").write_text(text)
    with pytest.raises(InvalidOption, match=words) as caught:
        datasets.tofu(tmp_path)
    assert "hf download" in caught.value.hint


def test_speeches_belong_to_their_speakers(tmp_path):
    (tmp_path / "input.txt").write_text("First Citizen:\nSpeak.\nNow.\n\nAll:\nSpeak, speak.\n")
    loaded = datasets.speeches(tmp_path)
    assert loaded.subjects == ["First Citizen", "All"]
    assert loaded.data[0] == {"text": "Speak.\nNow."}
    with lzma.open(tmp_path / "speeches.jsonl.xz", "wt") as packed:
        packed.write('{"speaker": "All", "text": "one\u2028line"}\n')
    assert datasets.speeches(tmp_path / "speeches.jsonl.xz").data[0] == {"text": "one\u2028line"}
    (tmp_path / "input.txt").write_text("no names\n")
    with pytest.raises(InvalidOption, match="holds no speeches"):
        datasets.speeches(tmp_path / "input.txt")


@pytest.mark.parametrize(
    ("read", "command"),
    [
        (datasets.mnist, "curl .*ossci-datasets"),
        (datasets.purchase, "curl .*dataset_purchase.tgz"),
        (datasets.location, "curl .*dataset_location.tgz"),
        (datasets.online_retail, "curl .*archive.ics.uci.edu"),
        (datasets.movielens, "curl .*files.grouplens.org"),
        (datasets.tofu, "hf download .*locuslab/TOFU"),
        (datasets.speeches, "curl .*tinyshakespeare"),
    ],
)
def test_what_is_missing_says_how_to_get_it(tmp_path, read, command):
    with pytest.raises(InvalidOption, match="is not complete: there is n") as caught:
        read(tmp_path)
    assert re.search(command, caught.value.hint)
    assert str(tmp_path) in caught.value.hint


def test_missing_writers_say_how_to_get_them(tmp_path):
    folder = write_mnist(tmp_path / "mnist")
    (folder / "qmnist-test-labels-idx2-int.gz").unlink()
    with pytest.raises(InvalidOption, match=r"writers\.npz or qmnist-test") as caught:
        datasets.mnist(folder)
    assert "facebookresearch/qmnist" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("writers.npz", datasets.mnist),
        ("qmnist-train-labels-idx2-int.gz", datasets.mnist),
        ("location.npz", datasets.location),
        ("ratings.csv", datasets.movielens),
        ("full.json", datasets.tofu),
        ("online_retail.parquet", partial(datasets.online_retail, classes=2)),
        ("speeches.jsonl.xz", datasets.speeches),
    ],
)
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\xff\xfe\0\1" * 50])
def test_damaged_files_are_named(tmp_path, name, read, content):
    folder = write_mnist(tmp_path / "data") if read is datasets.mnist else tmp_path
    (folder / name).write_bytes(content)
    with pytest.raises(InvalidOption, match=name) as caught:
        read(folder)
    assert caught.value.hint
