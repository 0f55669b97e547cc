"""Presets: each makes a project of files in the published format, or says how to get them."""

import re
import shutil
import sys

import pytest
import torch
from torch.utils.data import Subset

import obliviate as ob
from obliviate.datasets import images
from obliviate.errors import ExtraMissing, InvalidOption
from obliviate.lab.presets import PRESETS, preset
from obliviate.lab.presets.language import as_bytes, padded
from obliviate.models import IGNORED
from obliviate.recipe.project import load_project
from tests.idx_files import write_digits
from tests.parquet_files import write_pictures
from tests.published_files import write_binary, write_mnist, write_retail, write_tofu

WRITTEN = {
    "mnist": lambda root: write_mnist(root, train=400, test=20, people=80),
    "fashion_mnist": lambda root: write_digits(root, train=400, test=20),
    "cifar10": lambda root: write_pictures(root, train=200, test=10),
    "tiny_imagenet": lambda root: write_pictures(root, train=200, test=10),
    "svhn": lambda root: write_pictures(root / "cropped_digits", train=200, test=10),
    "imagenet": lambda root: write_pictures(root, train=200, test=10),
    "location": lambda root: write_binary(root / "bangkok", 300, columns=446, classes=30),
    "online_retail": lambda root: write_retail(root / "online_retail.csv", customers=300),
    "purchase": lambda root: write_binary(root / "dataset_purchase", 300),
    "tofu": lambda root: write_tofu(root / "full.json"),
}
BY_PEOPLE = {"mnist", "location", "online-retail", "purchase", "tofu"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a folder of data for each preset."""
    root = tmp_path_factory.mktemp("presets")
    for name, write in WRITTEN.items():
        write(root / name)
    return root


@pytest.fixture(autouse=True)
def caches(monkeypatch, tmp_path):
    """No data of the user's own is found, and nothing is left in a cache of hers."""
    monkeypatch.delenv("OBLIVIATE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_makes_a_project(name, root, monkeypatch):
    monkeypatch.setenv("OBLIVIATE_DATA", str(root))
    project = preset(name, width=8, epochs=2, blocks=3)
    assert (project.recipe.epochs, project.blocks) == (2, 3)
    assert (project.subjects is not None) == (name in BY_PEOPLE)
    reference = project.reference
    references, theirs = reference if isinstance(reference, tuple) else (reference, None)
    assert len(references) >= 20
    if project.subjects is not None:
        assert len(project.subjects) == len(project.data)
        assert not set(project.subjects) & set(theirs)
    collate = project.recipe.collate or torch.utils.data.default_collate
    batch = collate([project.data[at] for at in range(2)])
    model = project.recipe.model()
    outputs = model(batch["tokens"] if isinstance(batch, dict) else batch[0])
    assert len(outputs) == 2
    if project.test is not None:
        assert project.test[0][0].shape == project.data[0][0].shape


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "digits"])
def test_what_is_missing_says_how_to_get_it(name, tmp_path):
    place = tmp_path / "cache" / "obliviate" / name.replace("-", "_")
    with pytest.raises(InvalidOption, match="is not complete: there is no folder") as caught:
        preset(name)
    assert str(place) in caught.value.hint
    assert "curl -L" in caught.value.hint or "hf download" in caught.value.hint
    place.mkdir(parents=True)
    with pytest.raises(InvalidOption, match="is not complete") as caught:
        preset(name)
    assert str(place) in caught.value.hint


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "digits"])
def test_a_damaged_file_says_how_to_get_it_again(name, root, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(root / name.replace("-", "_"), folder)
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2 - 2])
        with pytest.raises(InvalidOption, match=re.escape(str(path))) as caught:
            preset(name, data=folder)
        assert re.search(rf"again with `.*(curl -L|hf download).* {folder}\b", caught.value.hint)
        assert "cropped_digits" not in caught.value.hint  # into which the command puts it itself
        path.write_bytes(whole)
    preset(name, data=folder)


def test_a_folder_of_the_presets_own_data_may_be_named(root, monkeypatch):
    given = preset("location", data=root / "location", records=200)
    monkeypatch.setenv("OBLIVIATE_DATA", str(root / "location"))
    assert len(preset("location", records="200").data) == len(given.data)


def test_a_missing_library_is_named(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ExtraMissing, match="datasets") as caught:
        preset("cifar10", data=root / "cifar10")
    assert "obliviate[datasets]" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("minst", {}, "there is no preset 'minst'"),
        ("digits", {"epoch": 3}, "has no option 'epoch'"),
        ("digits", {"epochs": "many"}, "epochs is 'many'"),
        ("digits", {"blocks": 0}, "blocks is 0"),
        ("digits", {"device": 3}, "device is 3"),
        ("digits", {"seed": -1}, "seed is -1"),
        ("digits", {"data": "/nowhere"}, "the preset digits reads no files"),
    ],
)
def test_what_is_wrong_is_named(name, options, words):
    with pytest.raises(InvalidOption, match=words) as caught:
        preset(name, **options)
    assert caught.value.hint


def test_images_are_moved_in_training_and_not_as_references(root):
    project = preset("cifar10", data=root / "cifar10")
    record = project.data.indices[0]
    plain = images(root / "cifar10")[record][0]
    assert not all(torch.equal(project.data[0][0], plain) for _ in range(5))
    apart = project.reference
    assert isinstance(apart, Subset)
    assert torch.equal(apart[0][0], images(root / "cifar10")[apart.indices[0]][0])
    assert not set(apart.indices) & set(project.data.indices)


def test_no_reference_is_a_record_that_is_trained_on(tmp_path):
    path = write_binary(tmp_path / "bangkok", 300, columns=446, classes=30)
    path.write_text(path.read_text() * 2)  # everybody twice
    with pytest.raises(InvalidOption, match="nobody"):
        preset("location", data=tmp_path, records=1)
    project = preset("location", data=tmp_path)
    trained = {tuple(each.tolist()) for each in project.data.tensors[0]}
    assert not trained & {tuple(each.tolist()) for each in project.reference[0].tensors[0]}


def test_texts_become_bytes_and_questions_are_not_predicted():
    short, long = (as_bytes({"question": "é?", "answer": text}) for text in ("No", "Yes, yes"))
    assert bytes(short["tokens"].tolist()) == "é?\nNo\0".encode()
    assert short["labels"].tolist() == [IGNORED] * 4 + [78, 111, 0]
    batch = padded([short, long])
    assert batch["tokens"].shape == batch["labels"].shape == (2, 13)
    assert batch["labels"][0, 7:].tolist() == [IGNORED] * 6


def test_a_preset_may_be_a_project_file(tmp_path):
    file = tmp_path / "digits.py"
    file.write_text(
        "from functools import partial\n\nfrom obliviate.lab.presets import preset\n\n"
        'project = partial(preset, "digits")\n'
    )
    project = load_project(file, {"epochs": "1", "blocks": "4", "records": "400"})
    run = ob.fit(project.recipe, project.data, tmp_path / "run", blocks=4)
    assert run.facts.blocks == 4
