"""A run through `erasable` is what the library's own `Trainer.train()` gives over the same batches.

`Driven` is a Trainer as people write them, whose loader hands out the batches of a run in order,
and which seeds all generators before each microbatch, as a run does.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import os
import random
import signal
import subprocess
import sys
from collections import deque
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import obliviate as ob
from obliviate import models
from obliviate.errors import ExtraMissing, InvalidOption, InvalidRecipe, ObliviateError
from obliviate.recipe.deal import key
from obliviate.run.make import new_layout

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from obliviate.integrations.transformers import erasable, recipe_of  # noqa: E402
from obliviate.integrations.transformers.arguments import (  # noqa: E402
    CARRIED,
    IMMATERIAL,
    REFUSED,
    argument_faults,
)
from obliviate.integrations.transformers.callbacks import Callbacks  # noqa: E402
from obliviate.integrations.transformers.faults import trainer_faults  # noqa: E402

RECORDS, AUTHORS, BLOCKS, WORDS = 24, 6, 3, 30


def authors_of(record):
    return f"author {record // (RECORDS // AUTHORS)}"


class Texts(torch.utils.data.Dataset):
    """Texts of several lengths, in tokens, each by somebody and of a class."""

    def __init__(self, records=RECORDS):
        generator = np.random.default_rng(3)
        self.texts = [generator.integers(1, WORDS, 3 + at % 4).tolist() for at in range(records)]

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        text = self.texts[index]
        return {"input_ids": text, "author": authors_of(index), "label": sum(text) % 3}


def padded(records):
    length = max(len(each["input_ids"]) for each in records)
    lines = [each["input_ids"] for each in records]
    ids = torch.tensor([line + [0] * (length - len(line)) for line in lines])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def texts(records):
    batch = padded(records)
    return batch | {"labels": batch["input_ids"].masked_fill(batch["input_ids"] == 0, -100)}


def classes(records):
    return padded(records) | {"labels": torch.tensor([each["label"] for each in records])}


def masked(records):
    """Hides some of the words: other ones each time."""
    batch = texts(records)
    is_hidden = (torch.rand(batch["input_ids"].shape) < 0.4) & (batch["input_ids"] != 0)
    is_hidden[:, 0] = True
    return batch | {
        "input_ids": batch["input_ids"].masked_fill(is_hidden, WORDS - 1),
        "labels": batch["labels"].masked_fill(~is_hidden, -100),
    }


TINY = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def gpt2(seed=1):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=WORDS,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    return transformers.GPT2LMHeadModel(config)


def llama(seed=1):
    torch.manual_seed(seed)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY, intermediate_size=32))


def adapted(seed=1):
    """Random first weights of the adapter: others for each seed, over the same base."""
    base = llama()
    torch.manual_seed(seed)
    options = {"r": 2, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1}
    return peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **options))


def bert(kind, seed=1):
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        **TINY, intermediate_size=32, max_position_embeddings=16, num_labels=3
    )
    return kind(config)


classifier = partial(bert, transformers.BertForSequenceClassification)
unmasker = partial(bert, transformers.BertForMaskedLM)


def summed(outputs, labels, num_items_in_batch=None):
    """A loss function as `compute_loss_func` takes it: a sum over the whole batch's items."""
    losses = torch.nn.functional.cross_entropy(
        outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
    )
    return losses / num_items_in_batch


class MeanLoss(transformers.Trainer):
    """A loss of its own: a mean over the microbatch."""

    loss_is_scaled_for_ga = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        logits = model(**inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        self.log({"own": loss.item()})
        return (loss, logits) if return_outputs else loss


def arguments(folder, **options):
    usual = {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "num_train_epochs": 2,
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 3,
        "max_grad_norm": 0.5,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "seed": 5,
    }
    return transformers.TrainingArguments(**usual | options)


GIVEN = ("callbacks", "optimizers", "compute_loss_func", "compute_metrics", "eval_dataset")


def trainer(folder, model=llama, collator=texts, kind=transformers.Trainer, **options):
    named = {name: options.pop(name) for name in GIVEN if name in options}
    return kind(
        model=model() if callable(model) and not isinstance(model, torch.nn.Module) else model,
        args=arguments(folder, **options),
        data_collator=collator,
        train_dataset=Texts(),
        **named,
    )


def seeded(number):
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number & 0xFFFFFFFF)


