"""Lightning: a run trains what `Trainer.fit` would, bit for bit, and forgets exactly."""

import copy
import importlib
import os
import signal
import sys
from dataclasses import replace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.loggers.logger import Logger
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, WeightedRandomSampler

import obliviate as ob
from obliviate.errors import ExtraMissing, InvalidOption, InvalidRecipe, TrainingFailed
from obliviate.integrations.lightning import erasable, recipe_of
from tests.lightning_fits import BLOCKS, EPOCHS, SIZE, fitted, is_same, loader, made, trainer
from tests.lightning_modules import (
    Adversaries,
    Asking,
    ByEpochs,
    Classifier,
    Composed,
    Cooling,
    Copying,
    Counted,
    Counting,
    Data,
    Fragile,
    Gathering,
    Heating,
    Hooked,
    OneCycle,
    Reused,
    Skipping,
    Stopping,
    Told,
    halved,
    records,
)
from tests.prepared import PROCESSES

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`"),
    pytest.mark.filterwarnings("ignore:.*You defined a `validation_step` but have no `val_data"),
    pytest.mark.filterwarnings("ignore:.*number of training batches .* is smaller than"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]


CASES = {
    "composed": (Composed, {}),
    "one cycle, clipping": (OneCycle, {"gradient_clip_val": 0.3}),
    "accumulation, bf16": (
        Reused,
        {"accumulate_grad_batches": 4, "precision": "bf16-mixed", "gradient_clip_val": 0.5},
    ),
    "accumulation of three": (Classifier, {"accumulate_grad_batches": 3}),
    "by epochs": (ByEpochs, {"accumulate_grad_batches": 2}),
    "hooks": (Hooked, {}),
    "manual": (Adversaries, {}),
    "manual, bf16": (Adversaries, {"precision": "bf16-mixed"}),
}


SLOW = {"accumulation of three", "manual, bf16"}


@pytest.mark.parametrize(
    "case", [pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in CASES]
)
def test_a_run_is_lightnings_own_fit(case, tmp_path):
    kind, options = CASES[case]
    module = made(kind)
    before = copy.deepcopy(module)
    run = erasable(trainer(**options), module, tmp_path / "run", data=loader(), blocks=BLOCKS)
    by_lightning = fitted(copy.deepcopy(module), run.trainer.layout, **options)
    assert is_same(run.model, by_lightning)
    assert is_same(module, before)
    assert not torch.equal(*(next(each.parameters()) for each in (run.model, before)))
    never = erasable(
        trainer(**options), module, tmp_path / "never", data=loader(), blocks=BLOCKS, exclude=[5, 8]
    )
    assert run.forget(records=[5, 8], method="exact").digest == never.digest
    assert run.guarantee == "exact"


def test_a_person_is_forgotten_from_a_data_module(tmp_path):
    people = [f"user-{number // 4}" for number in range(len(records()))]
    given = {"datamodule": Data(), "subjects": people, "blocks": BLOCKS}
    run = erasable(trainer(), made(Classifier), tmp_path / "run", **given)
    gone = [each for each, person in enumerate(people) if person == "user-7"]
    never = erasable(trainer(), made(Classifier), tmp_path / "never", exclude=gone, **given)
    assert run.forget(subjects=["user-7"], method="exact").digest == never.digest
    doubled = records()
    doubled.tensors = (doubled.tensors[0] * 2, doubled.tensors[1])
    plain = loader(doubled, batch_size=8)
    same = erasable(
        trainer(), made(Classifier), tmp_path / "same", data=plain, subjects=people, blocks=BLOCKS
    )
    assert run.chain().entries[0].digest == same.chain().entries[0].digest
    assert never.trainer.layout.batch_size == 8
    assert erasable(trainer(), made(Classifier), tmp_path / "run", **given).digest == run.digest


def fragile(folder, seed):
    torch.manual_seed(seed)
    return erasable(trainer(), Fragile(), folder, data=loader(), blocks=BLOCKS)


def stopped():
    raise RuntimeError("the power is out")


def killed(folder):
    Fragile.fate = staticmethod(lambda: os.kill(os.getpid(), signal.SIGKILL))
    fragile(folder, seed=3)


def test_training_goes_on_where_it_was(tmp_path, monkeypatch):
    whole = fragile(tmp_path / "whole", seed=3)
    with monkeypatch.context() as patch:
        patch.setattr(Fragile, "fate", staticmethod(stopped))
        with pytest.raises(TrainingFailed, match="the power is out"):
            fragile(tmp_path / "run", seed=3)
    resumed = fragile(tmp_path / "run", seed=99)
    assert resumed.digest == whole.digest
    assert resumed.verify().passed


