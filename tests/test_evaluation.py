"""What is measured while a run is trained leaves its bits alone; training may end early by it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

import obliviate as ob
from obliviate import errors
from obliviate.cli.render import of_status
from obliviate.events import detail
from obliviate.evidence import gathered, page
from tests.models import ADAM, Transformer, batch_norm_cnn, images, recipe, records_in

BLOCKS, EPOCHS = 4, 4
DATA, TEST = images(48), images(30, seed=9)


def made(model=batch_norm_cnn, **options):
    return recipe(
        model, ADAM, "cosine", optimizer_state="carried", repeats=1, epochs=EPOCHS, **options
    )


def right(model):
    inputs, targets = TEST.tensors
    return {"right": (model(inputs).argmax(1) == targets).float().mean(), "count": np.int64(30)}


def meddling(model):
    """Draws, trains, changes and forgets to put back."""
    assert not model.training
    random.random(), np.random.rand(), torch.rand(9)
    for parameter in model.parameters():
        parameter.data.add_(1)
    model.train()
    model.register_forward_hook(lambda module, given, outputs: outputs * 0)
    model(TEST.tensors[0])
    torch.set_num_threads(1)
    return {"loss": 1}


def after_two(history):
    return len(history) >= 2


@pytest.mark.parametrize(
    "model", [batch_norm_cnn, pytest.param(Transformer, marks=pytest.mark.slow)]
)
def test_measuring_leaves_the_bits_alone(model, tmp_path):
    told = []
    plain = ob.fit(made(model), DATA, tmp_path / "plain", blocks=BLOCKS)
    for evaluate in (right, meddling):
        run = ob.fit(
            made(model),
            DATA,
            tmp_path / evaluate.__name__,
            blocks=BLOCKS,
            evaluate=evaluate,
            every=3,
            log=lambda block, values: told.append((block, dict(values))),
        )
        assert run.digest == plain.digest
        assert list(run.status().evaluations) == [3, 6, 9, 12, 15, 16]
    assert [block for block, _ in told] == 2 * list(range(1, 17))
    assert told[1][1].keys() == {"loss"}
    assert told[2][1].keys() == {"loss", "right", "count"}


def test_what_is_measured_is_that_of_the_model(tmp_path):
    run = ob.fit(made(), DATA, tmp_path / "run", blocks=BLOCKS, evaluate=right)
    evaluations = ob.load(run.folder, made(), DATA).status().evaluations
    assert list(evaluations) == [4, 8, 12, 16]
    assert evaluations[16] == {name: float(each) for name, each in right(run.model).items()}


def test_it_is_shown_in_events_status_and_reports(tmp_path):
    events = list(ob.fit.events(made(), DATA, tmp_path / "run", blocks=BLOCKS, evaluate=right))
    shown = [detail(each) for each in events if each.evaluation]
    assert len(shown) == EPOCHS
    assert all("right 0." in each and "count 30" in each for each in shown)
    run = ob.load(tmp_path / "run", made(), DATA)
    words = of_status(run.status())
    assert words.facts["evaluations"].keys() == {4, 8, 12, 16}
    evidence = gathered(run.folder)
    assert evidence.measured.startswith("after block 16: count 30, right 0.")
    assert evidence.measured in page(evidence)


def test_nothing_that_was_measured_of_replaced_states_is_left(tmp_path):
    run = ob.fit(made(), DATA, tmp_path / "run", blocks=BLOCKS, evaluate=right, every=1)
    gone = records_in(run, 3)
    run.forget(records=gone, method="exact")
    first = int(run.trainer.layout.places(np.array(gone)).earliest[0])
    assert list(run.status().evaluations) == list(range(1, first))
    assert run.verify().passed


# Ending early


def ended(folder, **options):
    given = {"evaluate": right, "stop": after_two}
    return ob.fit(made(), DATA, folder, blocks=BLOCKS, **(given | options))


def test_a_run_that_was_ended_early_is_whole(tmp_path):
    run = ended(tmp_path / "run")
    assert (run.facts.blocks, run.guarantee) == (2 * BLOCKS, "exact")
    assert (run.status().given_up, run.status().blocks_done) == (2, 8)
    assert "by 2 epochs" in page(gathered(run.folder))
    whole = ob.fit(made(), DATA, tmp_path / "whole", blocks=BLOCKS, keep=EPOCHS)
    assert whole.chain().entries[8].digest == run.digest  # the schedule is that of all epochs
    run.close()

    run = ob.load(run.folder, made(), DATA)
    assert run.verify().passed
    assert run.forget(records=records_in(run, 6), method="deepobliviate").guarantee
    gone = records_in(run, 5, each=2)
    run.forget(records=gone, method="exact")
    assert run.settle().guarantee == "exact"
    assert run.verify(data=True).passed
    erased = run.ledger.records.erased().tolist()
    never = ended(tmp_path / "never", exclude=erased)
    assert never.digest == run.digest


def test_forgetting_is_training_without_to_the_same_end(tmp_path):
    run = ended(tmp_path / "run")
    gone = records_in(run, 1, 6, each=2)
    erasure = run.forget(records=gone, method="exact")
    assert erasure.digest == ended(tmp_path / "never", exclude=gone).digest
    again = ended(tmp_path / "run")  # there is nothing left to train
    assert again.digest == erasure.digest


def test_a_run_that_was_ended_early_grows(tmp_path):
    run = ended(tmp_path / "run")
    run.extend(images(20, seed=5), blocks=2, epochs=1)
    assert run.facts.blocks == 2 * BLOCKS + 2
    assert run.forget(records=[3, 50], method="exact").guarantee == "exact"
    assert run.verify().passed


class Failing:
    """Fails once, when it is told of a block."""

    def __init__(self, block):
        self.block, self.has_failed = block, False

    def __call__(self, block, values):
        if block == self.block and not self.has_failed:
            self.has_failed = True
            raise OSError("the disk of the dashboard is full")


@pytest.mark.parametrize("block", [1, 5, 8])
def test_an_interrupted_training_ends_where_it_would_have(block, tmp_path):
    log = Failing(block)
    with pytest.raises(errors.TrainingFailed, match=rf"block {block}: log raised OSError"):
        ended(tmp_path / "run", log=log)
    run = ended(tmp_path / "run", log=log)
    assert run.digest == ended(tmp_path / "whole").digest
    assert list(run.status().evaluations) == [4, 8]


def test_training_that_was_stopped_at_an_end_is_asked_there_again(tmp_path):
    """As where a process was killed between its last block and saying that it was the last."""
    with pytest.raises(errors.TrainingFailed):
        ended(tmp_path / "run", stop=lambda history: len(history) > 2, log=Failing(9))
    run = ended(tmp_path / "run")
    assert run.facts.blocks == 8
    assert run.model is not None


# What cannot be


def failing(model):
    raise ValueError("no test set")


REFUSED = {
    "no function": ({"evaluate": 3}, "evaluate is 3; it must be callable or None"),
    "a class of it": ({"evaluate": right, "log": "tensorboard"}, "log is 'tensorboard'; it must"),
    "no blocks": ({"evaluate": right, "every": 0}, "every"),
    "every of nothing": ({"every": 2}, "every needs evaluate"),
    "stop by nothing": ({"stop": after_two}, "stop needs evaluate"),
    "stop and keep": ({"evaluate": right, "stop": after_two, "keep": 2}, "keep goes by the last"),
    "stop and a budget": (
        {"evaluate": right, "stop": after_two, "disk_budget": "1GB"},
        "disk_budget goes by the last",
    ),
    "a list": ({"evaluate": lambda model: [1]}, r"evaluate gave \[1\]"),
    "a text": ({"evaluate": lambda model: {"a": "3"}}, "evaluate gave '3' for 'a'"),
    "no number": ({"evaluate": lambda model: {"a": None}}, "evaluate gave None for 'a'"),
    "no name": ({"evaluate": lambda model: {3: 1.0}}, "evaluate gave 1.0 for 3"),
    "many": ({"evaluate": lambda model: {"a": torch.ones(2)}}, "evaluate gave tensor"),
    "what raises": ({"evaluate": failing}, "block 0: evaluate raised ValueError: no test set"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_measured_is_refused_before_training(what, tmp_path):
    options, fault = REFUSED[what]
    with pytest.raises(errors.ObliviateError, match=fault):
        ob.fit(made(), DATA, tmp_path / "run", blocks=BLOCKS, **options)
    assert not (tmp_path / "run").exists()


def test_there_has_to_be_an_epoch_to_end_before(tmp_path):
    with pytest.raises(errors.InvalidRecipe, match="there is one epoch"):
        ob.fit(recipe(), DATA, tmp_path / "run", blocks=BLOCKS, evaluate=right, stop=after_two)


def test_numbers_that_are_not_finite_are_kept(tmp_path):
    run = ob.fit(
        recipe(),
        DATA,
        tmp_path / "run",
        blocks=BLOCKS,
        evaluate=lambda model: {"perplexity": float("inf")},
    )
    assert run.status().evaluations == {4: {"perplexity": float("inf")}}
    assert isinstance(run.model, nn.Module)
