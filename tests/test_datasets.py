"""Datasets: what is read is what was written, and what is wrong is named."""

import gzip

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch.utils.data import Subset, TensorDataset

from obliviate import datasets
from obliviate.datasets import held_out
from obliviate.errors import InvalidOption
from tests.idx_files import idx_bytes, write_digits

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([7, 1], dtype=np.uint8)

some_images = arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=6))


@pytest.fixture
def pair(tmp_path):
    """Write the two files of a pair, and read it."""

    def read(images: bytes = idx_bytes(IMAGES), labels: bytes = idx_bytes(LABELS)):
        (tmp_path / "images").write_bytes(images)
        (tmp_path / "labels").write_bytes(labels)
        return datasets.idx(tmp_path / "images", tmp_path / "labels")

    return read


@pytest.fixture
def table(tmp_path):
    """Write a CSV file."""

    def write(text: str, encoding: str = "utf-8"):
        path = tmp_path / "table.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


# IDX


@given(images=some_images, is_gzipped=st.booleans())
def test_idx_reads_what_was_written(tmp_path_factory, images, is_gzipped):
    folder = tmp_path_factory.mktemp("idx")
    labels = images[:, 0, 0]
    for name, array in (("images", images), ("labels", labels)):
        content = idx_bytes(array)
        (folder / name).write_bytes(gzip.compress(content) if is_gzipped else content)
    read, classes = datasets.idx(folder / "images", folder / "labels").tensors
    assert read.dtype == torch.float32
    assert read.shape == (len(images), 1, *images.shape[1:])
    assert np.array_equal((read[:, 0] * 255).round().numpy().astype(np.uint8), images)
    assert classes.dtype == torch.int64
    assert classes.tolist() == labels.tolist()


@given(data=st.data(), is_gzipped=st.booleans())
def test_idx_finds_any_truncation(tmp_path_factory, data, is_gzipped):
    folder = tmp_path_factory.mktemp("idx")
    content = idx_bytes(data.draw(some_images))
    content = gzip.compress(content) if is_gzipped else content
    length = data.draw(st.integers(0, len(content) - 1))
    (folder / "images").write_bytes(content[:length])
    with pytest.raises(InvalidOption, match="images") as caught:
        datasets.idx(folder / "images", folder / "images")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (b"", "starts with nothing, not 00 00 08 03"),
        (idx_bytes(LABELS), "starts with 00 00 08 01, not 00 00 08 03"),
        (b"\0\0\x0d\3" + idx_bytes(IMAGES)[4:], "starts with 00 00 0d 03"),
        (idx_bytes(IMAGES) + b"\0", "is too long: it has 41 bytes"),
        (idx_bytes(IMAGES)[:-1], r"is truncated: it has 39 bytes, a shape of \[2, 3, 4\] needs 40"),
        (idx_bytes(IMAGES[:0]), r"has the shape \[0, 3, 4\]"),
        (idx_bytes(IMAGES[:1]), "holds 1 images, .*labels holds 2 labels"),
        (gzip.compress(idx_bytes(IMAGES), mtime=0)[:-9] + b"123456789", "is a damaged gzip file"),
    ],
)
def test_idx_names_what_is_wrong(pair, images, words):
    with pytest.raises(InvalidOption, match=words):
        pair(images=images)


def test_idx_of_a_missing_file(tmp_path):
    with pytest.raises(InvalidOption, match="nowhere cannot be read"):
        datasets.idx(tmp_path / "nowhere", tmp_path / "nowhere")


def test_idx_folder_takes_plain_and_gzipped_files_together(tmp_path):
    folder = write_digits(tmp_path / "mnist", train=20, test=5)
    gzipped = folder / "train-labels-idx1-ubyte.gz"
    (folder / "train-labels-idx1-ubyte").write_bytes(gzip.decompress(gzipped.read_bytes()))
    gzipped.unlink()
    train, test = (datasets.idx_folder(folder, split) for split in ("train", "test"))
    assert train.tensors[0].shape == (20, 1, 28, 28)
    assert (len(train), len(test)) == (20, 5)
    assert float(train.tensors[0].max()) > 0.9


def test_idx_folder_names_what_is_missing(tmp_path):
    with pytest.raises(InvalidOption, match=r"neither .*t10k-images-idx3-ubyte nor"):
        datasets.idx_folder(tmp_path, "test")
    with pytest.raises(InvalidOption, match="split is 'validation'"):
        datasets.idx_folder(tmp_path, "validation")


# Embedded and made-up data


def test_digits_are_split_without_overlap():
    train, test = datasets.digits()
    assert train.tensors[0].shape == (1500, 1, 8, 8)
    assert test.tensors[0].shape == (297, 1, 8, 8)
    assert float(train.tensors[0].min()) == 0
    assert float(train.tensors[0].max()) == 1
    assert set(test.tensors[1].tolist()) == set(range(10))
    seen, held_out = ({bytes(each.numpy()) for each in part.tensors[0]} for part in (train, test))
    assert not seen & held_out


def test_the_split_of_digits_never_changes():
    _, test = datasets.digits()
    assert test.tensors[1][:12].tolist() == [4, 6, 0, 1, 9, 3, 9, 0, 9, 8, 7, 5]


def test_synthetic_purchase_has_the_shape_and_can_be_learned():
    first, again = (datasets.synthetic_purchase(400, features=60, classes=4) for _ in range(2))
    bought, kinds = first.tensors
    assert bought.shape == (400, 60)
    assert bought.dtype == torch.float32
    assert set(bought.unique().tolist()) == {0.0, 1.0}
    assert set(kinds.tolist()) == {0, 1, 2, 3}
    assert all(torch.equal(a, b) for a, b in zip(first.tensors, again.tensors, strict=True))
    means = torch.stack([bought[:200][kinds[:200] == kind].mean(0) for kind in range(4)])
    nearest = torch.cdist(bought[200:], means).argmin(1)
    assert float((nearest == kinds[200:]).float().mean()) > 0.5  # guessing gives 0.25