def test_records_are_collated_by_the_loaders_own_function(tmp_path):
    given = {"data": loader(collate_fn=halved), "blocks": BLOCKS}
    run = erasable(trainer(), made(Classifier), tmp_path / "run", **given)
    plain = fragile(tmp_path / "plain", seed=3)
    assert not is_same(run.model, plain.model)
    never = erasable(trainer(), made(Classifier), tmp_path / "never", exclude=[9], **given)
    assert run.forget(records=[9], method="exact").digest == never.digest


def test_a_recipe_adds_what_lightning_lacks(tmp_path):
    recipe = recipe_of(trainer(), made(Classifier), data=loader(), blocks=BLOCKS)
    averaged, data = replace(recipe, ema=0.9), recipe.plan.data
    run = ob.fit(averaged, data, tmp_path / "run", blocks=BLOCKS)
    plain = ob.fit(recipe, data, tmp_path / "plain", blocks=BLOCKS)
    never = ob.fit(averaged, data, tmp_path / "never", blocks=BLOCKS, exclude=[9])
    assert not is_same(run.model, plain.model)
    assert run.forget(records=[9], method="exact").digest == never.digest
    with pytest.raises(InvalidRecipe, match="gradient_clip_val"):
        replace(recipe, clip_norm=1.0)


@pytest.mark.slow
def test_a_killed_process_is_followed_by_another(tmp_path):
    child = PROCESSES.Process(target=killed, args=(tmp_path / "run",))
    child.start()
    child.join(300)
    assert child.exitcode == -signal.SIGKILL
    assert fragile(tmp_path / "run", 99).digest == fragile(tmp_path / "whole", 3).digest


# What cannot be carried over


class Watching(L.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        pass


def test_all_that_a_script_asks_for_is_refused_in_one_error(tmp_path):
    asked = trainer(
        max_epochs=-1,
        max_steps=7,
        limit_train_batches=0.5,
        reload_dataloaders_every_n_epochs=1,
        precision="64-true",
        callbacks=[EarlyStopping("loss"), Timer("00:01:00:00"), Watching()],
    )
    batches = loader(drop_last=True, shuffle=False, worker_init_fn=print)
    with pytest.raises(InvalidRecipe) as caught:
        erasable(asked, Told(), tmp_path / "run", data=batches)
    for word in (
        "max_epochs is -1",
        "max_steps=7",
        "limit_train_batches=0.5",
        "reload_dataloaders_every_n_epochs=1",
        "64-true",
        "EarlyStopping",
        "Timer",
        "Watching (on_train_batch_end)",
        "lr_scheduler_step",
        "drop_last",
        "worker_init_fn",
    ):
        assert word in caught.value.message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"devices": 2}, "DDPStrategy on 2 devices"),
        ({"fast_dev_run": True}, "fast_dev_run"),
        ({"overfit_batches": 2}, "overfit_batches=2"),
        ({"callbacks": [StochasticWeightAveraging(0.1)]}, "StochasticWeightAveraging"),
        ({"callbacks": [EMAWeightAveraging()]}, "EMAWeightAveraging"),
        ({"callbacks": [GradientAccumulationScheduler({1: 2})]}, "GradientAccumulationScheduler"),
    ],
)
def test_what_a_trainer_does_beside_training_is_refused(options, word, tmp_path):
    assert word in refused(Classifier(), tmp_path, **options)


def test_callbacks_that_look_on_do_not_matter():
    watching = trainer(
        callbacks=[LearningRateMonitor(), ModelCheckpoint(), Timer()], enable_checkpointing=True
    )
    assert recipe_of(watching, Classifier(), data=loader(), blocks=BLOCKS).epochs == EPOCHS


def refused(module, tmp_path, *, error=InvalidRecipe, data=None, **options):
    with pytest.raises(error) as caught:
        erasable(trainer(**options), module, tmp_path / "run", data=data or loader(), blocks=BLOCKS)
    assert not (tmp_path / "run").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("batches", "word"),
    [
        (None, "training data is missing"),
        (records(), "a TensorDataset"),
        ([loader()], "a list"),
        (DataLoader(records(), batch_size=None), "batch_sampler"),
        (
            DataLoader(
                records(), batch_sampler=type("Own", (BatchSampler,), {})(range(48), 4, False)
            ),
            "batch_sampler Own",
        ),
        (
            DataLoader(records(), sampler=WeightedRandomSampler(torch.ones(48), 48)),
            "WeightedRandomSampler",
        ),
    ],
)
def test_batches_of_another_making_are_refused(batches, word, tmp_path):
    with pytest.raises(InvalidRecipe, match=word):
        erasable(trainer(), Classifier(), tmp_path / "run", data=batches)


def test_a_loader_in_order_is_dealt_as_any_other(tmp_path):
    in_order = DataLoader(records(), batch_size=SIZE, sampler=SequentialSampler(records()))
    assert recipe_of(trainer(), Classifier(), data=in_order, blocks=BLOCKS).batch_size == SIZE


