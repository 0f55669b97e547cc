"""What is called exact equals training without the erased, or it is not called so."""

from __future__ import annotations

import contextlib
import json
import textwrap
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from obliviate import errors
from obliviate.chain.reproduction import chosen_blocks
from obliviate.ledger import Entry
from tests import prepared
from tests.models import BLOCKS, CLASSES, Guarded, images, mlp, recipe, records_in

AS_SOON_AS_POSSIBLE = ob.DeepObliviate(epsilon=10.0)


@pytest.fixture
def run(tmp_path):
    return ob.fit(recipe(), images(), tmp_path / "run", blocks=BLOCKS)


def never(tmp_path, records, made=None, data=None):
    data = data or images()
    return ob.fit(made or recipe(), data, tmp_path / "never", blocks=BLOCKS, exclude=records)


# Which blocks tell


def entry(block, origin="trained", guarantee="exact", erasure=None):
    return Entry(block=block, origin=origin, guarantee=guarantee, digest="d", erasure=erasure)


def chain_of(entries):
    """A chain of which every state is kept."""
    return SimpleNamespace(entries=entries, is_held=lambda block: block >= 0)


def test_the_block_before_the_replay_is_compared():
    chain = [entry(block) for block in range(8)]
    assert chosen_blocks(chain_of(chain), 5, {5, 7}, set()) == [4]


def test_where_the_replay_begins_at_once_a_later_block_is_compared():
    chain = [entry(block) for block in range(8)]
    assert chosen_blocks(chain_of(chain), 1, {1, 2, 4}, set()) == [3]
    assert chosen_blocks(chain_of(chain), 1, set(range(1, 8)), set()) == [0]


def test_stretches_that_nobody_compared_are_compared_by_one_block_each():
    chain = [entry(0), entry(1), *(entry(at, "replayed", erasure=3) for at in (2, 3)), entry(4)]
    chain += [entry(5, "replayed", erasure=4), entry(6, "stitched", "approximate")]
    assert chosen_blocks(chain_of(chain), 6, set(), {3}) == [3, 5]
    assert chosen_blocks(chain_of(chain), 6, set(), {3, 4}) == [3, 4, 5]
    assert chosen_blocks(chain_of(chain), 6, set(), set()) == [5]


def test_an_exact_erasure_says_what_it_compared(run):
    (record,) = records_in(run, 4)
    run.forget(records=[record], method="exact")
    (facts,) = run.status().erasures
    assert facts.outcome.reproduced == (3,)


def test_a_fast_erasure_compares_nothing_and_settling_makes_up_for_it(run):
    (record,) = records_in(run, 2)
    fast = run.forget(records=[record], method=AS_SOON_AS_POSSIBLE)
    assert fast.guarantee == "approximate"
    settled = run.settle()
    assert settled.guarantee == "exact"
    first, second = run.status().erasures
    assert first.outcome.reproduced == ()
    assert second.outcome.reproduced == (1, fast.segments[-1][1])


# Where it cannot be reproduced


class Tilted(nn.Module):
    """Depends on something in the process that no list of settings has."""

    tilt = 1.0

    def __init__(self):
        super().__init__()
        self.body = mlp()

    def forward(self, x):
        return self.body(x) * Tilted.tilt


@pytest.mark.parametrize("blocks", [(4,), (1, 2), tuple(range(1, BLOCKS + 1))])
def test_what_cannot_be_reproduced_here_is_not_called_exact(tmp_path, monkeypatch, blocks):
    made = recipe(model=Tilted)
    run = ob.fit(made, images(), tmp_path / "run", blocks=BLOCKS)
    records = records_in(run, *blocks)
    monkeypatch.setattr(Tilted, "tilt", 1.001)
    erasure = ob.load(run.folder, made, images()).forget(records=records, method="exact")
    here = never(tmp_path, records, made)
    if erasure.guarantee == "exact":  # then all of it was trained here and now
        assert erasure.digest == here.digest
        assert len(blocks) == BLOCKS
    else:
        assert "not exact: block" in erasure.stop_reason
        assert "cannot be reproduced here" in erasure.stop_reason
        assert run.guarantee == "approximate"


def test_what_a_fast_erasure_replayed_elsewhere_is_not_settled_as_exact(tmp_path, monkeypatch):
    made = recipe(model=Tilted)
    run = ob.fit(made, images(), tmp_path / "run", blocks=BLOCKS)
    (record,) = records_in(run, 2)
    monkeypatch.setattr(Tilted, "tilt", 1.001)
    run.forget(records=[record], method=AS_SOON_AS_POSSIBLE)
    settled = run.settle()
    assert settled.guarantee == "approximate"
    assert "block 1 cannot be reproduced here" in settled.stop_reason


