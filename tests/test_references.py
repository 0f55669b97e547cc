"""References: records that are never trained on, and are seen not to be the run's own."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

import obliviate as ob
from obliviate import errors
from obliviate.lab.experiment import question_of
from obliviate.lab.trials import Trial, Workplace
from obliviate.recipe.contents import NOTHING
from obliviate.run.fingerprint import sampled
from obliviate.run.references import check_references
from obliviate.training.determinism import environment_facts
from obliviate.training.references import Apart, References
from tests.models import BLOCKS, RECORDS, Guarded, images, recipe
from tests.project_file import write_project
from tests.test_cli import ask, call

EPOCHS = {"epochs": 2, "repeats": 1}
KEY = bytes(range(32))


class Listed(Dataset):
    """The same records, one by one."""

    def __init__(self, data):
        self.data, self.broken = data, None

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        if index == self.broken:
            raise ValueError("a torn page")
        return self.data[index]


def others(records=24, seed=9):
    return images(records, seed)


def fitted(folder, data=None, *, reference=None, **options):
    made = recipe(**(EPOCHS | options))
    return ob.fit(made, data or images(), folder, blocks=BLOCKS, reference=reference)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run that was made with references; copied before it is changed."""
    folder = tmp_path_factory.mktemp("made") / "run"
    fitted(folder, reference=others()).close()
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def loaded(folder, data=None, **options):
    return ob.load(folder, recipe(**EPOCHS), data or images(), **options)


# Reading them


@pytest.mark.parametrize("kind", [lambda data: data, Listed], ids=["tensors", "one by one"])
@pytest.mark.parametrize("of_data", [lambda data: data, Listed], ids=["tensors", "one by one"])
def test_equal_content_has_the_hash_that_training_gave_it(tmp_path, kind, of_data):
    run = fitted(tmp_path, of_data(images()))
    facts = run.facts
    references = References(
        run.recipe, Apart(kind(images())), run.trainer.environment, facts.content_key
    )
    ids = np.array([70, 3, 41, 5, 8, 0], dtype=np.int64)
    found = np.zeros(RECORDS, dtype=np.uint32)
    for block in range(BLOCKS + 1, 2 * BLOCKS + 1):
        found[run.trainer.layout.members(block)] = run.chain().contents(block)
    assert found.all()
    assert (references.hashes(ids) == found[ids]).all()
    assert (references.all_hashes == found).all()
    assert len(references) == RECORDS
    assert references.hashes(ids[:0]).dtype == NOTHING.dtype


def test_a_batch_is_read_as_the_runs_are(made):
    with loaded(made, reference=Listed(images())) as run:
        ids = np.array([4, 2], dtype=np.int64)
        own, theirs = run.trainer.reader.batch(ids), run.writer.references.batch(ids)
        assert all(torch.equal(a, b) for a, b in zip(own, theirs, strict=True))


def test_what_raises_is_named(made):
    reference = Listed(others())
    reference.broken = 3
    with loaded(made, reference=reference) as run:
        for ids in ([3], [1, 2, 3]):
            with pytest.raises(errors.TrainingFailed, match=r"the reference dataset raised.*torn"):
                run.writer.references.batch(np.array(ids))
        with pytest.raises(errors.TrainingFailed, match=r"the reference dataset raised.*torn"):
            run.forget(records=[1])
        assert not run.status().erased


# What the run remembers


def test_a_run_remembers_how_many_there_were(made, tmp_path):
    with loaded(made) as run:
        assert run.facts.references == 24
        assert run.writer.references is None
    with loaded(made, reference=others(30, 8)) as run:
        assert run.facts.references == 24
        assert len(run.writer.references) == 30
    with fitted(tmp_path / "none") as run:
        assert run.facts.references == 0
    with fitted(tmp_path / "none", reference=others()) as run:
        assert run.facts.references == 0
        assert len(run.writer.references) == 24


