"""Images in Parquet files and folders: read when they are looked at, the same in every replay."""

import sys
from functools import partial

import datasets as hugging
import huggingface_hub
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from sklearn.datasets import load_digits
from torch import nn

import obliviate as ob
from obliviate.datasets import images, shifted
from obliviate.errors import ExtraMissing, InvalidOption
from tests.parquet_files import png, write_pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Parquet files with several row groups; nobody changes them."""
    folder = write_pictures(tmp_path_factory.mktemp("images") / "pictures", train=30, test=12)
    for path in folder.glob("train*"):
        parquet.write_table(parquet.read_table(path), path, row_group_size=7)
    return folder


@pytest.fixture
def read(folder, tmp_path):
    """Read them, with a cache that goes with the test."""
    return partial(images, folder, cache=tmp_path / "cache")


def write_classes(folder, count=6, side=8):
    digits = load_digits()
    for at in range(count):
        path = folder / f"class-{digits.target[at]}" / f"{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.resize((digits.images[at] * 15).astype("u1"), (side, side))
        Image.fromarray(pixels).save(path)
    return folder


def test_images_are_what_was_written(read):
    data = read()
    digits = load_digits()
    assert len(data) == 30
    assert data.labels.tolist() == digits.target[:30].tolist()
    image, label = data[17]
    assert (image.dtype, image.shape, label) == (torch.float32, (3, 32, 32), digits.target[17])
    assert float(image.min()) == 0
    ink = digits.images[17] > 0
    seen = image.amax(dim=0).reshape(8, 4, 8, 4).amax(dim=(1, 3)) > 0
    assert np.array_equal(seen.numpy(), ink)
    assert len(read(split="test")) == 12


def test_images_are_mapped_from_the_disk(read, tmp_path):
    data = read()
    files = [path for path in (tmp_path / "cache").rglob("*.arrow") if path.stat().st_size]
    assert files
    before = pa.total_allocated_bytes()
    assert sum(len(data._files.content(at)) for at in range(30)) > 3000
    assert pa.total_allocated_bytes() - before < 1000


def test_files_that_were_changed_are_read_anew(tmp_path):
    read = partial(images, write_pictures(tmp_path / "changed", train=4, test=1), cache=tmp_path)
    before = read()[0][0]
    rows = pa.table({"img": [{"bytes": png(np.ones((8, 8)), 1), "path": ""}] * 4, "label": [1] * 4})
    parquet.write_table(rows, next((tmp_path / "changed").glob("train*")))
    assert read().labels.tolist() == [1] * 4
    assert not torch.equal(read()[0][0], before)


def test_images_are_cropped_and_scaled_or_grey(read):
    image, _ = read(size=(16, 8), mode="L", most=4)[3]
    assert image.shape == (1, 16, 8)
    assert len(read(most=4)) == 4
    assert read(size=8)[0][0].shape == (3, 8, 8)


def test_images_in_folders_of_classes(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test", count=3)
    data = images(tmp_path)
    assert data.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert data[2][0].shape == (3, 8, 8)
    assert len(images(tmp_path, split="test")) == 3
    assert torch.equal(images(tmp_path / "train")[2][0], data[2][0])  # without splits
    with pytest.raises(InvalidOption, match=r"no file test\*\.parquet and no folder"):
        images(tmp_path / "train", split="test")


def test_a_loaded_dataset_may_have_names_and_types_of_its_own():
    rows = {"photo": [Image.new("RGB", (4, 4), "red")] * 3, "kind": ["a", "b", "a"]}
    features = hugging.Features(
        {"photo": hugging.Image(), "kind": hugging.ClassLabel(names=["a", "b"])}
    )
    rows = hugging.Dataset.from_dict({**rows, "kind": [0, 1, 0]}, features=features)
    data = images(rows, label="kind")
    assert [data[at][1] for at in range(3)] == [0, 1, 0]
    assert data[0][0][:, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "validation"}, r"no file validation\*\.parquet and no folder"),
        ({"label": "kind"}, "has no column of a label 'kind'"),
        ({"image": "photo"}, "has no column of a picture 'photo'"),
        ({"label": "img"}, "holds something else than classes"),
        ({"size": (8,)}, r"size is \[8\]"),
        ({"size": 0}, "size is 0"),
        ({"mode": "CMYK"}, "mode is 'CMYK'"),
        ({"most": 0}, "most is 0"),
    ],
)
def test_what_is_wrong_is_named(read, options, words):
    with pytest.raises(InvalidOption, match=words) as caught:
        read(**options)
    assert caught.value.hint


def test_labels_that_are_not_published_are_refused(tmp_path):
    picture = {"bytes": png(np.ones((8, 8)), 0), "path": "0.png"}
    rows = pa.table({"image": [picture] * 2, "label": [-1, -1]})
    parquet.write_table(rows, tmp_path / "test.parquet")
    with pytest.raises(InvalidOption, match="something else than classes"):
        images(tmp_path, split="test", cache=tmp_path / "cache")


def test_a_damaged_parquet_file_is_named(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(InvalidOption, match=r"train\.parquet cannot be read as Parquet"):
        images(tmp_path, cache=tmp_path / "cache")


def test_a_damaged_picture_is_named_when_it_is_looked_at(tmp_path):
    folder = write_classes(tmp_path / "train")
    (folder / "class-2" / "2.png").write_bytes(b"\x89PNG cut short")
    data = images(tmp_path)
    assert data[1][1] == 1
    with pytest.raises(InvalidOption, match=r"record 2 of .* is no picture"):
        data[2]
    (folder / "class-2" / "2.png").unlink()
    with pytest.raises(InvalidOption, match=r"record 2 of .* is no picture"):
        data[2]


def test_what_the_hub_does_not_give_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(hugging.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InvalidOption, match="nobody/nothing:small is neither a folder") as caught:
        images("nobody/nothing:small", cache=tmp_path)
    assert "hf download --repo-type dataset nobody/nothing --local-dir" in caught.value.hint
    with pytest.raises(InvalidOption, match="there is no folder"):
        images(tmp_path / "nowhere")
    with pytest.raises(InvalidOption, match=r"source is \[1, 2\]") as caught:
        images([1, 2])
    assert "one split of a Hugging Face dataset" in caught.value.hint


@pytest.mark.parametrize("missing", ["datasets", "PIL.Image"])
def test_what_pictures_take_is_named(read, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ExtraMissing, match=missing) as caught:
        read()
    assert "obliviate[datasets]" in caught.value.hint


# Decoded once


def test_decoded_images_are_the_same_ones(read, tmp_path):
    plain, decoded = read(size=16), read(size=16, decoded=tmp_path / "decoded")
    assert all(torch.equal(plain[at][0], decoded[at][0]) for at in range(30))
    (file,) = (tmp_path / "decoded").iterdir()
    assert np.load(file, mmap_mode="r").shape == (30, 16, 16, 3)


def test_decoded_images_are_read_again_and_others_are_not_taken_for_them(tmp_path):
    folder, decoded = write_classes(tmp_path / "train"), tmp_path / "decoded"
    images(folder, decoded=decoded)
    (file,) = decoded.iterdir()
    stored = np.lib.format.open_memmap(file, "r+")
    stored[0] = 255
    stored.flush()
    assert float(images(folder, decoded=decoded)[0][0].min()) == 1  # what is there is read
    Image.new("L", (8, 8)).save(folder / "class-0" / "0.png")
    assert float(images(folder, decoded=decoded)[0][0].max()) == 0
    assert len(list(decoded.iterdir())) == 2


def test_images_of_several_sizes_are_not_decoded_into_one_file(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "train", count=1, side=9)
    with pytest.raises(InvalidOption, match=r"record 1 of .* has \(8, 8\) pixels, the first"):
        images(tmp_path, decoded=tmp_path / "decoded")
    assert not list((tmp_path / "decoded").iterdir())
    assert len(images(tmp_path, size=8, decoded=tmp_path / "decoded")) == 6


# Trained on


def test_shifted_images_keep_their_size_and_are_drawn_from_the_global_generator():
    image = torch.arange(3 * 8 * 8.0).reshape(3, 8, 8) + 1
    torch.manual_seed(1)
    first, second = shifted(image), shifted(image)
    torch.manual_seed(1)
    assert torch.equal(shifted(image), first)
    assert first.shape == image.shape
    assert not torch.equal(first, second)
    assert set(first.flatten().tolist()) <= {0.0, *image.flatten().tolist()}


def net() -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(3 * 64, 10))


def test_training_on_moved_images_forgets_exactly(read, tmp_path):
    recipe = ob.Recipe(
        model=net,
        optimizer=partial(torch.optim.SGD, lr=0.1),
        loss=nn.functional.cross_entropy,
        batch_size=5,
    )
    data = read(transform=shifted, most=15, decoded=tmp_path / "decoded")
    run = ob.fit(recipe, data, tmp_path / "run", blocks=2)
    others = read(transform=shifted, most=15)
    never = ob.fit(recipe, others, tmp_path / "never", blocks=2, exclude=[7])
    erasure = run.forget(records=[7], method="exact")
    assert erasure.digest == never.digest
    assert erasure.guarantee == "exact"