def test_a_fast_erasure_that_comes_to_the_end_is_compared_too(tmp_path, monkeypatch):
    made = recipe(model=Tilted)
    run = ob.fit(made, images(), tmp_path / "run", blocks=BLOCKS)
    (record,) = records_in(run, BLOCKS)
    monkeypatch.setattr(Tilted, "tilt", 1.001)
    assert run.forget(records=[record]).guarantee == "approximate"


def test_where_nothing_can_be_compared_it_is_said(run):
    (record,) = records_in(run, 5)
    run.vault.destroy(run.chain().entries[3].update.key)  # block 4 has a keyframe of its own
    erasure = run.forget(records=[record], method="exact")
    assert erasure.guarantee == "approximate"
    assert "block 4 could not be trained again to compare it" in erasure.stop_reason


def test_where_the_data_cannot_be_read_any_more_it_is_said(tmp_path):
    data = Guarded(images())
    run = ob.fit(recipe(), data, tmp_path / "run", blocks=BLOCKS)
    (record,) = records_in(run, 4)
    sampled = set(run.facts.samples)
    data.forbidden = {at for at in run.trainer.layout.members(3).tolist() if at not in sampled}
    erasure = run.forget(records=[record], method="exact")
    assert erasure.guarantee == "approximate"
    assert "block 3 could not be trained again" in erasure.stop_reason


# Records that are not what they were


class Corrected(Dataset):
    """Some records say something else than they did."""

    def __init__(self, data, records=()):
        self.data, self.records = data, set(records)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        x, y = self.data[index]
        return (x + 1, y) if index in self.records else (x, y)


def corrected(tensors, records):
    inputs, targets = tensors.tensors
    inputs = inputs.clone()
    inputs[records] += 1
    return TensorDataset(inputs, targets)


@pytest.mark.parametrize("kind", ["tensors", "records"])
def test_a_record_that_was_corrected_is_noticed(tmp_path, kind):
    data = images() if kind == "tensors" else Corrected(images())
    run = ob.fit(recipe(), data, tmp_path / "run", blocks=BLOCKS)
    late = [
        each for each in run.trainer.layout.members(5).tolist() if each not in run.facts.samples
    ]
    (gone,) = records_in(run, 4)
    new = corrected(images(), late[:1]) if kind == "tensors" else Corrected(images(), late[:1])
    later = ob.load(run.folder, recipe(), new)
    erasure = later.forget(records=[gone], method="exact")
    assert erasure.guarantee == "approximate"
    assert f"1 record of block 5 changed since then: {late[0]}" in erasure.stop_reason
    # from now on the corrected record is what was trained on
    settled = later.settle()
    assert settled.guarantee == "exact"
    assert settled.digest == never(tmp_path, [gone], data=new).digest


def test_a_record_in_the_block_that_is_compared_is_named(tmp_path, run):
    middle = [at for at in run.trainer.layout.members(3).tolist() if at not in run.facts.samples]
    (gone,) = records_in(run, 4)
    later = ob.load(run.folder, recipe(), corrected(images(), middle[:2]))
    erasure = later.forget(records=[gone], method="exact")
    assert erasure.guarantee == "approximate"
    assert "2 records of block 3 changed since then" in erasure.stop_reason


@pytest.mark.parametrize("repeats", [1, 2])
def test_augmented_records_are_known_again(tmp_path, repeats):
    class Noisy(Corrected):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + torch.randn(x.shape) * 0.1, int(y)

    made = recipe(repeats=repeats)
    run = ob.fit(made, Noisy(images()), tmp_path / "run", blocks=BLOCKS)
    records = records_in(run, 2, each=3)
    erasure = run.forget(records=records, method="exact")
    assert erasure.guarantee == "exact"
    assert erasure.digest == never(tmp_path, records, made, Noisy(images())).digest


