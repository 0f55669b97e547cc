"""Exports: whole or not at all, read without the data, and remembered for as long as they exist."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
import safetensors.torch
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors import safe_open
from torch import nn
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

import obliviate as ob
from obliviate.cli import app
from obliviate.errors import (
    ExportFailed,
    InvalidOption,
    ObliviateError,
    UnknownExport,
)
from obliviate.evidence import gathered, page
from tests.exports import BLOCKS, LINEAR, Tied, card_in, of, same, with_model
from tests.models import recipe, records_in
from tests.project_file import write_project

_FAST = ob.DeepObliviate(blocks=1)


class Saving(nn.Linear):
    """A model that saves itself, in the file that it is told to."""

    name = "adapter.safetensors"

    def __init__(self) -> None:
        super().__init__(4, 3)

    def save_pretrained(self, folder, safe_serialization=False):
        assert safe_serialization
        safetensors.torch.save_file({"bias": self.bias}, Path(folder, self.name))


class Pickling(Saving):
    """The same, in a file that is a pickle by its name."""

    name = "model.bin"


@pytest.fixture
def run(tmp_path, recipe_of, data):
    """A run that is trained."""
    with ob.fit(recipe_of(), data, tmp_path / "run", blocks=BLOCKS) as run:
        yield run


# What is written


@pytest.mark.parametrize("model", [LINEAR, Tied], ids=["linear", "tied"])
def test_an_export_is_the_model_and_is_read_without_the_data(tmp_path, recipe_of, data, model):
    run, place = with_model(model, tmp_path, recipe_of, data), tmp_path / "export"
    facts = run.export(place)
    assert (facts.place, facts.form, facts.digest) == (str(place), "safetensors", run.digest)
    assert sorted(each.name for each in place.iterdir()) == ["model.safetensors", "obliviate.json"]
    card = card_in(place)
    assert card["digest"] == card["state_digest"] == run.digest
    assert (card["guarantee"], card["blocks"], card["erasures"]) == ("exact", BLOCKS, [])
    for path in (place, run.folder):
        opened = ob.open_model(path, model=model)
        assert not opened.training
        assert same(opened, run.model)
    others = model()
    assert safetensors.torch.load_model(others, place / "model.safetensors") == (set(), [])
    assert same(others, run.model)


def test_tied_tensors_are_written_once_and_stay_tied(tmp_path, recipe_of, data):
    run = with_model(Tied, tmp_path, recipe_of, data)
    run.export(tmp_path / "export")
    with safe_open(tmp_path / "export" / "model.safetensors", "pt") as file:
        assert "second.weight" not in file.keys()  # noqa: SIM118
        assert file.metadata()["second.weight"] == "first.weight"
    model = ob.open_model(tmp_path / "export", model=Tied)
    assert model.first.weight is model.second.weight


def test_the_card_names_what_it_reflects_and_nobody(tmp_path, recipe_of, data):
    subjects = [f"person-{record % 20}" for record in range(40)]
    run = ob.fit(recipe_of(), data, tmp_path / "run", blocks=BLOCKS, subjects=subjects)
    run.forget(subjects=["person-3"], method="exact")
    run.request(subjects=["person-4"], due="2099-01-01")
    run.export(tmp_path / "export")
    card = card_in(tmp_path / "export")
    assert (card["erasures"], card["requests"]) == ([1], [1])
    assert "person" not in json.dumps(card)
    heads = [entry.hash for entry in run.journal()]
    assert card["journal_head"] in heads
    assert run.verify(blocks=[1], journal_head=card["journal_head"]).passed


def test_a_model_that_saves_itself(tmp_path, recipe_of, data):
    run = with_model(Saving, tmp_path, recipe_of, data)
    assert run.export(tmp_path / "export", "pretrained").form == "pretrained"
    kept = safetensors.torch.load_file(tmp_path / "export" / "adapter.safetensors")
    assert torch.equal(kept["bias"], run.model.bias)
    with pytest.raises(InvalidOption, match="pretrained") as raised:
        ob.open_model(tmp_path / "export", model=Saving)
    assert "from_pretrained" in raised.value.hint


@pytest.mark.parametrize(
    ("model", "refused"),
    [
        (LINEAR, {"pretrained": InvalidOption, "pickle": InvalidOption, 7: InvalidOption}),
        (Pickling, {"pretrained": ExportFailed}),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path, recipe_of, data, model, refused):
    run = with_model(model, tmp_path, recipe_of, data)
    for form, error in refused.items():
        with pytest.raises(error) as raised:
            run.export(tmp_path / "export", form)
        assert raised.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert run.exports() == []


def test_a_package_brings_a_form_of_its_own(tmp_path, run, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).with_name("package_with_method")))
    run.export(tmp_path / "export", "listing")
    assert (tmp_path / "export" / "listing.txt").read_text().splitlines() == [
        "weight",
        "bias",
        "(2, 4)",
    ]
    with pytest.raises(InvalidOption, match="cannot be imported"):
        run.export(tmp_path / "other", "absent")


def test_onnx_without_its_extra_says_which(tmp_path, run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(InvalidOption, match="onnxscript") as raised:
        run.export(tmp_path / "export", "onnx")
    assert "obliviate[onnx]" in raised.value.hint
    assert run.exports() == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_computes_the_same_for_any_batch(tmp_path, recipe_of, data):
    from onnx.reference import ReferenceEvaluator

    run = with_model(Tied, tmp_path, recipe_of, data)
    run.export(tmp_path / "export", "onnx")
    graph = ReferenceEvaluator(str(tmp_path / "export" / "model.onnx"))
    inputs = data.tensors[0][:7]
    (outputs,) = graph.run(None, {graph.input_names[0]: inputs.numpy()})
    assert torch.allclose(torch.from_numpy(outputs), run.model(inputs), atol=1e-5)


def test_what_a_step_of_its_own_is_called_with_has_to_be_said(tmp_path, recipe_of, data):
    def step(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    run = ob.fit(recipe_of(loss=None, step=step), data, tmp_path / "run", blocks=BLOCKS)
    with pytest.raises(InvalidOption, match="step") as raised:
        run.export(tmp_path / "export", "onnx")
    assert "example=" in raised.value.hint


# What the run remembers


def test_an_export_goes_stale_with_an_erasure_and_is_replaced(tmp_path, run):
    first, second = tmp_path / "first", tmp_path / "second"
    run.export(first)
    run.export(second)
    assert of(run.exports()) == [("there", "current")] * 2
    run.forget(records=records_in(run, 2), method="exact")
    assert of(run.exports()) == [("there", "stale")] * 2
    assert {each.erased_since for each in run.exports()} == {(1,)}
    assert all(each.holds_erased for each in run.status().exports)
    assert [each.id for each in run.queue().exports] == [1, 2]
    run.export(first)
    assert of(run.exports()) == [("replaced", "stale"), ("there", "stale"), ("there", "current")]
    assert [each.id for each in run.queue().exports] == [2]
    assert run.verify(blocks=[1]).passed


def test_what_was_exported_after_a_fast_erasure_is_merely_older_once_settled(tmp_path, run):
    run.export(tmp_path / "before")
    run.forget(records=records_in(run, 1), method=_FAST)
    run.export(tmp_path / "between")
    assert card_in(tmp_path / "between")["guarantee"] == "approximate"
    run.settle()
    assert of(run.exports()) == [("there", "stale"), ("there", "older")]
    assert [each.holds_erased for each in run.exports()] == [True, False]


def test_no_digest_of_what_was_erased_outlives_the_settling(tmp_path, run):
    digests = [run.export(tmp_path / "before").digest]
    run.forget(records=records_in(run, 1), method=_FAST)
    digests.append(run.export(tmp_path / "between").digest)
    run.settle()
    now = run.export(tmp_path / "after").digest
    assert [each.digest for each in run.exports()] == [None, None, now]
    run.ledger.flush()
    run.close()
    kept = b"".join(each.read_bytes() for each in run.folder.glob("ledger*"))
    assert now.encode() in kept
    assert not any(each.encode() in kept for each in digests)


def test_who_was_never_trained_on_makes_no_export_stale(tmp_path, recipe_of, data):
    run = ob.fit(recipe_of(), data, tmp_path / "run", blocks=BLOCKS)
    run.forget(records=[1], method="exact")
    run.export(tmp_path / "export")
    run.forget(records=[1], method="exact")  # again: nothing is to be done
    assert of(run.exports()) == [("there", "current")]


def test_an_export_is_withdrawn_once_it_is_gone(tmp_path, run):
    place = tmp_path / "export"
    run.export(place)
    run.forget(records=[1], method="exact")
    with pytest.raises(InvalidOption, match="still lies") as raised:
        run.withdraw(place)
    assert "delete" in raised.value.hint
    shutil.rmtree(place)
    assert of(run.withdraw(place)) == of(run.exports()) == [("withdrawn", "stale")]
    assert run.exports()[0].closed
    assert not run.exports()[0].holds_erased
    for unknown in (place, tmp_path / "nowhere"):
        with pytest.raises(UnknownExport):
            run.withdraw(unknown)


def test_a_row_that_was_changed_from_outside_is_found(tmp_path, run):
    run.export(tmp_path / "export")
    run.close()
    with sqlite3.connect(run.folder / "ledger.sqlite") as ledger:
        ledger.execute("UPDATE exports SET state = 'withdrawn'")
    ledger.close()
    assert any("exports" in fault for fault in run.verify().journal)


def test_the_report_says_what_holds_whom(tmp_path, run):
    run.export(tmp_path / "handed-on")
    run.forget(records=[1], method="exact")
    (export,) = gathered(run.folder).exports
    assert (export.name, export.standing, export.erased_since) == ("handed-on", "stale", (1,))
    written = page(gathered(run.folder))
    assert "records erased since" in written
    assert str(tmp_path) not in written


def test_the_command_line_exports_and_withdraws(tmp_path):
    folder, place = str(tmp_path / "run"), tmp_path / "export"

    def ask(*words, code=0):
        result = CliRunner().invoke(app, [*map(str, words), "--json"])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    ask("fit", write_project(tmp_path), folder)
    (export,) = ask("export", folder, place)["exports"]
    assert (export["place"], export["standing"]) == (str(place), "current")
    assert ask("withdraw", folder, place, code=2)["code"] == "invalid_option"
    told = CliRunner().invoke(app, ["forget", folder, "--record", "1", "--method", "exact"])
    assert "holds people who were erased since" in told.stdout
    assert ask("status", folder)["exports"][0]["erased_since"] == [1]
    assert ask("queue", folder)["exports"][0]["id"] == 1
    for words in (["status", folder], ["queue", folder]):
        shown = CliRunner().invoke(app, words).stdout
        assert "obliviate withdraw" in shown
    shutil.rmtree(place)
    assert ask("withdraw", folder, place)["exports"][0]["state"] == "withdrawn"
    assert ask("export", folder, place, "--form", "magic", code=2)["code"] == "invalid_option"


# Where it goes


def taken(tmp_path, run):
    """Places that an export never takes, and what is said of each."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "full")
    run.export(tmp_path / "grown")
    (tmp_path / "grown" / "mine.txt").write_text("mine")
    run.export(tmp_path / "torn")
    (tmp_path / "torn" / "obliviate.json").write_text("{}")
    return {
        tmp_path / "file": "a file",
        tmp_path / "full": "mine.txt",
        tmp_path / "link": "a link",
        tmp_path / "grown": "mine.txt",
        tmp_path / "torn": "card",
        run.folder: "keeps its own",
        run.folder / "export": "keeps its own",
        run.folder / "vault" / "export": "keeps its own",
        tmp_path: "keeps its own",
        "": "empty",
        "s3://user:secret@bucket/x": "password",
    }