class Batches:
    """The batches of a run's layout, epoch after epoch."""

    def __init__(self, run, collator, seeds):
        self.run, self.collator, self.seeds, self.epoch = run, collator, seeds, 0
        self.microbatches = [
            (block, each)
            for block in range(1, run.trainer.layout.blocks + 1)
            for each in run.trainer.layout.microbatches(block, np.array([], dtype=np.int64))
        ]
        self.epochs = run.recipe.epochs

    def __len__(self):
        return len(self.microbatches) // self.epochs

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        data = Texts()
        for block, each in self.microbatches[self.epoch * len(self) :][: len(self)]:
            numbers = (each.number,) if each.number else ()
            self.seeds.append(key(self.run.recipe.seed, "step", block, each.step, *numbers))
            records = [data[record] for record in each.records.tolist()]
            reading = key(key(self.run.recipe.seed, "fetch", block), each.step)
            seeded(key(reading, "collate", each.number))
            yield self.collator(records)


def driven(kind):
    """A Trainer over the batches of a run, with everything else its own."""

    class Driven(kind):
        def get_train_dataloader(self):
            return self.batches

        def training_step(self, model, inputs, num_items_in_batch=None):
            seeded(self.seeds.popleft())
            return super().training_step(model, inputs, num_items_in_batch)

    return Driven


def trained_by_library(folder, run, model, collator, kind=transformers.Trainer, **options):
    """The state that `Trainer.train` ends with, over the batches of a run."""
    own = trainer(folder, model, collator, driven(kind), **options)
    own.seeds = deque()
    own.batches = Batches(run, collator, own.seeds)
    torch.use_deterministic_algorithms(True)
    try:
        own.train()
    finally:
        torch.use_deterministic_algorithms(False)
    assert not own.seeds
    return own.model.state_dict()


def same(state, other):
    assert state.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in state.items())


WAYS = {
    "causal language model": {"model": llama},
    "adapter": {"model": adapted, "bf16": True},
    "classifier": {"model": classifier, "collator": classes},
    "label smoothing, in bf16": {"model": gpt2, "label_smoothing_factor": 0.1, "bf16": True},
    "a loss of its own": {"model": gpt2, "kind": MeanLoss, "bf16": True},
}
MORE_WAYS = {
    "with dropout, in bf16": {"model": gpt2, "bf16": True},
    "checkpointing": {"model": gpt2, "activation_checkpointing": True},
    "a loss function": {"model": llama, "compute_loss_func": summed},
    "no accumulation, nor clipping": {
        "model": llama,
        "gradient_accumulation_steps": 1,
        "per_device_train_batch_size": 8,
        "max_grad_norm": 0.0,
        "optim": "sgd",
        "lr_scheduler_type": "linear",
    },
    "adafactor, constant": {
        "model": gpt2,
        "optim": "adafactor",
        "lr_scheduler_type": "constant_with_warmup",
    },
    "a masked language model": {"model": unmasker, "collator": masked},
}
SLOW = [pytest.param(way, marks=pytest.mark.slow) for way in MORE_WAYS]


def options_of(way):
    return {"collator": texts} | (WAYS | MORE_WAYS)[way]


@pytest.mark.parametrize("way", [*WAYS, *SLOW])
def test_a_run_is_what_the_trainer_would_have_trained(tmp_path, way):
    options = options_of(way)
    ours = trainer(tmp_path, **options)
    first = copy.deepcopy(ours.model.state_dict())
    run = erasable(ours, tmp_path / "run", blocks=BLOCKS)
    library = trained_by_library(tmp_path, run, **options)
    assert same(run.model.state_dict(), library)
    assert same(ours.model.state_dict(), library)
    assert not same(first, library)