def test_all_of_the_data_can_be_compared(run):
    members = [at for at in range(72) if at not in run.facts.samples]
    (gone,) = records_in(run, 4)
    run.forget(records=[gone], method="exact")
    assert run.verify(data=True).passed
    changed = [at for at in members if at != gone][:7]
    guarded = Guarded(corrected(images(), changed))
    guarded.forbidden = {gone}
    found = ob.load(run.folder, recipe(), guarded).verify(blocks=range(1, 7), data=True)
    named = " ".join(found.changed.values())
    assert not found.passed
    assert all(f" {record}" in named for record in changed)
    assert sum(int(said.split()[0]) for said in found.changed.values()) == len(changed)


def test_hashes_of_erased_records_are_gone(run):
    block = 4
    members = run.trainer.layout.members(block)
    assert (run.chain().contents(block) != 0).all()
    run.forget(records=members[:2].tolist(), method="exact")
    known = run.chain().contents(block)
    assert (known[:2] == 0).all()
    assert (known[2:] != 0).all()


def test_a_dataset_in_tensors_and_one_of_records_have_the_same_hashes(run):
    listed = Corrected(images())
    later = ob.load(run.folder, recipe(), listed)
    assert later.verify(blocks=[1], data=True).passed


# The recipe


CHANGED = {
    "weights of classes": (
        {"loss": nn.CrossEntropyLoss(weight=torch.ones(CLASSES))},
        {"loss": nn.CrossEntropyLoss(weight=torch.arange(1.0, CLASSES + 1))},
    ),
    "weights in a partial": (
        {"loss": partial(nn.functional.cross_entropy, weight=torch.ones(CLASSES))},
        {"loss": partial(nn.functional.cross_entropy, weight=torch.arange(1.0, CLASSES + 1))},
    ),
    "schedule between the ends": (
        {"schedule": lambda step, total: 1.0 if step < 8 else 0.1},
        {"schedule": lambda step, total: 1.0 if step < 14 else 0.1},
    ),
    "a frozen layer": (
        {"model": mlp},
        {"model": lambda: mlp().requires_grad_(True)},
    ),
    "smallest batch": ({}, {"smallest_batch": 2}),
}


def weighted(weights):
    return lambda outputs, targets: nn.functional.cross_entropy(outputs, targets, weight=weights)


def half_frozen():
    model = mlp()
    model[1].requires_grad_(False)
    return model


CHANGED["weights in a closure"] = (
    {"loss": weighted(torch.ones(CLASSES))},
    {"loss": weighted(torch.arange(1.0, CLASSES + 1))},
)
CHANGED["a frozen layer"] = ({"model": mlp}, {"model": half_frozen})


@pytest.mark.parametrize("what", CHANGED)
def test_another_recipe_is_refused(tmp_path, what):
    before, after = CHANGED[what]
    run = ob.fit(recipe(**before), images(), tmp_path / "run", blocks=BLOCKS)
    with pytest.raises(errors.ForeignRecipe):
        ob.load(run.folder, recipe(**after), images())
    assert ob.load(run.folder, recipe(**before), images()).digest == run.digest


def test_a_schedule_is_asked_for_steps_that_there_are(tmp_path):
    """Not for the step after the last one, where many divide by zero."""
    made = recipe(schedule=lambda step, total: 1 / (total - step))
    run = ob.fit(made, images(), tmp_path / "run", blocks=BLOCKS)
    assert ob.load(run.folder, made, images()).digest == run.digest


# The process


SWITCHES = {
    "matmul precision": "torch.set_float32_matmul_precision('medium')",
    "mkldnn": "torch.backends.mkldnn.enabled = False",
    "mkldnn in half": "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'; "
    "torch.backends.mkldnn.conv.fp32_precision = 'bf16'",
    "default dtype": "torch.set_default_dtype(torch.float64)",
    "flush denormals": "torch.set_flush_denormal(True)",
    "attention": "torch.backends.cuda.enable_flash_sdp(False); "
    "torch.backends.cuda.enable_mem_efficient_sdp(False)",
    "mha fast path": "torch.backends.mha.set_fastpath_enabled(False)",
    "nnpack": "torch.backends.nnpack.set_flags(False)",
    "threads": "torch.set_num_threads(2)",
    "warn only": "torch.use_deterministic_algorithms(True, warn_only=True)",
    "autocast": "torch.set_autocast_enabled('cpu', True)",
}


