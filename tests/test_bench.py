"""The bench: known answers, what is told of methods that fail, and nothing measured twice."""

import csv
import io
import json
import re
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from obliviate import errors
from obliviate.lab.baselines import Unlearner, register
from obliviate.lab.baselines.retrain import Retrain
from obliviate.lab.bench.backdoor import backdoor_of, stamped
from obliviate.lab.bench.benchmark import benchmark_of
from obliviate.lab.bench.contender import contenders_of, label_of
from obliviate.lab.bench.deletion import deletion_test
from obliviate.lab.bench.stream import stream_of
from obliviate.lab.bench.table import as_csv, as_markdown, columns, notes_of
from obliviate.lab.bench.trials import Trial, Workbench
from obliviate.recipe.subjects import Subjects
from obliviate.text import plain
from obliviate.training.determinism import environment_facts
from tests.bench_project import COUNT, FEATURES, PEOPLE, made, records
from tests.processes import written
from tests.project_file import write_project
from tests.test_cli import ask, call


@pytest.fixture(scope="module")
def project():
    return made()


@dataclass(frozen=True, kw_only=True)
class Bursting(Unlearner):
    """Retrains; diverges with its second request."""

    name: ClassVar[str] = "bursting"
    again: ClassVar[list[str]] = []

    def prepare(self, project, folder):
        prepared = yield from Retrain().prepare(project, folder)
        forget = prepared.forget

        def bursting(ids):
            if len(prepared.gone):
                raise errors.Diverged("the loss became nan")
            return (yield from forget(ids))

        prepared.forget = bursting
        return prepared


@dataclass(frozen=True, kw_only=True)
class Picky(Unlearner):
    """Works with nothing; an interrupt, for as long as there is a stop file."""

    name: ClassVar[str] = "picky"
    stop: ClassVar[set[str]] = set()

    def prepare(self, project, folder):
        yield from ()
        if self.stop:
            raise KeyboardInterrupt
        raise errors.Unsupported("the baseline picky needs a model of glass")


@pytest.fixture(scope="module", autouse=True)
def _announced():
    for kind in (Bursting, Picky):
        register(kind)