def test_nothing_else_is_ever_written_over(tmp_path, run):
    places = taken(tmp_path, run)

    def all_files():
        return {
            path: path.read_bytes()
            for path in tmp_path.rglob("*")
            if path.is_file() and "ledger" not in path.name
        }

    before = all_files(), run.exports()
    for place, said in places.items():
        with pytest.raises(ObliviateError, match=said) as raised:
            run.export(place)
        assert raised.value.hint
    assert (all_files(), run.exports()) == before


def test_another_run_is_not_written_over(tmp_path, run, recipe_of, data):
    run.export(tmp_path / "export")
    other = ob.fit(recipe_of(seed=9), data, tmp_path / "other", blocks=BLOCKS)
    with pytest.raises(InvalidOption, match="another run"):
        other.export(tmp_path / "export")
    assert card_in(tmp_path / "export")["digest"] == run.digest


def test_an_export_goes_into_any_storage(tmp_path, run):
    url = f"memory://{tmp_path.name}/model"
    run.export(url)
    assert same(ob.open_model(url, model=LINEAR), run.model)
    run.forget(records=[1], method="exact")
    run.export(url)
    assert of(run.exports()) == [("replaced", "stale"), ("there", "current")]
    assert same(ob.open_model(url, model=LINEAR), run.model)
    with pytest.raises(InvalidOption, match="still lies"):
        run.withdraw(url)
    files = MemoryFileSystem()
    files.pipe_file(f"/{tmp_path.name}/model/mine.txt", b"mine")
    with pytest.raises(InvalidOption, match=r"mine\.txt"):
        run.export(url)
    files.rm(f"/{tmp_path.name}", recursive=True)
    assert of(run.withdraw(url)) == [("withdrawn", "current")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_of_a_peft_model_the_adapters_alone_are_saved(tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    def base():
        torch.manual_seed(1)
        return GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16))

    def adapted():
        return get_peft_model(base(), LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))

    def step(model, batch):
        return model(input_ids=batch[0], labels=batch[0]).loss

    tokens = torch.randint(16, (24, 5), generator=torch.Generator().manual_seed(0))
    made = recipe(adapted, loss=None, step=step)
    run = ob.fit(made, TensorDataset(tokens, tokens), tmp_path / "run", blocks=2)
    run.export(tmp_path / "adapter", "pretrained")
    run.export(tmp_path / "whole")
    names = set(safetensors.torch.load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    assert names
    assert all("lora" in name for name in names)
    again = PeftModel.from_pretrained(base(), tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, run.model(tokens).logits)
    assert same(ob.open_model(tmp_path / "whole", model=adapted), run.model)