def test_they_change_nothing_in_training(made, tmp_path):
    with loaded(made) as one, fitted(tmp_path / "without") as other:
        assert one.digest == other.digest


def test_the_method_is_chosen_by_the_run(folder, tmp_path):
    with loaded(folder, reference=others()) as run:
        assert run.preview(records=[1]).method == "calibrated"
        assert run.preview(records=[1], method="exact").method == "exact"
        assert run.request(records=[2]).method["name"] == "calibrated"
        number = run.forget(records=[1]).number
        assert run.ledger.erasures.all()[number - 1].method["name"] == "calibrated"
    with fitted(tmp_path / "without", reference=None) as run:
        assert run.preview(records=[1]).method == "deepobliviate"
        assert run.request(records=[2]).method["name"] == "deepobliviate"
        number = run.forget(records=[1]).number
        assert run.ledger.erasures.all()[number - 1].method["name"] == "deepobliviate"


def test_a_run_that_was_made_with_them_asks_for_them(folder):
    with loaded(folder) as run:
        digest = run.digest
        for method in (None, "calibrated"):
            with pytest.raises(errors.InvalidOption, match="24 references, and none") as caught:
                run.forget(records=[1], method=method)
            assert "reference=" in caught.value.hint
            assert "deepobliviate" in caught.value.hint
        assert run.digest == digest
        assert not run.ledger.erasures.all()
        assert run.forget(records=[1], method="deepobliviate").records == 1
        assert run.forget(records=[2], method="exact").guarantee == "exact"


def test_work_says_so_and_goes_on(tmp_path):
    made = recipe(epochs=3, repeats=1)
    ob.fit(made, images(), tmp_path, blocks=24, reference=others()).close()
    with ob.load(tmp_path, made, images()) as run:
        run.request(records=[2])
        run.request(records=[3], method=ob.DeepObliviate(blocks=1))
        work = run.work()
        assert [erasure.method for erasure in work] == ["deepobliviate"]
        (failure,) = work.failed
        assert "none are given" in str(failure.error)
        assert [request.state for request in run.requests()] == ["requested", "destroyed"]


def test_one_pass_needs_none(tmp_path):
    fitted(tmp_path, reference=others(), epochs=1).close()
    with ob.load(tmp_path, recipe(**(EPOCHS | {"epochs": 1})), images()) as run:
        assert run.forget(records=[1]).records == 1


# What cannot be used