def test_a_schedule_by_a_metric_is_refused(tmp_path):
    class ByMetric(Classifier):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            scheduler = ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "loss"}

    assert "goes by the metric 'loss'" in refused(ByMetric(), tmp_path)


def test_a_schedule_over_fewer_steps_is_refused(tmp_path):
    class Short(Classifier):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            cycle = OneCycleLR(optimizer, max_lr=0.1, total_steps=13)
            return [optimizer], [{"scheduler": cycle, "interval": "step"}]

    said = refused(Short(), tmp_path)
    assert "OneCycleLR at step 14 of 24" in said
    assert "estimated_stepping_batches" in said


def test_schedulers_of_manual_optimization_are_refused(tmp_path):
    class Scheduled(Adversaries):
        def configure_optimizers(self):
            first, second = super().configure_optimizers()
            return [first, second], [StepLR(first, 1)]

    assert "stepped by training_step" in refused(Scheduled(), tmp_path)


def test_what_manual_optimization_does_not_know_is_refused(tmp_path):
    said = refused(Adversaries(), tmp_path, gradient_clip_val=0.1, accumulate_grad_batches=2)
    assert "gradient_clip_val=0.1" in said
    assert "accumulate_grad_batches=2" in said


def test_several_optimizers_take_manual_optimization(tmp_path):
    class Two(Classifier):
        def configure_optimizers(self):
            return [super().configure_optimizers(), torch.optim.SGD(self.parameters(), lr=0.1)]

    assert "only supported with manual" in refused(Two(), tmp_path, error=TrainingFailed)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (Asking, "trainer.callback_metrics"),
        (Stopping, "trainer.should_stop"),
        (Skipping, "on_train_batch_start gave -1"),
        (Counting, "changes seen"),
        (Cooling, "on_train_epoch_end changes heat"),
        (Heating, "on_train_epoch_start changes heat each time"),
        (Copying, "on_train_epoch_end changes parameters"),
        (Counted, "trainer.global_step with manual"),
    ],
)
def test_what_a_module_keeps_outside_its_state_is_refused(kind, word, tmp_path):
    assert word in refused(made(kind), tmp_path)


def test_gradients_gathered_by_hand_are_refused(tmp_path):
    with pytest.raises(InvalidRecipe, match="gradients that earlier batches left"):
        erasable(trainer(), made(Gathering), tmp_path / "run", data=loader(), blocks=BLOCKS)


def test_a_trainer_that_has_trained_is_refused(tmp_path):
    trained = trainer(max_epochs=1)
    module = made(Classifier)
    trained.fit(module, loader())
    with pytest.raises(InvalidOption, match="12 steps already"):
        erasable(trained, module, tmp_path / "run", data=loader(), blocks=BLOCKS)


def test_data_is_given_once(tmp_path):
    with pytest.raises(InvalidOption, match="both given"):
        erasable(trainer(), Classifier(), tmp_path, data=loader(), datamodule=Data())


@pytest.mark.parametrize("given", [(None, Classifier()), (trainer(), torch.nn.Linear(2, 2))])
def test_other_things_than_lightnings_are_refused(given, tmp_path):
    with pytest.raises(InvalidOption, match="of Lightning"):
        erasable(*given, tmp_path / "run", data=loader())


def test_without_lightning_the_extra_is_named(monkeypatch):
    for name in [each for each in sys.modules if each.startswith("obliviate.integrations")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(ExtraMissing, match=r"lightning\.pytorch") as caught:
        importlib.import_module("obliviate.integrations.lightning")
    assert "obliviate[lightning]" in caught.value.hint


# What is told


class Heard(Logger):
    def __init__(self):
        super().__init__()
        self.metrics = []

    name, version = "heard", 0

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, metrics.get("loss")))


def test_loggers_hear_what_they_would_from_lightning(tmp_path):
    ours, theirs = Heard(), Heard()
    module, options = made(Classifier), {"log_every_n_steps": 3}
    run = erasable(
        trainer(logger=ours, **options), module, tmp_path / "run", data=loader(), blocks=BLOCKS
    )
    fitted(copy.deepcopy(module), run.trainer.layout, logger=theirs, **options)
    assert ours.metrics == theirs.metrics
    assert len(ours.metrics) > 5
    run.forget(records=[7], method="exact")
    assert ours.metrics == theirs.metrics


def test_the_model_of_a_run_goes_back_to_a_trainer(tmp_path):
    run = erasable(trainer(), made(Classifier), tmp_path / "run", data=loader(), blocks=BLOCKS)
    (measured,) = trainer().validate(run.model, loader(shuffle=False), verbose=False)
    assert measured["accuracy"] > 0.5