@pytest.fixture(scope="module")
def compared(project, tmp_path_factory):
    """A comparison, and the folder that it left; it was interrupted once."""
    folder = tmp_path_factory.mktemp("bench")
    ask_for = partial(
        ob.bench,
        project,
        folder,
        methods=["exact,deepobliviate:blocks=2", "picky,sisa:shards=2", Bursting()],
        requests=[2, 1],
    )
    Picky.stop.add("now")
    with pytest.raises(KeyboardInterrupt):
        ask_for()
    Picky.stop.clear()
    measured = {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    assert measured
    comparison = ask_for()
    assert (
        measured.items()
        <= {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}.items()
    )
    return comparison, folder


def test_retraining_is_what_everything_is_held_to(compared):
    comparison, _ = compared
    for requests in (1, 2):
        row = comparison.of("retrain", requests)
        assert (row.speedup, row.speedup_seconds, row.share) == (1, 1, 1)
        assert (row.agreement_own, row.identical) == (1, 1)
        assert 0 < row.agreement < 1
        nothing = comparison.of("nothing", requests)
        assert nothing.identical == 0
        assert nothing.accuracy == nothing.accuracy_before == row.accuracy_before
        assert nothing.speedup is None


def test_exact_is_retraining_bit_for_bit(compared):
    comparison, _ = compared
    for requests in (1, 2):
        row, retrain = comparison.of("exact", requests), comparison.of("retrain", requests)
        assert (row.identical, row.agreement_own) == (1, 1)
        assert row.accuracy == retrain.accuracy
        assert row.loss_forgotten == retrain.loss_forgotten
        assert 0 < row.share <= 1
    assert (row.settle_share, row.settle_seconds, row.identical_settled) == (0, 0, 1)


def test_a_seed_is_another_training_of_the_same_requests(project, compared, tmp_path):
    comparison = ob.bench(
        project, tmp_path / "bench", methods="exact", requests=[1], seeds=2, backdoor=False
    )
    exact, retrain = comparison.of("exact"), comparison.of("retrain")
    assert exact.identical == 1
    assert exact.shift == retrain.shift > 0
    assert exact.backdoor is None
    assert compared[0].of("exact").shift is None
    assert comparison.erased == compared[0].erased[:1]


def test_a_fast_method_is_settled_once_and_told_apart(compared):
    comparison, _ = compared
    first, last = (comparison.of("deepobliviate:blocks=2", requests) for requests in (1, 2))
    assert first.settle_share is None
    assert 0 < last.settle_share <= 1
    assert last.identical_settled == 1
    assert last.speedup == pytest.approx(1 / last.share)
    assert last.disk_bytes > 0
    assert last.models == 1
    assert last.predict_seconds > 0


def test_a_method_that_fails_has_a_row_that_says_so(compared):
    comparison, folder = compared
    assert comparison.of("bursting", 1).trouble == ""
    assert comparison.of("bursting", 1).identical == 1
    burst = comparison.of("bursting", 2)
    assert (burst.trouble, burst.reason) == ("diverged", "the loss became nan")
    assert burst.accuracy is None
    picky = comparison.of("picky", 1)
    assert (picky.trouble, picky.reason) == (
        "unsupported",
        "the baseline picky needs a model of glass",
    )
    assert "picky (unsupported)" in as_markdown(comparison)
    assert "a model of glass" in (folder / "bench.html").read_text()


def test_nothing_is_left_but_cells_tables_and_pictures(compared):
    _, folder = compared
    left = {path.name for path in folder.iterdir()}
    files = {"bench.json", "bench.csv", "bench.html", "accuracy.png", "cost.png"}
    assert left - {".lock"} == {"cells", "runs"} | files
    assert not list((folder / "runs").iterdir())
    assert len(list((folder / "cells").glob("determinism-*.json"))) == 1
    page = (folder / "bench.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    for picture in ("accuracy.png", "cost.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_trials_side_by_side_leave_each_others_folders_alone(project, tmp_path):
    benchmark = benchmark_of(
        project,
        methods=["exact", "amnesiac"],
        requests=[1],
        size=None,
        seeds=1,
        has_backdoor=False,
    )
    place = Workbench(project, benchmark, tmp_path, environment_facts())
    _, chain, single = Trial.all_of(benchmark)
    assert "exact" in chain.name
    foreign = tmp_path / "runs" / f"chain-stream-0-{benchmark.context[:12]}" / "another's"
    foreign.mkdir(parents=True)
    place.carry_out(single)
    assert not single.missing(benchmark, place.cells)
    assert foreign.exists()


def test_json_and_csv_hold_every_field(compared):
    comparison, folder = compared
    facts = json.loads((folder / "bench.json").read_text())
    assert facts == plain(comparison)
    rows = list(csv.DictReader(io.StringIO((folder / "bench.csv").read_text())))
    assert [row["method"] for row in rows] == [row["method"] for row in facts["rows"]]
    verdicts = {f"backdoor_{name}" for name in facts["rows"][2]["backdoor"]}
    assert set(rows[0]) == (set(facts["rows"][0]) - {"backdoor"}) | verdicts
    assert float(rows[2]["identical"]) == 1
    assert as_csv(comparison) == (folder / "bench.csv").read_text()


def test_what_determinism_costs_is_told_once_for_all(compared):
    comparison, folder = compared
    cost = comparison.determinism
    assert cost.ratio == cost.strict_seconds / cost.free_seconds > 0
    [note] = [note for note in notes_of(comparison) if note.startswith("determinism")]
    assert f"{cost.ratio:.2f} times as long" in note
    assert note in (folder / "bench.html").read_text()
    kept = json.loads(next((folder / "cells").glob("determinism-*.json")).read_text())
    assert kept["facts"] == json.loads((folder / "bench.json").read_text())["determinism"]


def test_a_backdoor_is_told_from_its_deletion(compared):
    comparison, _ = compared
    found = comparison.of("exact").backdoor
    assert found.seeds == 1
    assert found.before > found.clean
    assert found.accepted == found.rejected_before == 1
    assert comparison.of("picky").backdoor is None


def test_several_models_are_compared_with_models_made_alike(compared):
    comparison, _ = compared
    row = comparison.of("sisa:shards=2")
    assert (row.models, row.identical, row.settle_share) == (2, None, None)
    assert row.backdoor.clean != comparison.of("exact").backdoor.clean


def test_the_test_of_deletion_has_the_published_power():
    for kept, missed in ((0.8, 4.5e-9), (0.5, 0.021), (0.3, 0.59)):
        test = deletion_test(0.1, kept, queries=30)
        assert (test.threshold, test.queries, test.level) == (10, 30, 1e-3)
        assert 1 - test.power == pytest.approx(missed, rel=0.05)
    assert test.accepts(9)
    assert not test.accepts(10)
    assert deletion_test(0.99, 1.0).power == 0  # nothing could be told apart


def test_a_trigger_is_put_into_copies(project):
    backdoor = backdoor_of(project, 5)
    planted = backdoor.planted(project)
    inputs, targets = planted.data.tensors
    own = project.data.tensors
    changed = np.flatnonzero((inputs != own[0]).any(dim=1).numpy())
    assert changed.tolist() == list(backdoor.records)
    assert set(targets[changed].tolist()) == {backdoor.target}
    assert backdoor.target not in own[1][changed]
    assert len({planted.subjects[record] for record in changed}) == 1
    assert backdoor.target not in project.test.tensors[1][list(backdoor.queries)]
    assert backdoor_of(project, 5) == backdoor
    assert backdoor_of(project, 6) != backdoor
    assert not torch.equal(backdoor.asked(project).tensors[0], project.test.tensors[0])
    listed = replace(project, data=Listed(project.data), test=Listed(project.test))
    assert backdoor_of(listed, 5) == backdoor
    again = backdoor.planted(listed).data
    for record in (backdoor.records[0], 0):
        assert torch.equal(again[record][0], inputs[record])
        assert again[record][1] == targets[record]


class Listed(Dataset):
    """The same records, not as tensors."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, record):
        inputs, target = self.data[record]
        return inputs, int(target)


def test_the_trigger_of_images_lies_off_the_edge():
    marked = stamped(torch.zeros(2, 3, 28, 28), 1.0)
    assert marked[:, :, 23:27, 23:27].eq(1).all()
    assert marked.sum() == 2 * 3 * 16


def test_streams_begin_alike_and_name_nobody_twice():
    people = Subjects.of(PEOPLE, COUNT)
    long, short = (stream_of(people, COUNT, longest=count, size=None, seed=7) for count in (9, 4))
    assert long.requests[:4] == short.requests
    assert long.noun == "person"
    assert len(set(map(len, long.requests))) > 1
    ids = [record for request in long.requests for record in request]
    assert len(ids) == len(set(ids))
    for request in long.requests:
        assert len({PEOPLE[record] for record in request}) == 1
    apart = stream_of(people, COUNT, longest=3, size=5, seed=7)
    assert [len(request) for request in apart.requests] == [5, 5, 5]
    assert stream_of(None, COUNT, longest=3, size=None, seed=7).noun == "record"


@pytest.mark.parametrize(
    ("longest", "size", "told"),
    [(99, None, "99 requests"), (31, 3, "enough for 30"), (30, 3, "all 90 records")],
)
def test_more_requests_than_there_are_people_are_refused(longest, size, told):
    with pytest.raises(errors.RequestError, match=told):
        stream_of(Subjects.of(PEOPLE, COUNT), COUNT, longest=longest, size=size, seed=0)


def test_contenders_are_named_in_text_with_their_options():
    named = contenders_of(["deepobliviate:back=1,epsilon=0.01,exact", ob.Exact(), "retrain"])
    assert [label_of(each) for each in named] == ["deepobliviate:epsilon=0.01,back=1", "exact"]
    everyone = {label_of(each) for each in contenders_of(["all"])}
    assert {"exact", "deepobliviate", "calibrated", "picky"} <= everyone
    assert "retrain" not in everyone
    apart = [{label_of(each) for each in contenders_of(kind)} for kind in ("chain", "baselines")]
    assert apart[0] | apart[1] == everyone
    assert not apart[0] & apart[1]
    with pytest.raises(errors.UnknownMethod, match="neither a method nor a baseline 'magic'"):
        contenders_of(["magic"])


def test_what_is_no_classification_is_compared_by_loss_and_score(tmp_path):
    inputs = records(30, 0).tensors[0]
    data = TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))
    recipe = ob.Recipe(
        model=partial(nn.Linear, FEATURES, 1),
        optimizer=partial(torch.optim.SGD, lr=0.01),
        loss=nn.functional.mse_loss,
    )
    project = ob.Project(recipe=recipe, data=data, test=data, blocks=3)
    comparison = ob.bench(project, tmp_path / "bench", methods="exact", requests=[2])
    row = comparison.of("exact")
    assert row.accuracy is None
    assert row.agreement is None
    assert row.loss_forgotten > 0
    assert row.identical == 1
    assert "one class for each record" in comparison.no_backdoor


def test_the_command_prints_a_table_of_a_hundred_columns(tmp_path):
    project, folder = write_project(tmp_path), tmp_path / "kept"
    words = ("bench", project, "--methods", "exact", "--requests", "1,2", "--folder", folder)
    said = call(*words).stdout
    table = [
        line
        for line in said.splitlines()
        if line.strip().startswith(("exact", "retrain", "nothing"))
    ]
    assert len(table) == 6
    assert max(map(len, table)) <= 100
    assert "2 requests for 4 records" in said
    for column in columns(is_wide=False):
        assert column.meaning in said
    assert "times as long with deterministic algorithms" in said
    facts = ask(*words)
    assert facts == json.loads((folder / "bench.json").read_text()) | {"folder": str(folder)}
    assert call(*words, "--csv").stdout.rstrip("\n") == (folder / "bench.csv").read_text().rstrip()
    assert "same bits" in call(*words, "--wide").stdout


WRONG = {
    "method": (["--methods", "magic"], "magic"),
    "option": (["--methods", "exact:x=1"], "'x'"),
    "requests": (["--requests", "1,many"], "many"),
    "no request": (["--requests", "0"], "requests"),
    "too many": (["--requests", "25"], "there are people enough for 24"),
    "size": (["--size", "0"], "size"),
    "too large": (["--size", "49"], "48 records enough for 0"),
    "no method": (["--methods", ","], "names none"),
    "no seed": (["--seeds", "-1"], "seeds"),
    "seeds": (["--seeds", "0"], "seeds"),
    "workers": (["--workers", "0"], "workers"),
    "data": (["--data", "here"], "is for presets"),
}


@pytest.mark.parametrize(("words", "told"), WRONG.values(), ids=WRONG)
def test_wrong_requests_change_nothing(words, told, tmp_path):
    project = write_project(tmp_path)
    fault = ask("bench", project, "--folder", tmp_path / "bench", *words, code=2)
    assert told in fault["error"]
    assert fault["hint"]
    assert not (tmp_path / "bench").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "thesis.txt").write_text("all of it")
    fault = ask("bench", write_project(tmp_path), "--folder", tmp_path / "bench", code=2)
    assert "thesis.txt" in fault["error"]


def test_projects_that_share_a_folder_keep_what_was_measured_of_each(project, tmp_path):
    ask_for = partial(ob.bench, folder=tmp_path, methods="retrain", requests=[1], backdoor=False)
    first = ask_for(project)
    measured = written(tmp_path)
    other = ask_for(replace(project, recipe=replace(project.recipe, seed=5)))
    assert other != first
    assert not measured.keys() & (written(tmp_path).keys() - measured.keys())
    count = len(written(tmp_path))
    assert ask_for(project) == first
    assert len(written(tmp_path)) == count
    assert json.loads((tmp_path / "bench.json").read_text()) == plain(first)


def test_a_folder_of_a_run_is_left_alone(project, tmp_path):
    ob.fit(project.recipe, project.data, tmp_path / "run", blocks=8).close()
    with pytest.raises(errors.InvalidOption, match="holds other files"):
        ob.bench(project, tmp_path / "run", methods="exact")


def test_what_diverges_is_told_and_the_rest_goes_on(project, tmp_path):
    methods = "finetune:lr=3e38,exact"
    comparison = ob.bench(project, tmp_path, methods=methods, requests=[1], backdoor=False)
    assert [row.trouble for row in comparison.rows] == ["", "", "diverged", ""]
    assert notes_of(comparison)[0].startswith("finetune:lr=3e+38 diverged: ")
    assert comparison.of("exact").identical == 1


def test_a_preset_needs_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fault = ask("bench", "nowhere", code=2)
    assert "no preset 'nowhere'" in fault["error"]
    assert not list(tmp_path.iterdir())