def test_synthetic_purchase_depends_on_its_seed():
    first, other = (datasets.synthetic_purchase(50, features=9, seed=seed) for seed in (0, 1))
    assert not torch.equal(first.tensors[0], other.tensors[0])


@pytest.mark.parametrize("wrong", [{"records": 0}, {"records": 5, "classes": True}])
def test_synthetic_purchase_refuses_what_is_no_number(wrong):
    with pytest.raises(InvalidOption, match=r"is (0|True)"):
        datasets.synthetic_purchase(**wrong)


# CSV

PATIENTS = "age, weight,patient,ill\n30,61.5,ann,0\n\n41,70,bob,2\n"


def test_csv_classes(table):
    inputs, targets = datasets.csv(table(PATIENTS), target="ill", ignore=["patient"]).tensors
    assert torch.equal(inputs, torch.tensor([[30, 61.5], [41, 70]]))
    assert torch.equal(targets, torch.tensor([0, 2]))


def test_csv_numbers_and_the_column_of_people(table):
    path = table(PATIENTS.replace(",", ";"), encoding="utf-8-sig")
    data = datasets.csv(
        path, target="weight", target_kind="number", ignore=("patient", "ill"), delimiter=";"
    )
    assert torch.equal(data.tensors[0], torch.tensor([[30.0], [41.0]]))
    assert torch.equal(data.tensors[1], torch.tensor([[61.5], [70.0]]))
    assert datasets.csv_column(path, "patient", delimiter=";") == ["ann", "bob"]


@given(arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(2, 4)), elements=st.floats(
    width=32, allow_nan=False, allow_infinity=False)))  # fmt: skip
def test_csv_reads_every_bit_of_what_was_written(tmp_path_factory, numbers):
    path = tmp_path_factory.mktemp("csv") / "numbers.csv"
    names = [f"c{at}" for at in range(numbers.shape[1])]
    lines = [names, *([repr(float(each)) for each in row] for row in numbers)]
    path.write_text("\n".join(",".join(line) for line in lines))
    inputs, targets = datasets.csv(path, target=names[-1], target_kind="number").tensors
    assert np.array_equal(torch.cat([inputs, targets], dim=1).numpy(), numbers)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("a,b\n1,2\n\nx,3\n", {}, "line 4, column 'a': 'x' is no finite number"),
        ("a,b\n1,2\n,3\n", {}, "line 3, column 'a': '' is no finite number"),
        ("a,b\nnan,2\n", {}, "line 2, column 'a': 'nan' is no finite"),
        ("a,b\n1e39,2\n", {}, "line 2, column 'a': '1e39' is no finite"),
        ("a,b\n1,2\n1,-1\n", {}, "line 3, column 'b': -1 is no class"),
        ("a,b\n1,0.5\n", {}, "line 2, column 'b': 0.5 is no class"),
        ("a,b\n1,2\n1\n", {}, "line 3: 1 cells for 2 columns"),
        ("a,c\n1,2\n", {}, "has 0 columns called 'b'"),
        ("b,b\n1,2\n", {}, "has 2 columns called 'b'"),
        ("a,b\n1,2\n", {"ignore": ["a"]}, "no column left"),
        ("a,b\n1,2\n", {"target_kind": "float"}, "target_kind is 'float'"),
        ("a,b\n1,2\n", {"delimiter": "::"}, "cannot be read"),
        ("a,b\n", {}, "holds no records"),
        ("", {}, "holds no records"),
        ('a,b\n"1,2\n', {}, "cannot be read: unexpected end of data"),
    ],
)
def test_csv_names_what_is_wrong(table, text, options, words):
    with pytest.raises(InvalidOption, match=words) as caught:
        datasets.csv(table(text), target="b", **options)
    assert caught.value.hint


def test_csv_of_a_file_that_is_no_text(table):
    with pytest.raises(InvalidOption, match="cannot be read: 'utf-8' codec"):
        datasets.csv(table("ä,b\n1,2\n", encoding="latin-1"), target="b")


@pytest.mark.parametrize("kind", [list, TensorDataset])
def test_people_are_held_out_with_all_their_records(kind):
    records = torch.arange(400)
    data = TensorDataset(records) if kind is TensorDataset else Subset(records, range(400))
    subjects = [f"p{each % 80}" for each in range(400)]
    trained, whose, (reference, theirs) = held_out(data, subjects, share=0.2)
    assert len(trained) + len(reference) == 400
    assert len(whose) == len(trained)
    apart = {subjects[int(item[0] if kind is TensorDataset else item)] for item in reference}
    assert not apart & set(whose)
    assert apart == set(theirs)
    assert len(theirs) == len(reference)
    assert 6 <= len(apart) <= 28
    longer = TensorDataset(torch.arange(450))
    again = held_out(longer, subjects + ["new"] * 50, share=0.2)[2][1]
    assert apart <= set(again)


@pytest.mark.parametrize("share", [1e-9, 1.0, 7])
def test_a_share_that_leaves_nobody_is_refused(share):
    with pytest.raises(InvalidOption, match="leaves nobody on one side"):
        held_out(TensorDataset(torch.arange(5)), share=share)


def test_records_of_nobody_are_held_out_one_by_one():
    trained, whose, reference = held_out(TensorDataset(torch.arange(1000)), share=0.1)
    assert whose is None
    assert 60 <= len(reference) <= 140
    assert len(trained) == 1000 - len(reference)