@pytest.mark.parametrize(
    "way",
    [
        "adapter",
        *(
            pytest.param(way, marks=pytest.mark.slow)
            for way in ("causal language model", "classifier", "a masked language model")
        ),
    ],
)
def test_forgetting_an_author_is_training_without(tmp_path, way):
    options = options_of(way)
    run = erasable(trainer(tmp_path, **options), tmp_path / "run", blocks=BLOCKS, subjects="author")
    name = authors_of(7)
    theirs = [record for record in range(RECORDS) if authors_of(record) == name]
    before = run.digest
    assert run.forget(subjects=[name], method="exact").guarantee == "exact"
    other = erasable(
        trainer(tmp_path, **options),
        tmp_path / "other",
        blocks=BLOCKS,
        subjects="author",
        exclude=theirs,
    )
    assert run.digest == other.digest != before
    with ob.load(tmp_path / "run", recipe_of(trainer(tmp_path, **options)), Texts()) as opened:
        assert opened.digest == run.digest
    assert same(run.model.state_dict(), other.model.state_dict())


def test_records_that_are_gone_are_not_asked_whose_they_are(tmp_path):
    class Gone(Texts):
        def __getitem__(self, index):
            assert index != 3
            return super().__getitem__(index)

    options = {"blocks": BLOCKS, "subjects": "author"}
    run = erasable(trainer(tmp_path, adapted), tmp_path / "run", **options)
    run.forget(records=[3], method="exact")
    again = trainer(tmp_path, adapted)
    again.train_dataset = Gone()
    opened = erasable(again, tmp_path / "run", **options)
    assert opened.digest == run.digest
    opened.forget(subjects=[authors_of(7)], method="exact")


def test_another_process_goes_on_with_the_first_weights_of_the_run(tmp_path):
    whole = erasable(trainer(tmp_path, adapted), tmp_path / "whole", blocks=BLOCKS)
    events = erasable.events(trainer(tmp_path, adapted), tmp_path / "run", blocks=BLOCKS)
    while next(events).done < 2:
        pass
    events.close()
    run = erasable(trainer(tmp_path, partial(adapted, 2)), tmp_path / "run", blocks=BLOCKS)
    assert run.digest == whole.digest
    assert run.verify().passed
    run.forget(records=[0], method="exact")
    assert (
        run.digest
        == erasable(
            trainer(tmp_path, adapted), tmp_path / "other", blocks=BLOCKS, exclude=[0]
        ).digest
    )


def test_a_finished_run_is_opened_and_the_adapter_saved(tmp_path):
    run = erasable(trainer(tmp_path, adapted), tmp_path / "run", blocks=BLOCKS)
    again = trainer(tmp_path, partial(adapted, 2))
    assert erasable(again, tmp_path / "run", blocks=BLOCKS).digest == run.digest
    run.model.save_pretrained(tmp_path / "adapter")
    saved = peft.PeftModel.from_pretrained(llama(), tmp_path / "adapter")
    assert same(saved.state_dict(), run.model.state_dict())
    assert not (tmp_path / "adapter" / "model.safetensors").exists()


