"""The laboratory: what does nothing looks bad, what is exact sits on the floor, nothing is lost."""

import csv
import json
import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from obliviate import errors
from obliviate.disk.lock import alone
from obliviate.lab import lab
from obliviate.lab.accuracy import accuracy
from obliviate.lab.experiment import question_of, recipe_of
from obliviate.lab.measurements import Cell, Cells
from obliviate.lab.scores import scores
from obliviate.lab.trials import lags_up_to
from obliviate.methods.registry import label_of, method_of
from obliviate.methods.scores import margins
from obliviate.training.batches import feed_of
from obliviate.training.layout import Layout
from tests.models import parts_of
from tests.processes import kill_midway

SEEDS, BLOCKS, SPOILT = 5, 6, 4


def learner():
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))


def tiny_project():
    """Ninety records of two noisy classes; some of the last block but one have the wrong one."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(90) % 2
    inputs = torch.randn(90, 8, generator=generator) + 0.7 * (2 * targets[:, None] - 1)
    recipe = ob.Recipe(
        model=learner,
        optimizer=partial(torch.optim.SGD, lr=0.2),
        loss=nn.functional.cross_entropy,
        batch_size=5,
        repeats=12,
        seed=3,
        deal="record",
    )
    layout = Layout(parts=parts_of(90, BLOCKS, seed=3), seed=3, batch_size=5, repeats=12)
    spoilt = layout.members(BLOCKS - 1)[2 * SPOILT : 3 * SPOILT]
    targets[spoilt] = 1 - targets[spoilt]
    subjects = np.full(90, "others", dtype=object)
    subjects[spoilt] = "spoilt"
    test = TensorDataset(inputs[:20], targets[:20])
    return ob.Project(
        recipe=recipe,
        data=TensorDataset(inputs, targets),
        test=test,
        subjects=subjects.tolist(),
        probes={"spoilt": TensorDataset(inputs[spoilt], targets[spoilt])},
        blocks=BLOCKS,
    )


def measure(folder, **changes):
    options = {"subjects": ["spoilt"], "methods": ["deepobliviate:blocks=1"], "seeds": SEEDS}
    options |= changes
    return lab(options.pop("project", None) or tiny_project(), folder, **options)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    return measure(folder), folder


def test_doing_nothing_looks_bad(found):
    nothing = found[0].of("nothing")
    assert nothing.shift > found[0].floor.shift.high
    assert nothing.bias > 1  # the records are still predicted as their wrong labels say
    assert nothing.agreeing < 0.5
    assert nothing.auc > found[0].floor.auc.high
    assert nothing.blocks_replayed == 0


def test_the_exact_replay_sits_on_the_floor(found):
    exact, floor = found[0].of("exact"), found[0].floor
    assert exact.shift <= floor.shift.high * 1.2  # one split more, not one of those it was made of
    assert exact.agreeing >= 0.8
    assert (exact.bias, exact.bias_error) == (0, 0)
    assert exact.blocks_replayed == 2


def test_a_probe_is_measured(found):
    accuracies = {row.method: row.accuracies["spoilt"] for row in found[0].findings}
    assert accuracies["nothing"] > accuracies["exact"]


def test_the_trace_is_followed_to_the_end(found):
    fade = found[0].fade
    assert fade.lags == (1, 2)
    assert fade.erased[0] > 1
    assert abs(fade.controls[0]) < fade.erased[0]
    assert fade.h is None  # two lags are no law


def test_what_was_found_is_left_in_the_folder(found):
    result, folder = found
    kept = json.loads((folder / "lab.json").read_text())
    assert kept["findings"][0]["shift"] == result.of("nothing").shift
    rows = list(csv.DictReader((folder / "lab.csv").read_text().splitlines()))
    names = ["nothing", "exact", "deepobliviate:blocks=1", "floor mean", "floor low", "floor high"]
    assert [row["method"] for row in rows] == names
    assert float(rows[1]["shift"]) == result.of("exact").shift
    for name in ("gap.png", "shift.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert not list((folder / "runs").iterdir())


def test_nothing_is_measured_twice(found):
    result, folder = found
    cells = sorted((path, path.stat().st_mtime_ns) for path in (folder / "cells").iterdir())
    assert measure(folder) == result
    assert cells == sorted((path, path.stat().st_mtime_ns) for path in (folder / "cells").iterdir())


def test_a_cell_that_is_lost_is_measured_again_with_the_same_outcome(found, tmp_path):
    result, folder = found
    lost = sorted((folder / "cells").iterdir())[0]
    before = json.loads(lost.read_text())
    lost.unlink()
    again = measure(folder)
    assert json.loads(lost.read_text())["scores"] == before["scores"]
    assert again.of("exact").shift == result.of("exact").shift


def test_exact_replays_are_retrains_of_their_seeds(found):
    """What makes the floor one: the exact replay of a seed is the training without the records."""
    project, cells = tiny_project(), Cells(found[1])
    question = asked(project)
    recipe = recipe_of(project.recipe, 0, is_original=True)
    told = cells.read(question.unlearned(0, ob.Exact())).facts["digest"]
    run = ob.fit(
        recipe, project.data, found[1] / "runs" / "again", blocks=BLOCKS, exclude=question.erased
    )
    assert run.digest == told


def test_a_fixed_stop_is_kept_by_every_method(found):
    methods = ["deepobliviate:blocks=1", "calibrated:blocks=1"]
    result = measure(found[1], methods=methods)
    assert [result.of(method).blocks_replayed for method in methods] == [1, 1]
    assert result.of("calibrated:blocks=1").passed is not None
    assert result.of("deepobliviate:blocks=1").passed is None


# Other processes


def sourced():
    return tiny_project()


@pytest.mark.slow
def test_several_workers_find_the_same(found, tmp_path):
    result = measure(tmp_path / "lab", project=sourced, workers=2)
    assert timeless(result) == timeless(found[0])


def timeless(result):
    findings = tuple(replace(row, seconds=0) for row in result.findings)
    return replace(result, findings=findings)


def unreachable():
    def source():
        return tiny_project()

    return source


@pytest.mark.parametrize("project", [tiny_project(), unreachable()])
def test_workers_need_a_project_they_can_make(project, tmp_path):
    with pytest.raises(errors.InvalidOption, match=r"project|handed"):
        measure(tmp_path / "lab", project=project, workers=2)
    assert not (tmp_path / "lab").exists()


def measure_in_a_group(folder, workers):
    """What the process that is to be killed does; its workers are of its process group."""
    os.setsid()
    measure(folder, project=sourced, workers=workers)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_call_goes_on(found, tmp_path, workers):
    folder = tmp_path / "lab"
    measured = kill_midway(partial(measure_in_a_group, workers=workers), folder, cells=3)
    assert len(measured) < SEEDS * 4
    assert timeless(measure(folder)) == timeless(found[0])


# What is asked


def asked(project, **changes):
    options = {"records": [], "subjects": ["spoilt"], "methods": [], "seeds": SEEDS}
    return question_of(project, **(options | changes))


def test_models_differ_in_all_but_the_blocks():
    recipe = tiny_project().recipe
    made = [
        recipe_of(recipe, number, is_original=flag) for number in (0, 1) for flag in (True, False)
    ]
    assert len({each.seed for each in made}) == 4
    assert {each.block_seed for each in made} == {3}
    further = recipe_of(replace(recipe, block_seed=9), 1, is_original=True)
    assert further.block_seed == 9


def test_an_answer_depends_on_all_that_matters():
    project = tiny_project()
    inputs, targets = project.data.tensors
    other = [
        replace(project, data=TensorDataset(inputs + 1e-3, targets)),
        replace(project, test=None),
        replace(project, probes=None),
        replace(project, blocks=5),
        replace(project, recipe=replace(project.recipe, repeats=11)),
        replace(project, recipe=replace(project.recipe, loss=doubled)),
        replace(project, recipe=replace(project.recipe, seed=4)),
    ]
    doubled.__qualname__ = nn.functional.cross_entropy.__qualname__  # seen by what it does
    contexts = {asked(each).context for each in [project, *other]}
    assert len(contexts) == len(other) + 1
    assert asked(project, records=[0]).context != asked(project).context
    assert asked(tiny_project(), methods=["deepobliviate"], seeds=9).context in contexts


def doubled(outputs, targets):
    return 2 * nn.functional.cross_entropy(outputs, targets)


def test_methods_have_names_that_can_be_typed():
    for text in ("exact", "deepobliviate", "deepobliviate:epsilon=0.5", "deepobliviate:blocks=2"):
        assert label_of(method_of(text)) == text
    assert method_of("deepobliviate:epsilon=0.02,blocks=3") == ob.DeepObliviate(blocks=3)
    methods = asked(tiny_project(), methods=["exact", "deepobliviate", ob.DeepObliviate()]).methods
    assert methods == (ob.Exact(), ob.DeepObliviate())


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"subjects": []}, errors.InvalidOption, "nobody"),
        ({"subjects": ["nemo"]}, errors.UnknownSubject, "nemo"),
        ({"records": [90]}, errors.UnknownRecord, "90"),
        ({"records": range(90)}, errors.NothingLeft, "all the records"),
        ({"methods": ["amnesia"]}, errors.UnknownMethod, "amnesia"),
        ({"methods": ["exact:blocks=2"]}, errors.InvalidOption, "blocks"),
        ({"methods": ["deepobliviate:epsilon=tiny"]}, errors.InvalidOption, "tiny"),
        ({"methods": ["deepobliviate:epsilon=-1"]}, errors.InvalidOption, "epsilon"),
        ({"methods": ["deepobliviate:blocks=0"]}, errors.InvalidOption, "blocks"),
        ({"methods": ["deepobliviate:blocks=1.5"]}, errors.InvalidOption, "blocks"),
        ({"methods": "exact"}, errors.InvalidOption, "list"),
        ({"seeds": 2}, errors.InvalidOption, "seeds"),
        ({"seeds": True}, errors.InvalidOption, "seeds"),
        ({"workers": 0}, errors.InvalidOption, "workers"),
        ({"project": replace(tiny_project(), blocks=91)}, errors.InvalidRecipe, "blocks"),
        ({"project": replace(tiny_project(), subjects=["a"])}, errors.InvalidRecipe, "subjects"),
        ({"project": 7}, errors.InvalidRecipe, "int"),
        ({"project": list}, errors.InvalidRecipe, "list"),
    ],
)
def test_a_wrong_question_writes_nothing(changes, error, said, tmp_path):
    with pytest.raises(error, match=said):
        measure(tmp_path / "lab", **changes)
    assert not (tmp_path / "lab").exists()


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(errors.InvalidOption, match="thesis"):
        measure(tmp_path)
    with pytest.raises(errors.InvalidOption, match="is a file"):
        measure(tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_calls_do_not_measure_into_one_folder(tmp_path):
    with alone(tmp_path / "lab"), pytest.raises(errors.RunLocked, match="another process"):
        measure(tmp_path / "lab")


def test_a_folder_that_cannot_be_written_to(guarded_folder):
    folder, guarded = guarded_folder
    with guarded(), pytest.raises(errors.StorageFull):
        measure(folder / "lab")
    with guarded(), pytest.raises(errors.StorageFull):
        Cells(folder).write("a", Cell(scores={}, accuracies={}))


def test_a_damaged_cell_is_named(found, tmp_path):
    cells = Cells(tmp_path)
    cells.write("a", Cell(scores={"erased": (1.5,)}, accuracies={"test": None}))
    assert cells.read("a").of("erased") == [1.5]
    (tmp_path / "cells" / "a.json").write_text("{")
    with pytest.raises(errors.RunDamaged, match=r"a\.json"):
        cells.read("a")


# Scores and lags


def test_a_margin_is_the_logit_of_the_confidence():
    outputs, targets = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])
    confidence = outputs.softmax(dim=1)[torch.arange(5), targets]
    assert torch.allclose(margins(outputs, targets), torch.log(confidence / (1 - confidence)))


def step(model, batch):
    inputs, targets = batch["x"], batch["y"]
    return nn.functional.mse_loss(model(inputs).squeeze(1), targets)


class Named(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, at):
        return {"x": torch.tensor([float(at)]), "y": torch.tensor(0.0)}


def test_what_is_no_classification_is_scored_by_its_loss(recipe_of):
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    records = np.array([0, 2, 3])
    by_step = recipe_of(loss=None, step=step)
    assert scores(model, by_step, feed_of(Named(), 0), records).tolist() == [0, -4, -9]
    data = TensorDataset(torch.arange(4.0)[:, None], torch.zeros(4, 1))
    by_loss = recipe_of(loss=nn.functional.mse_loss)
    assert scores(model, by_loss, feed_of(data, 0), records).tolist() == [0, -4, -9]


def test_a_target_that_is_no_class_has_no_margin_but_a_loss(recipe_of):
    data = TensorDataset(torch.randn(3, 4), torch.tensor([0, -100, 2]))
    model, loss = nn.Linear(4, 3).eval(), nn.functional.cross_entropy
    with torch.no_grad():
        losses = loss(model(data.tensors[0]), data.tensors[1], reduction="none")
    values = scores(model, recipe_of(loss=loss), feed_of(data, 0), np.arange(3))
    assert values[[0, 2]] == pytest.approx(-losses[[0, 2]].numpy())
    assert accuracy(model, data) is not None


def test_one_column_of_outputs_is_no_classification():
    data = TensorDataset(torch.randn(3, 4), torch.tensor([0, 1, 0]))
    assert accuracy(nn.Linear(4, 1).eval(), data) is None


def test_a_broken_model_looks_bad(recipe_of, data):
    model = nn.Linear(4, 3)
    nn.init.constant_(model.weight, float("nan"))
    assert (scores(model, recipe_of(), feed_of(data, 0), np.arange(3)) < -1e5).all()


def whole(outputs, targets):
    return nn.functional.mse_loss(outputs, targets, reduction="none")


def test_a_loss_that_is_no_scalar_is_named(recipe_of):
    data = TensorDataset(torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(errors.TrainingFailed, match="shape"):
        scores(nn.Linear(2, 2), recipe_of(loss=whole), feed_of(data, 0), np.arange(2))


def test_lags_are_dense_at_first_and_reach_the_end():
    assert lags_up_to(1) == [1]
    assert lags_up_to(5) == [1, 2, 3, 4, 5]
    lags = lags_up_to(400)
    assert lags[:9] == [1, 2, 3, 4, 5, 6, 7, 8, *lags[8:9]]
    assert (lags[-1], len(lags) < 30) == (400, True)


def test_a_project_without_tests_or_classes_is_measured(tmp_path):
    inputs = torch.linspace(-1, 1, 30)[:, None]
    recipe = ob.Recipe(
        model=partial(nn.Linear, 1, 1),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        loss=nn.functional.mse_loss,
        batch_size=5,
    )
    project = ob.Project(recipe=recipe, data=TensorDataset(inputs, inputs**2), blocks=5)
    found = lab(project, tmp_path, records=[4], methods=[], seeds=3)
    assert found.of("exact").accuracies == {}
    assert found.of("exact").klom_tested is None