class Mixed(nn.Module):
    """A convolution, attention, and numbers that are nearly too small."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.attention = nn.TransformerEncoderLayer(64, 4, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x):
        x = x.to(self.head.weight.dtype)
        h = torch.relu(self.conv(x)).flatten(2) * 1e-30
        return self.head(self.attention(h * 1e30).mean(1))


@contextlib.contextmanager
def switched(code):
    """The process with one setting changed, and then as it was."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    try:
        exec(code)
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.use_deterministic_algorithms(False)
        torch.set_autocast_enabled("cpu", False)
        torch.set_flush_denormal(False)
        torch.backends.mkldnn.enabled = True
        torch.set_float32_matmul_precision("highest")
        torch.backends.mkldnn.matmul.fp32_precision = "none"
        torch.backends.mkldnn.conv.fp32_precision = "none"
        torch.backends.cuda.enable_flash_sdp(True)
        torch.backends.cuda.enable_mem_efficient_sdp(True)
        torch.backends.mha.set_fastpath_enabled(True)
        torch.backends.nnpack.set_flags(True)


def mixed(**options):
    return recipe(model=Mixed, optimizer="adam-fresh", repeats=1, **options)


@pytest.mark.parametrize("when", ["while it was made", "while it is erased"])
@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_that_is_set_once_only_makes_no_difference(tmp_path, name, when):
    """Whatever one of the two processes sets, the run is trained as when it was made."""
    at_first = SWITCHES[name] if when == "while it was made" else "pass"
    later = SWITCHES[name] if when == "while it is erased" else "pass"
    data = images(records=30)
    with switched(at_first):
        run = ob.fit(mixed(), data, tmp_path / "run", blocks=3)
        (record,) = records_in(run, 2)
        other = ob.fit(mixed(), data, tmp_path / "never", blocks=3, exclude=[record])
    with switched(later):
        erasure = ob.load(run.folder, mixed(), data).forget(records=[record], method="exact")
        assert erasure.guarantee == "exact"
        assert erasure.digest == other.digest
        assert run.verify().passed


class Computing(Dataset):
    """Features that are summed by several threads, where there are several."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.signals = torch.randn(12, 200_000, generator=generator)
        self.bank = torch.randn(6, 200_000, generator=generator) / 400

    def __len__(self):
        return len(self.signals)

    def __getitem__(self, index):
        signal = self.signals[index]
        return torch.cat([self.bank @ signal, signal.square().mean()[None]]), index % 3


WORKERS = """
import json, sys, torch
torch.set_num_threads(2)
import obliviate as ob
from functools import partial
from tests.test_reproduction import Computing
from torch import nn
folder, made, used = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def recipe(workers):
    return ob.Recipe(model=partial(nn.Linear, 7, 3), optimizer=partial(torch.optim.SGD, lr=0.05),
                     loss=nn.functional.cross_entropy, batch_size=3, workers=workers)
data = Computing()
run = ob.fit(recipe(made), data, folder + "/run", blocks=3)
record = int(run.trainer.layout.members(2)[0])
erasure = ob.load(folder + "/run", recipe(used), data).forget(records=[record], method="exact")
never = ob.fit(recipe(made), data, folder + "/never", blocks=3, exclude=[record])
print(json.dumps([erasure.guarantee, erasure.digest == never.digest]))
"""


@pytest.mark.parametrize(("made", "used"), [(0, 2), (2, 0)])
def test_data_is_computed_with_the_threads_it_was(tmp_path, made, used):
    program = textwrap.dedent(WORKERS)
    ran = prepared.run(["python", "-c", program, tmp_path, made, used])
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == ["exact", True]


# requires_grad


class Thawing(nn.Module):
    """Unfreezes its body after some steps, counted in a buffer."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(64, 8).requires_grad_(False), nn.Linear(8, CLASSES)
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x):
        if self.training:
            self.steps += 1
            if int(self.steps) == 7:
                self.body.requires_grad_(True)
        return self.head(torch.relu(self.body(x.flatten(1))))


def test_a_model_that_thaws_while_it_is_trained_is_refused_by_name(tmp_path):
    with pytest.raises(errors.InvalidRecipe, match=r"changed requires_grad of 'body.weight'"):
        ob.fit(recipe(model=Thawing), images(), tmp_path / "run", blocks=BLOCKS)


def test_another_environment_is_told_in_words(run):
    environment = dict(run.facts.environment) | {"torch": "1.0"}
    run.writer.facts = replace(run.facts, environment=environment)
    (record,) = records_in(run, 3)
    erasure = run.forget(records=[record], method="exact")
    assert erasure.guarantee == "approximate"
    assert f"not exact: the run was made with torch 1.0, not {torch.__version__}" in (
        erasure.stop_reason
    )
    assert np.isfinite(erasure.seconds)