def test_an_optimizer_and_a_scheduler_that_were_given(tmp_path):
    def given(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return optimizer, transformers.get_cosine_schedule_with_warmup(optimizer, 2, 12)

    def made(kind=transformers.Trainer):
        model = llama()
        return trainer(tmp_path, model, kind=kind, optimizers=given(model))

    run = erasable(made(), tmp_path / "run", blocks=BLOCKS)
    library = made(driven(transformers.Trainer))
    library.seeds = deque()
    library.batches = Batches(run, texts, library.seeds)
    library.train()
    assert same(run.model.state_dict(), library.model.state_dict())


def test_first_weights_by_model_init_are_the_trainers(tmp_path):
    def made(kind=transformers.Trainer):
        return kind(
            model_init=lambda: transformers.LlamaForCausalLM(llama().config),
            args=arguments(tmp_path),
            data_collator=texts,
            train_dataset=Texts(),
        )

    run = erasable(made(), tmp_path / "run", blocks=BLOCKS)
    library = made(driven(transformers.Trainer))
    library.seeds = deque()
    library.batches = Batches(run, texts, library.seeds)
    library.train()
    assert same(run.model.state_dict(), library.model.state_dict())


class Listening(transformers.TrainerCallback):
    """Looks on."""

    def __init__(self):
        self.told = []

    def on_train_begin(self, args, state, control, **given):
        self.told.append("begin")

    def on_log(self, args, state, control, logs, **given):
        self.told.append((state.global_step, sorted(logs)))

    def on_evaluate(self, args, state, control, metrics, **given):
        self.told.append(round(metrics["eval_loss"], 6))

    def on_train_end(self, args, state, control, model, **given):
        self.told.append("end")


def hits(predictions):
    logits, labels = predictions
    is_labelled = labels[:, 1:] != -100
    return {"hits": (logits[:, :-1].argmax(-1) == labels[:, 1:])[is_labelled].mean()}


def test_callbacks_that_look_on_are_told_of_every_block(tmp_path):
    listening = Listening()
    own = trainer(
        tmp_path,
        callbacks=[listening],
        logging_strategy="steps",
        eval_strategy="epoch",
        eval_dataset=Texts(10),
        compute_metrics=hits,
        bf16=True,
    )
    run = erasable(own, tmp_path / "run", blocks=BLOCKS)
    measured = run.status().evaluations
    logs = [(step, ["epoch", "loss"]) for step in range(1, 7)]
    losses = [round(measured[block]["eval_loss"], 6) for block in (BLOCKS, 2 * BLOCKS)]
    names = ["epoch", "eval_hits", "eval_loss"]
    assert listening.told == [
        *["begin", *logs[:3], (3, names), losses[0]],
        *[*logs[3:], (6, names), losses[1], "end"],
    ]
    now = own.evaluate()
    assert measured[2 * BLOCKS] == {name: now[name] for name in ("eval_loss", "eval_hits")}
    count = len(listening.told)
    erasable(own, tmp_path / "run", blocks=BLOCKS)  # there is nothing more to tell
    assert len(listening.told) == count


@pytest.mark.parametrize(("asked", "every"), [("epoch", None), (2, 2), (0.5, 3), (1, 1)])
def test_when_it_is_measured(tmp_path, asked, every):
    steps = {} if asked == "epoch" else {"eval_steps": asked}
    own = trainer(
        tmp_path,
        eval_strategy="steps" if steps else "epoch",
        eval_dataset=Texts(4),
        **steps,
    )
    assert Callbacks(own, new_layout(recipe_of(own), RECORDS, BLOCKS)).every == every


class Stopping(transformers.TrainerCallback):
    def on_log(self, args, state, control, **given):
        control.should_training_stop = True


def test_a_callback_that_ends_training_is_refused_when_it_does(tmp_path):
    own = trainer(tmp_path, callbacks=[Stopping()], logging_strategy="steps")
    with pytest.raises(InvalidRecipe, match="should_training_stop"):
        erasable(own, tmp_path / "run", blocks=BLOCKS)


@pytest.mark.slow
def test_references_are_scored_without_a_score_of_ones_own(tmp_path):
    run = erasable(
        trainer(tmp_path, adapted),
        tmp_path / "run",
        blocks=BLOCKS,
        subjects="author",
        reference=torch.utils.data.Subset(Texts(64), range(40, 64)),
    )
    erasure = run.forget(subjects=[authors_of(7)])
    assert erasure.method == "calibrated"
    assert erasure.ending.target is not None


# Scores


def one_by_one(model, collator, records):
    with torch.no_grad():
        return [-float(model.eval()(**collator([each])).loss) for each in records]


@pytest.mark.parametrize(
    ("model", "collator"), [(llama, texts), (gpt2, texts), (adapted, texts), (unmasker, texts)]
)
def test_the_score_of_a_text_is_its_mean_log_probability(tmp_path, model, collator):
    own = trainer(tmp_path, model, collator)
    recipe, records = recipe_of(own), [Texts()[at] for at in range(7)]
    with torch.no_grad():
        scores = recipe.score(own.model.eval(), collator(records))
    assert scores.tolist() == pytest.approx(one_by_one(own.model, collator, records), rel=1e-4)


def test_the_score_of_a_classifier_is_the_log_odds_of_the_class(tmp_path):
    own = trainer(tmp_path, classifier, classes)
    records = [Texts()[at] for at in range(7)]
    with torch.no_grad():
        scores = recipe_of(own).score(own.model.eval(), classes(records))
    losses = -np.array(one_by_one(own.model, classes, records))
    assert scores.tolist() == pytest.approx((-np.log(np.expm1(losses))).tolist(), rel=1e-3)


def test_a_text_without_labels_has_no_score(tmp_path):
    own = trainer(tmp_path)
    batch = texts([Texts()[at] for at in range(3)])
    batch["labels"][1] = -100
    with torch.no_grad():
        scores = recipe_of(own).score(own.model.eval(), batch)
    assert scores.isnan().tolist() == [False, True, False]
    with pytest.raises(InvalidRecipe, match="no labels"):
        recipe_of(own).score(own.model, padded([Texts()[0]]))


# What is refused

ASKED = {
    "max_steps": 10,
    "train_sampling_strategy": "group_by_length",
    "dataloader_drop_last": True,
    "auto_find_batch_size": True,
    "load_best_model_at_end": True,
    "fp16": True,
    "neftune_noise_alpha": 5.0,
    "torch_compile": True,
    "use_liger_kernel": True,
    "fsdp": "full_shard",
    "deepspeed": {"zero_optimization": {"stage": 2}},
    "parallelism_config": object(),
    "accelerator_config": type("Config", (), {"gradient_accumulation_kwargs": {"num_steps": 2}})(),
    "push_to_hub": True,
    "resume_from_checkpoint": "out/checkpoint-500",
    "enable_jit_checkpoint": True,
    "debug": "underflow_overflow",
}
BESIDES = {
    "optim": "lomo",
    "lr_scheduler_type": "reduce_lr_on_plateau",
    "num_train_epochs": 2.5,
    "_n_gpu": 2,
}


def test_every_field_of_the_arguments_has_one_place():
    fields = {each.name for each in dataclasses.fields(transformers.TrainingArguments)}
    places = [*CARRIED, *IMMATERIAL, *REFUSED]
    assert sorted(places) == sorted(fields)


def test_what_cannot_be_carried_over_is_refused_by_name_all_at_once(tmp_path):
    own = trainer(tmp_path)
    assert not list(trainer_faults(own))
    assert ASKED.keys() == REFUSED.keys()
    for name, value in (ASKED | BESIDES).items():
        setattr(own.args, name, value)
    with pytest.raises(InvalidRecipe) as error:
        erasable(own, tmp_path / "run")
    for name in (*ASKED, *BESIDES):
        assert {"_n_gpu": "2 GPUs"}.get(name, f"{name}=") in error.value.message
    assert not (tmp_path / "run").exists()


def test_a_field_that_is_not_known_is_refused_where_it_is_set(tmp_path):
    @dataclasses.dataclass
    class Newer(transformers.TrainingArguments):
        packing: bool = False

    options = {"use_cpu": True, "report_to": "none"}
    assert not list(argument_faults(Newer(str(tmp_path), **options)))
    (fault,) = argument_faults(Newer(str(tmp_path), packing=True, **options))
    assert fault.startswith("packing=True")


class OwnStep(transformers.Trainer):
    def training_step(self, *given, **named):
        return super().training_step(*given, **named)


class Meddling(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **given):
        control.should_training_stop = True


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(Texts())


def test_what_a_trainer_does_in_a_way_of_its_own_is_refused_by_name(tmp_path):
    callbacks = [Meddling(), transformers.EarlyStoppingCallback()]
    own = trainer(tmp_path, kind=OwnStep, callbacks=callbacks)
    head = own.model.lm_head
    own.model.model.register_forward_hook(lambda *_: head.weight.sum() and None)
    own.train_dataset = Stream()
    with pytest.raises(InvalidRecipe) as error:
        erasable(own, tmp_path / "run")
    for word in ("training_step", "Meddling", "EarlyStoppingCallback", "Stream", "hook of"):
        assert word in error.value.message


class Annealed(transformers.Trainer):
    def compute_loss(self, model, inputs, **named):
        return super().compute_loss(model, inputs, **named) / (1 + self.state.global_step)


def test_a_loss_that_depends_on_the_step_is_refused_by_name(tmp_path):
    own = trainer(tmp_path, kind=Annealed)
    with pytest.raises(InvalidRecipe, match=r"state\.global_step"):
        erasable(own, tmp_path / "run", blocks=BLOCKS)
    assert own.state.global_step == 0


def test_weights_that_have_seen_the_people_are_refused(tmp_path):
    own = trainer(tmp_path)
    erasable(own, tmp_path / "run", blocks=BLOCKS)
    erasable(own, tmp_path / "run", blocks=BLOCKS)
    with pytest.raises(InvalidOption, match="steps already"):
        erasable(own, tmp_path / "other", blocks=BLOCKS)


def test_subjects_by_a_column_that_is_not_there(tmp_path):
    with pytest.raises(InvalidOption, match="'writer'"):
        erasable(trainer(tmp_path), tmp_path / "run", subjects="writer")
    with pytest.raises(InvalidOption, match="no Trainer"):
        erasable(llama(), tmp_path / "run")


def test_without_transformers_the_extra_is_named(monkeypatch):
    for name in list(sys.modules):
        if name.startswith("obliviate.integrations."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ExtraMissing, match=r"obliviate\[transformers\]") as error:
        importlib.import_module("obliviate.integrations.transformers")
    assert isinstance(error.value, ImportError)
    assert isinstance(error.value, ObliviateError)


def started_and_killed(folder):
    """Train in this process, with an adapter that begins like no other, and die in the middle."""
    torch.set_num_threads(1)
    folder = Path(folder)
    events = erasable.events(
        trainer(folder, partial(adapted, random.SystemRandom().randrange(1 << 30))),
        folder / "run",
        blocks=BLOCKS,
    )
    for event in events:
        if event.done == 3:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_process_is_followed_by_another(tmp_path):
    script = f"from tests.test_transformers import *; started_and_killed({str(tmp_path)!r})"
    ended = subprocess.run([sys.executable, "-c", script], check=False)
    assert ended.returncode == -signal.SIGKILL
    run = erasable(trainer(tmp_path, adapted), tmp_path / "run", blocks=BLOCKS)
    assert run.verify().passed
    first = erasable(trainer(tmp_path, adapted), tmp_path / "run", blocks=BLOCKS).chain().state(0)
    own = trainer(tmp_path, adapted).model
    begun = own.state_dict()
    assert any(not torch.equal(value, begun[name]) for name, value in first.items())
    own.load_state_dict({**begun, **first})
    again = erasable(trainer(tmp_path, own), tmp_path / "again", blocks=BLOCKS)
    assert again.digest == run.digest


def test_models_of_transformers_are_made_by_name():
    make = models.transformers(
        "GPT2LMHeadModel", vocab_size=9, n_positions=8, n_embd=8, n_layer=1, n_head=2
    )
    assert make() is not make()
    assert make()(torch.zeros(1, 4, dtype=torch.long)).logits.shape == (1, 4, 9)
    with pytest.raises(InvalidOption, match="has no model 'GPT9'"):
        models.transformers("GPT9")