BAD = {
    "loader": (DataLoader, "a DataLoader"),
    "no index": (lambda data: {1: data[1]}, "a dict"),
    "number": (lambda _: 5, "without length or index"),
    "tensors": (lambda data: data.tensors, "a tuple of tensors"),
    "empty": (lambda _: TensorDataset(torch.zeros(0)), "holds 0 records.*20 or more"),
    "too few": (lambda _: others(19), "holds 19 records.*20 or more"),
    "the data": (lambda data: data, "the very data"),
    "too few people": (lambda _: (others(), ["a"] * 23), "of the reference, .*23.*24"),
    "no people": (lambda _: (others(), [3.5] * 24), "of the reference, subjects holds 3.5"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_reference_is_refused(made, tmp_path, name):
    of, message = BAD[name]
    data = images()
    with pytest.raises(errors.InvalidOption, match=message) as caught:
        fitted(tmp_path / "new", data, reference=of(data))
    assert caught.value.hint
    assert not (tmp_path / "new").exists()
    with pytest.raises(errors.InvalidOption, match=message):
        loaded(made, data, reference=of(data))


def test_people_of_references_widen_what_is_expected_of_one_person(tmp_path):
    inputs, targets = others(96).tensors
    whose = torch.arange(96) // 12
    easy = (0.1 + 0.6 * whose).float()  # records of one person are alike
    reference = TensorDataset(inputs * easy.reshape(-1, 1, 1, 1), targets)
    data, made = images(), recipe(**EPOCHS)
    subjects = ["she"] * 12 + [None] * (len(data) - 12)
    widths = []
    for given in (reference, (reference, whose.tolist())):
        with ob.fit(
            made, data, tmp_path / str(len(widths)), blocks=4, subjects=subjects, reference=given
        ) as run:
            ending = run.forget(subjects=["she"], method="calibrated:blocks=2").ending
            widths.append(ending.high - ending.low)
    assert widths[1] > 1.3 * widths[0]


UNLIKE = {
    "shapes": (lambda x, y: TensorDataset(x[:, :, :4], y), "scoring raised"),
    "labels": (lambda x, y: TensorDataset(x, y + 3), "scoring raised"),
    "uneven": (lambda x, y: [(x[at, :, : 4 + at % 2], y[at]) for at in range(24)], "collating"),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_what_cannot_be_scored_is_found_before_training(tmp_path, name):
    of, message = UNLIKE[name]
    with pytest.raises(errors.TrainingFailed, match=message) as caught:
        fitted(tmp_path / "new", reference=of(*others().tensors))
    assert caught.value.hint
    assert not (tmp_path / "new").exists()


def test_a_loss_without_a_form_for_single_records_is_found_before_training(tmp_path):
    def over_the_batch(outputs, targets):
        return torch.nn.functional.cross_entropy(outputs, targets) * (1 + outputs.var())

    with pytest.raises(errors.InvalidRecipe, match="no form for single records"):
        fitted(tmp_path / "new", reference=others(), loss=over_the_batch)
    assert not (tmp_path / "new").exists()
    fitted(tmp_path / "new", loss=over_the_batch).close()


# Records of the run


def own(*records, data=None):
    """References, behind which records of the run stand."""
    return ConcatDataset([others(), Subset(data or images(), records)])


def test_records_are_found_before_training(tmp_path):
    with pytest.raises(errors.InvalidOption, match="reference 24 is record 17 of the run") as one:
        fitted(tmp_path / "new", reference=own(17))
    assert "Subset" in one.value.hint
    with pytest.raises(errors.InvalidOption, match="; 2 others too"):
        fitted(tmp_path / "new", reference=own(17, 3, 50))
    assert not (tmp_path / "new").exists()


def test_a_single_record_is_found_when_training_is_done(tmp_path):
    data = images(600)
    nobody = np.array([], dtype=np.int64)
    known = sampled(600, recipe().seed, nobody, 256)
    record = int(np.setdiff1d(np.arange(600), known)[0])
    options = {"batch_size": 50}
    with pytest.raises(errors.InvalidOption, match=f"reference 24 is record {record} of the run"):
        fitted(tmp_path, data, reference=own(record, data=data), **options)
    with fitted(tmp_path, data, reference=others(), **options) as run:
        assert run.guarantee == "exact"


@pytest.mark.parametrize("kind", [lambda data: data, Listed], ids=["tensors", "one by one"])
def test_records_are_found_before_an_erasure(folder, kind):
    with loaded(folder, kind(images()), reference=own(5)) as run:
        for record in (1, 5):
            with pytest.raises(errors.InvalidOption, match="reference 24 is record 5 of the run"):
                run.forget(records=[record])
        assert not run.ledger.erasures.all()
        assert run.forget(records=[1], method="deepobliviate").records == 1


def test_erased_records_are_not_read(folder):
    data = Guarded(images())
    with loaded(folder, data, reference=others()) as run:
        run.forget(records=[5])
    data.forbidden.add(5)
    with loaded(folder, data, reference=own(5)) as run:
        check_references(run.writer)
        assert run.forget(records=[6]).records == 1


def test_records_that_are_gone_when_they_are_erased_are_not_compared(folder):
    data = Guarded(images())
    with loaded(folder, data, reference=own(5)) as run:
        data.forbidden.add(5)
        check_references(run.writer, np.array([5]))
        with pytest.raises(errors.TrainingFailed, match="record 5 was read"):
            check_references(run.writer)


def test_equal_hashes_alone_prove_nothing(folder):
    reference = Listed(own(5))
    with loaded(folder, reference=reference) as run:
        assert len(run.writer.references.all_hashes) == 25
        reference.data = others(25)  # the hash that is remembered is that of another record now
        check_references(run.writer)


def test_records_of_an_extension_are_found(folder):
    later = others(24, seed=4)
    with loaded(folder, reference=later) as run:
        with pytest.raises(errors.InvalidOption, match="the very data"):
            run.extend(later)
        run.extend(Listed(later), epochs=1)
        with pytest.raises(errors.InvalidOption, match=f"reference 0 is record {RECORDS} of"):
            check_references(run.writer)
        run.extend(others(24, seed=5), over="all")
        with pytest.raises(
            errors.InvalidOption, match=r"reference \d+ is record \d+ of.* 23 other"
        ):
            check_references(run.writer)


# Commands


@pytest.fixture
def project(tmp_path):
    path = write_project(tmp_path)
    text = path.read_text().replace(
        "    return ob.Project(\n", "    return ob.Project(\n        reference=Records(96, 5),\n"
    )
    text = text.replace("self, records)", "self, records, seed=7)").replace("seed(7)", "seed(seed)")
    path.write_text(text.replace("batch_size=4,", "batch_size=4,\n        epochs=2,"))
    return path


def test_the_command_line_brings_the_projects(project, tmp_path):
    folder = tmp_path / "run"
    call("fit", project, folder)
    assert ask("preview", folder, "--record", 3)["method"] == "calibrated"
    assert ask("request", folder, "--record", 4)["method"]["name"] == "calibrated"
    assert ask("forget", folder, "--record", 3)["method"] == "calibrated"
    assert ask("work", folder, "--all")["erasures"]
    assert "calibrated where" in " ".join(call("forget", "--help").stdout.split())
    project.write_text(project.read_text().replace("reference=Records(96, 5),", ""))
    assert "none are given" in call("forget", folder, "--record", 7, code=2).output


def test_an_answer_says_where_the_records_ended(project, tmp_path):
    call("fit", project, tmp_path / "run")
    options = ("--method", "calibrated:blocks=2")
    said = call("forget", tmp_path / "run", "--record", 3, "--record", 9, *options).stdout
    for row in ("target", "erased records", "with a wrong target", "references", "check"):
        assert re.search(rf"^{row}  ", said, re.MULTILINE)
    assert "read off 96 references" in " ".join(said.split())
    assert said.count("check  ") == 1
    ending = ask("forget", tmp_path / "run", "--record", 4, *options)["ending"]
    assert ending["low"] <= ending["target"] <= ending["high"]
    assert ending["references"] == 96


@pytest.fixture
def small(data, recipe_of):
    return ob.Project(
        recipe=recipe_of(epochs=2), data=data, reference=Listed(own_kind(data)), blocks=5
    )


def test_the_bench_takes_them(small, tmp_path):
    place = tmp_path / "bench"
    found = ob.bench(small, place, methods="calibrated", requests=[1], backdoor=False)
    assert found.of("calibrated").trouble == ""


def test_the_laboratory_takes_them(small, tmp_path):
    question = question_of(small, records=[3], subjects=(), methods=["calibrated"], seeds=3)
    trial = Trial.all_of(question)[0]
    workplace = Workplace(small, question, tmp_path, keeps=False, environment=environment_facts())
    workplace.carry_out(trial)
    assert trial.is_original
    assert not trial.missing(question, workplace.cells)


def test_what_they_are_is_part_of_what_the_laboratory_is_asked(small):
    def context(reference):
        project = replace(small, reference=reference)
        return question_of(project, records=[3], subjects=(), methods=(), seeds=3).context

    contexts = [context(None), context(small.reference), context(small.reference)]
    contexts.append(context(Listed(others())))
    assert contexts[1] == contexts[2]
    assert len(set(contexts)) == 3


def own_kind(data):
    """Records like some data, and none of them."""
    inputs, targets = data.tensors
    return TensorDataset(inputs + 0.5, targets)
