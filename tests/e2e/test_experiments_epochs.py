"""The experiments on chains of epochs: who is forgotten, where she is, and who is held out."""

import json
import lzma
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from tests.idx_files import write_digits
from tests.parquet_files import write_pictures

import obliviate as ob
from obliviate.lab import lab
from obliviate.lab.experiment import question_of
from obliviate.recipe.project import ProjectFile

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
PROJECTS = ["writers", "fashion", "cifar", "retail", "shakespeare", "rotations"]
POOL, RECORDS, EPOCHS, BLOCKS, HELD = 600, 240, 2, 6, 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All kinds of data in one folder."""
    folder = write_digits(tmp_path_factory.mktemp("data") / "all", train=POOL, test=30)
    write_pictures(folder / "pictures", train=POOL, test=0)
    people, chance = np.arange(POOL) // 40, np.random.default_rng(0)
    np.savez(folder / "writers.npz", train=people)
    bought = np.tile(load_digits().images[:POOL].reshape(POOL, 64) > 8, 10)[:, :600]
    np.savez(folder / "baskets.npz", baskets=np.packbits(bought, axis=1), customer=people)
    letters = np.array(list("abcdefgh "))
    with lzma.open(folder / "speeches.jsonl.xz", "wt") as lines:
        for person in range(15):
            text = "".join(chance.choice(letters, 25 * 40))
            lines.write(json.dumps({"speaker": f"S{person}", "text": text}) + "\n")
    return folder


@pytest.fixture(autouse=True)
def _neighbours(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    before = set(sys.modules)
    import people

    monkeypatch.setattr(people, "REFERENCES", HELD)
    monkeypatch.setattr(people, "TESTED", HELD)
    yield
    for name in set(sys.modules) - before:  # short names that other projects may have too
        if (EXPERIMENTS / f"{name}.py").exists():
            del sys.modules[name]


def project_of(name, folder, **options):
    numbers = {"records": RECORDS, "epochs": EPOCHS, "blocks": BLOCKS, "keep": 1}
    given = {"data": folder / "pictures" if name == "cifar" else folder, **numbers, **options}
    options = {key: str(value) for key, value in given.items()}
    return ProjectFile(file=EXPERIMENTS / f"{name}.py", options=options)()


def erased_of(project):
    return np.flatnonzero(np.array(project.subjects) == "erased")


def rows(data):
    return {b"".join(each.numpy().tobytes() for each in record) for record in data}


def affected(project):
    return question_of(project, records=[], subjects=["erased"], methods=[], seeds=3).affected


@pytest.mark.parametrize("name", PROJECTS)
@pytest.mark.parametrize(("place", "block"), [("early", 1), ("middle", 3), ("late", 5)])
def test_she_is_where_she_should_be_in_the_last_epoch(name, place, block, folder):
    project = project_of(name, folder, place=place)
    positions = affected(project)
    assert len(positions) == EPOCHS
    assert positions[-1] == BLOCKS * (EPOCHS - 1) + block


@pytest.mark.parametrize("name", PROJECTS)
def test_those_held_out_are_never_trained_on(name, folder):
    project = project_of(name, folder, kind="subject")
    known, tested = rows(project.data), rows(project.test)
    assert len(known) == len(project.data)
    assert len(tested) > HELD / 2
    assert not known & tested
    assert abs(len(known) - RECORDS) <= 40
    assert len(erased_of(project)) == 30


@pytest.mark.parametrize("name", PROJECTS)
def test_references_are_neither_trained_on_nor_tested_on(name, folder):
    project = project_of(name, folder)
    data, whose = project.reference
    reference = rows(data)
    assert len(reference) > HELD / 2
    assert len(whose) == len(data)
    assert not set(whose) & {name.removeprefix("person-") for name in project.subjects}
    assert not reference & (rows(project.data) | rows(project.test))


@pytest.mark.parametrize("name", PROJECTS)
def test_mislabelled_records_are_wrong_and_no_others_are(name, folder, monkeypatch):
    wrong = project_of(name, folder)
    records = erased_of(wrong)
    assert len(records) == 20
    import people

    monkeypatch.setitem(people.SIZES, "subject", 20)  # the same people, whose records are right
    right = project_of(name, folder, kind="subject")
    assert (erased_of(right) == records).all()
    apart = [
        (one != other).reshape(len(one), -1).any(dim=1)
        for one, other in zip(wrong.data.tensors, right.data.tensors, strict=True)
    ]
    changed = torch.stack(apart).any(dim=0).nonzero().flatten()
    assert changed.tolist() == records.tolist()


@pytest.mark.parametrize("name", ["fashion", "cifar"])
def test_a_backdoor_is_planted_and_probed(name, folder):
    project = project_of(name, folder, kind="backdoor")
    records = erased_of(project)
    inputs, targets = project.data.tensors
    assert len(records) == 40
    assert set(targets[records].tolist()) == {0}
    assert (inputs[records][..., 4:8, 4:8] == inputs.max()).all()
    targets = project.probes["backdoor"].tensors[1]
    assert len(targets) == int((project.test.tensors[1] != 0).sum())


def test_methods_are_tuned_on_others(folder):
    import grid

    assert [each.name for each in grid.tuning()] == [each.name for each in grid.chains_of_epochs()]
    ours, theirs = (project_of("writers", folder, seed=seed) for seed in (7, grid.TUNING_SEED))
    assert ours.recipe.seed != theirs.recipe.seed
    assert affected(ours) != affected(theirs)
    assert not rows(torch_rows(ours)) & rows(torch_rows(theirs))


def torch_rows(project):
    records = erased_of(project)
    inputs = project.data.tensors[0]
    return [(inputs[record],) for record in records]


@pytest.mark.e2e
def test_the_person_can_be_forgotten(folder, tmp_path):
    project = project_of("shakespeare", folder)
    found = lab(project, tmp_path, subjects=["erased"], methods=["calibrated"], seeds=3)
    assert found.records == 20
    assert found.blocks == EPOCHS * BLOCKS
    assert found.of("calibrated").blocks_replayed <= found.of("exact").blocks_replayed


def test_another_kind_is_refused(folder):
    with pytest.raises(ob.ObliviateError, match="kind is 'love'"):
        project_of("writers", folder, kind="love")
