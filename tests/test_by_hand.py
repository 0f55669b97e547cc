"""`fit` gives, bit for bit, what a loop written by hand gives over the same batches.

The loop below is written as people write theirs, without anything of the project's trainer: it
takes from the layout which records are in which batch, and from the documents that all generators
are seeded before each step. What people do in a step is in `FEATURES`.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import random
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from obliviate.recipe.deal import key
from tests.models import cosine

RECORDS, WIDTH, CLASSES, BLOCKS = 96, 12, 3, 4
SGD = partial(torch.optim.SGD, lr=0.1)


def mlp():
    return nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Linear(16, CLASSES))


def dropping():
    return nn.Sequential(nn.Linear(WIDTH, 16), nn.Dropout(0.4), nn.ReLU(), nn.Linear(16, CLASSES))


def normalised():
    return nn.Sequential(
        nn.Linear(WIDTH, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES)
    )


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(WIDTH, 8, bias=False), nn.Linear(8, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.out.weight = nn.Parameter(self.into.weight.detach().t().clone())
        self.into.weight = nn.Parameter(self.into.weight.detach().clone())
        self.again = nn.Linear(WIDTH, 8, bias=False)
        self.again.weight = self.into.weight

    def forward(self, x):
        return self.head(self.out(torch.tanh(self.into(x) + self.again(x * 0.5))))


def frozen():
    model = mlp()
    model[0].requires_grad_(False)
    return model


class Averaged(nn.Module):
    """Keeps an average of its weights in a second module, as a part of itself."""

    def __init__(self):
        super().__init__()
        self.live, self.slow = mlp(), mlp().requires_grad_(False)
        self.slow.load_state_dict(self.live.state_dict())

    def forward(self, x):
        return self.live(x)

    def follow(self):
        with torch.no_grad():
            for slow, live in zip(self.slow.parameters(), self.live.parameters(), strict=True):
                slow.lerp_(live, 0.1)


class Router(nn.Module):
    """Two experts; each layer reports a loss of its own into a list that all share."""

    def __init__(self, losses):
        super().__init__()
        self.gate, self.losses = nn.Linear(WIDTH, 2), losses
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, x):
        shares = self.gate(x).softmax(-1)
        self.losses.append(shares.mean(0).square().sum())
        return sum(shares[:, at, None] * each(x) for at, each in enumerate(self.experts))


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.losses = []
        self.layers = nn.ModuleList(Router(self.losses) for _ in range(2))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        self.losses.clear()
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


REPORTED = []  # a list outside of the model


class Reporting(nn.Module):
    """Reports into a list that only a function outside reads."""

    def __init__(self):
        super().__init__()
        self.body, self.into = mlp(), REPORTED

    def forward(self, x):
        self.into[:] = [self.body[0](x).square().mean()]
        return self.body(x)


class Rows(nn.Module):
    """Sparse embeddings of the signs of the features."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(2 * WIDTH, 8, sparse=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        at = torch.arange(WIDTH) * 2 + (x > 0).long()
        return self.head(self.table(at).mean(1))


class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = mlp()
        self.body[0].register_forward_hook(lambda module, given, made: made * 1.5)
        self.body[2].weight.register_hook(lambda gradient: gradient.clamp(-0.05, 0.05))

    def forward(self, x):
        return self.body(x)


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = dropping(), nn.Linear(CLASSES, CLASSES)

    def forward(self, x):
        return self.head(checkpoint(self.body, x, use_reentrant=False))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.cell(x.reshape(-1, 3, 4))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(self.layer(x.reshape(-1, 3, 4)).mean(1))


def compiled():
    return torch.compile(mlp(), backend="aot_eager")


def spectral():
    first = nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, 16))
    return nn.Sequential(first, nn.Tanh(), nn.Linear(16, CLASSES))


# Steps


def in_half(model, batch):
    inputs, targets = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(inputs)
    return F.cross_entropy(outputs.float(), targets)


def twice_in_half(model, batch):
    """Two passes under autocast, one without it."""
    inputs, targets = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = model(inputs)
        with torch.autocast("cpu", enabled=False):
            second = model(inputs)
    return F.cross_entropy(first.float() + second, targets)


def accumulating(model, batch):
    """Gathers the gradients of two halves; the last one is left to the trainer."""
    inputs, targets = batch
    half = len(inputs) // 2
    if half:
        (F.cross_entropy(model(inputs[:half]), targets[:half]) / 2).backward()
    return F.cross_entropy(model(inputs[half:]), targets[half:]) / 2


def averaging(model, batch):
    model.follow()
    return F.cross_entropy(model(batch[0]), batch[1])


def penalised(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1]) + 3 * sum(model.losses)


def reported(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1]) + 3 * sum(REPORTED)


def mixing(model, batch):
    """Mixup, with numpy's and torch's generators."""
    inputs, targets = batch
    share, order = float(np.random.beta(1, 1)), torch.randperm(len(inputs))
    outputs = model(share * inputs + (1 - share) * inputs[order])
    return share * F.cross_entropy(outputs, targets) + (1 - share) * F.cross_entropy(
        outputs, targets[order]
    )


def adversarial(model, batch):
    """Takes a gradient of its own with regard to the inputs."""
    inputs = batch[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(inputs), batch[1]), inputs)
    return F.cross_entropy(model(inputs.detach() + 0.1 * gradient.sign()), batch[1])


def at_times(model, batch):
    """Has nothing to learn from some batches."""
    return None if batch[0][0, 0] > 0.5 else F.cross_entropy(model(batch[0]), batch[1])


def overflowing(model, batch):
    """Has gradients now and then that fp16 cannot hold."""
    outputs = model(batch[0])
    if batch[0][0, 0] > 1:
        outputs.register_hook(lambda gradient: gradient * float("inf"))
    return F.cross_entropy(outputs, batch[1])


def tokens(batch):
    """How many of the records count: those with a target other than 0."""
    return (batch[1] != 0).sum()


def counted(model, batch):
    """A mean over some of the records."""
    return F.cross_entropy(model(batch[0]), batch[1], ignore_index=0)


def divided(model, batch, items):
    """A part of the whole batch's mean."""
    return F.cross_entropy(model(batch[0]), batch[1], ignore_index=0, reduction="sum") / items


class Painter(nn.Module):
    """Draws inputs that a critic should take for real ones."""

    def __init__(self):
        super().__init__()
        self.painter = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, WIDTH))
        self.critic = nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Linear(16, 1))


def painting(model, batch, optimizers):
    """Two losses, each with a step of its own."""
    paint, criticise = optimizers
    drawn, real = model.painter(torch.randn(len(batch[0]), 4)), batch[0]
    criticise.zero_grad()
    wrong = F.softplus(model.critic(drawn.detach())).mean()
    (F.softplus(-model.critic(real)).mean() + wrong).backward()
    criticise.step()
    paint.zero_grad()
    loss = F.softplus(-model.critic(drawn)).mean()
    loss.backward()
    paint.step()
    return loss.detach()


def two(model):
    """One optimizer for each half."""
    first, *_, last = model.children()
    return torch.optim.Adam(first.parameters(), lr=0.01), SGD(last.parameters(), momentum=0.9)


# Optimizers


def clipped(parameters):
    parameters = list(parameters)
    optimizer = SGD(parameters)
    optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(parameters, 0.1) and None)
    return optimizer


def head_of(parameters):
    """Trains the head alone, and clips by the norm over everything."""
    parameters = list(parameters)
    optimizer = SGD(parameters[2:])
    optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(parameters, 0.1) and None)
    return optimizer


def grouped(parameters):
    parameters = list(parameters)
    decayed = {"params": [each for each in parameters if each.ndim > 1], "weight_decay": 0.1}
    other = {"params": [each for each in parameters if each.ndim < 2], "lr": 0.03}
    return torch.optim.AdamW([decayed, other | {"weight_decay": 0.0}], lr=0.01)


def by_name(model):
    """Decays the weights of the first layer alone, and trains the last one slower."""
    named = dict(model.named_parameters())
    rest = [each for name, each in named.items() if name.startswith("0.bias")]
    groups = [
        {"params": [named["0.weight"]], "weight_decay": 0.1},
        {"params": rest},
        {"params": list(model[2].parameters()), "lr": 0.003},
    ]
    return torch.optim.AdamW(groups, lr=0.01, weight_decay=0.0)


def warm_cosine(optimizer, total_steps):
    warm = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=6)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, total_steps - 6)
    return lr_scheduler.SequentialLR(optimizer, [warm, cosine], [6])


def chained(optimizer):
    both = [lr_scheduler.ConstantLR(optimizer, 0.5, 7), lr_scheduler.ExponentialLR(optimizer, 0.97)]
    return lr_scheduler.ChainedScheduler(both)


def by_group(optimizer, total_steps):
    falling = [lambda step: 1 - step / total_steps, lambda step: 1 / (1 + step)]
    return lr_scheduler.LambdaLR(optimizer, falling)


class Gathering(torch.optim.SGD):
    """Makes a step at every second call, with the gradients of both."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr=lr)
        self.calls = 0

    def zero_grad(self, set_to_none=True):
        if self.calls % 2 == 0:
            super().zero_grad(set_to_none)

    def step(self, closure=None):
        self.calls += 1
        if self.calls % 2 == 0:
            super().step()


class Noisy(Dataset):
    """Augments by all generators, and gives mappings."""

    def __init__(self, data, kind=dict):
        self.data, self.kind = data, kind

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        inputs, target = self.data[index]
        noise = 0.1 * torch.randn(WIDTH) + random.random() + float(np.random.rand())
        return self.kind(inputs=inputs + noise, target=target)


def of_mapping(model, batch):
    return F.cross_entropy(model(batch["inputs"]), batch["target"])


class Sentences(Dataset):
    """Gives mappings with lists of words, of one length or another."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        inputs, target = self.data[index]
        words = [2 * at + int(each > 0) for at, each in enumerate(inputs.tolist())]
        return {"words": words[: 3 + index % 7], "label": int(target)}


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(2 * WIDTH, 8), nn.Linear(8, CLASSES)

    def forward(self, words, mask):
        return self.head((self.table(words) * mask[..., None]).sum(1) / mask.sum(1)[:, None])


def padded(records):
    longest = max(len(each["words"]) for each in records)
    words = [[*each["words"], *[0] * (longest - len(each["words"]))] for each in records]
    mask = [[at < len(each["words"]) for at in range(longest)] for each in records]
    labels = [each["label"] for each in records]
    return {
        "words": torch.tensor(words),
        "mask": torch.tensor(mask).float(),
        "labels": torch.tensor(labels),
    }


def masked(records):
    """Hides words, by the generators of all libraries."""
    batch = padded(records)
    hidden = torch.rand(batch["mask"].shape) < 0.1 * (random.random() + np.random.rand())
    return batch | {"words": batch["words"].masked_fill(hidden, 0)}


def of_words(model, batch):
    return F.cross_entropy(model(batch["words"], batch["mask"]), batch["labels"])


def doubled(data):
    return TensorDataset(data.tensors[0].double(), data.tensors[1])


FEATURES = {
    "plain": {},
    "dropout": {"model": dropping},
    "batch norm": {"model": normalised},
    "tied": {"model": Tied},
    "frozen": {"model": frozen},
    "average of weights": {"model": Averaged, "step": averaging},
    "shared list": {"model": Mixture, "step": penalised},
    "list outside": {"model": Reporting, "step": reported},
    "sparse embedding": {"model": Rows},
    "sparse embedding, sparse adam": {
        "model": Rows,
        "optimizer": lambda ps: torch.optim.SparseAdam([next(iter(ps))], lr=0.01),
    },
    "hooks": {"model": Hooked},
    "checkpointing": {"model": Checkpointed},
    "lstm": {"model": Recurrent},
    "attention": {"model": Attention, "optimizer": partial(torch.optim.Adam, lr=0.01)},
    "compiled": {"model": compiled},
    "spectral norm": {"model": spectral},
    "autocast": {"step": in_half},
    "autocast, twice": {"step": twice_in_half},
    "autocast, batch norm": {"step": in_half, "model": normalised},
    "accumulation": {"step": accumulating},
    "mixup": {"step": mixing},
    "gradients of its own": {"step": adversarial},
    "nothing to learn": {"step": at_times},
    "clipping": {"optimizer": clipped},
    "clipping over frozen parts": {"optimizer": head_of},
    "groups": {"optimizer": grouped},
    "fused": {"optimizer": partial(torch.optim.AdamW, lr=0.01, fused=True)},
    "schedule": {"schedule": cosine, "optimizer": grouped},
    "momentum": {"optimizer": partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True)},
    "augmentation": {"data": Noisy, "step": of_mapping, "model": dropping},
    "loss module": {"loss": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]))},
    "groups by name": {"optimizer": by_name},
    "one cycle": {
        "schedule": partial(lr_scheduler.OneCycleLR, max_lr=0.2),
        "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    },
    "one cycle, adam": {
        "schedule": partial(lr_scheduler.OneCycleLR, max_lr=[0.02, 0.05]),
        "optimizer": grouped,
    },
    "cyclic": {
        "schedule": partial(lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=5),
        "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    },
    "warm-up and cosine": {"schedule": warm_cosine, "optimizer": grouped},
    "chained schedules": {"schedule": chained, "optimizer": by_name},
    "a schedule for each group": {"schedule": by_group, "optimizer": grouped},
    "a rate in a tensor": {
        "schedule": warm_cosine,
        "optimizer": lambda ps: torch.optim.Adam(ps, lr=torch.tensor(0.01), fused=True),
    },
    "padding": {"data": Sentences, "model": Words, "step": of_words, "collate": padded},
    "masking": {"data": Sentences, "model": Words, "step": of_words, "collate": masked},
    "masking of microbatches": {
        "data": Sentences,
        "model": Words,
        "step": of_words,
        "collate": masked,
        "microbatches": 2,
    },
    "double": {"model": lambda: mlp().double(), "data": doubled},
    "gathering optimizer": {"optimizer": partial(Gathering, lr=0.1)},
    "bf16": {"precision": "bf16", "model": dropping},
    "bf16, clipped, microbatches": {"precision": "bf16", "clip_norm": 0.1, "microbatches": 4},
    "fp16": {"precision": "fp16", "optimizer": partial(torch.optim.Adam, lr=0.01)},
    "fp16, clipped": {"precision": "fp16", "clip_norm": 0.1, "microbatches": 2},
    "fp16, overflowing": {"precision": "fp16", "step": overflowing},
    "clip norm": {"clip_norm": 0.1, "model": frozen},
    "clip norm, microbatches": {"clip_norm": 0.1, "microbatches": 2, "schedule": cosine},
    "average": {"ema": 0.9, "model": normalised, "microbatches": 2},
    "average of tied": {"ema": 0.8, "model": Tied},
    "two optimizers": {"optimizer": two},
    "two optimizers, cosine": {"optimizer": two, "schedule": warm_cosine},
    "two optimizers, fp16": {"optimizer": two, "precision": "fp16", "clip_norm": 1},
    "manual": {"model": Painter, "optimizer": two, "step": painting, "loss": None},
    "microbatches": {"microbatches": 2, "model": dropping},
    "microbatches, batch norm": {"microbatches": 2, "model": normalised},
    "microbatches, batch norm, four": {"microbatches": 4, "model": normalised, "batch_size": 8},
    "microbatches, spectral norm": {"microbatches": 2, "model": spectral},
    "microbatches, average of weights": {"microbatches": 4, "model": Averaged, "step": averaging},
    "microbatches, sparse": {"microbatches": 3, "model": Rows},
    "microbatches, nothing to learn": {"microbatches": 4, "step": at_times},
    "microbatches, schedule": {"microbatches": 2, "schedule": cosine, "optimizer": grouped},
    "microbatches in a tree": {"microbatches": 4},
    "microbatches in a sequence": {"microbatches": 4, "accumulation": "sequence"},
    "microbatches by tokens": {"microbatches": 4, "weigh": tokens, "step": counted},
    "parts of a batch": {
        "microbatches": 3,
        "weigh": tokens,
        "step": divided,
        "accumulation": "sequence",
    },
}
FRESH_ONLY = {"gathering optimizer"}  # what it counts is in no state: refused, where it is carried


@pytest.fixture(scope="module")
def records():
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(RECORDS, WIDTH, generator=generator)
    return TensorDataset(inputs, inputs[:, :CLASSES].argmax(1))


def recipe_of(feature, state):
    options = {name: value for name, value in FEATURES[feature].items() if name != "data"}
    return ob.Recipe(
        **{"model": mlp, "optimizer": SGD, "loss": F.cross_entropy}
        | {"batch_size": 5}
        | options
        | {"epochs": 2, "repeats": 2, "seed": 4, "optimizer_state": state}
    )


def seeded(number):
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number & 0xFFFFFFFF)


def fetched(data, records, seed, collate, number):
    """The records of a batch, each augmented under a seed of its own, and collated."""
    items = []
    for record in records.tolist():
        seeded(key(seed, record))
        items.append(data[record])
    seeded(key(seed, "collate", number))
    return (collate or torch.utils.data.default_collate)(items)


def trained_by_hand(recipe, data, layout):
    """Train a model, as anybody would."""
    seeded(key(recipe.seed, "model"))
    model = recipe.model()
    optimizers, scaler = optimizers_by_hand(recipe, model), scaler_by_hand(recipe)
    rates = [[group["lr"] for group in each.param_groups] for each in optimizers]
    total = sum(layout.steps(block) for block in range(1, layout.blocks + 1))
    schedulers = schedulers_by_hand(recipe, optimizers, total)
    averaged = copy.deepcopy(model) if recipe.ema else model
    nobody, done = np.array([], dtype=np.int64), 0
    for block in range(1, layout.blocks + 1):
        model.train()
        if recipe.optimizer_state == "fresh":
            scaler = scaler_by_hand(recipe)
            if schedulers:  # which go on with the optimizers that they know
                for each in optimizers:
                    each.state.clear()
            else:
                optimizers = optimizers_by_hand(recipe, model)
        for step, records in layout.batches(block, nobody):
            if recipe.schedule is not None and not schedulers:
                set_rates(optimizers, rates, recipe.schedule(done + step, total))
            seed = key(key(recipe.seed, "fetch", block), step)
            parts = np.array_split(records, recipe.microbatches)
            parts = [
                (len(each), fetched(data, each, seed, recipe.collate, number))
                for number, each in enumerate(parts)
                if len(each)
            ]
            make_step(recipe, model, optimizers, scaler, (parts, ("step", block, step)))
            if recipe.ema:
                follow(averaged, model, recipe.ema)
            for each in schedulers:
                each.step()
        done += layout.steps(block)
    return averaged


def follow(averaged, model, decay):
    """As people keep an average: of the parameters, with the buffers of training."""
    with torch.no_grad():
        for slow, live in zip(averaged.parameters(), model.parameters(), strict=True):
            slow.lerp_(live, 1 - decay)
        for slow, live in zip(averaged.buffers(), model.buffers(), strict=True):
            slow.copy_(live)


def set_rates(optimizers, rates, factor):
    for each, its in zip(optimizers, rates, strict=True):
        for group, rate in zip(each.param_groups, its, strict=True):
            group["lr"] = rate * factor


def make_step(recipe, model, optimizers, scaler, batch):
    parts, place = batch
    for each in optimizers:
        each.zero_grad()
        if not isinstance(each, Gathering):
            model.zero_grad()
    if recipe.step is painting:
        seeded(key(recipe.seed, *place))
        painting(model, parts[0][1], optimizers)
        return
    if not went_backward(recipe, model, parts, scaler, place):
        return
    if recipe.clip_norm is not None:
        for each in optimizers:
            scaler.unscale_(each)
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    for each in optimizers:
        scaler.step(each)
    scaler.update()


def optimizers_by_hand(recipe, model):
    made = recipe.optimizer(model if recipe.optimizer in (by_name, two) else model.parameters())
    return made if isinstance(made, tuple) else (made,)


def scaler_by_hand(recipe):
    return torch.amp.GradScaler("cpu", enabled=recipe.precision == "fp16")


def schedulers_by_hand(recipe, optimizers, total):
    """What somebody writes who uses a scheduler of torch's, stepped after each step."""
    if recipe.schedule in (None, cosine):
        return []
    takes_total = "total_steps" in inspect.signature(recipe.schedule).parameters
    options = {"total_steps": total} if takes_total else {}
    return [recipe.schedule(each, **options) for each in optimizers]


def went_backward(recipe, model, parts, scaler, place):
    """Accumulate the gradients of a batch; say whether there was anything to learn."""
    sizes = [int(tokens(batch)) if recipe.weigh else size for size, batch in parts]
    learned, halves = [], []
    buffers = copied(model) if recipe.microbatches > 1 and recipe.accumulation == "tree" else None
    left = []
    for number, (_, batch) in enumerate(parts):
        if recipe.microbatches == 4 and recipe.accumulation == "tree" and number == 2:
            halves = [each.grad for each in model.parameters()]
            model.zero_grad()
        if not sizes[number]:
            continue
        if buffers is not None:  # each part begins with those that the batch began with
            load_buffers(model, buffers)
        seeded(key(recipe.seed, *place, number) if number else key(recipe.seed, *place))
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.precision)
        with torch.autocast("cpu", half) if half else contextlib.nullcontext():
            loss = loss_by_hand(recipe, model, batch, sum(sizes))
        if loss is None:
            continue
        if recipe.step is not divided:
            loss = loss / (sum(sizes) / sizes[number])
        scaler.scale(loss).backward()
        learned.append(number)
        left.append(copied(model))
    if buffers is not None:
        load_buffers(model, joined(left) if left else buffers)
    for parameter, half in zip(model.parameters(), halves, strict=bool(halves)):
        if half is not None:
            parameter.grad = half if parameter.grad is None else half + parameter.grad
    return learned


def copied(model):
    buffers = dict(model.named_buffers())
    if isinstance(model, Averaged):  # an average that a step makes is treated as they are
        buffers |= dict(model.slow.named_parameters(prefix="slow"))
    return {name: each.detach().clone() for name, each in buffers.items()}


def load_buffers(model, buffers):
    model.load_state_dict(buffers, strict=False)


def joined(left):
    """The mean of running statistics, in pairs; of the others, what the first part left."""
    pairs = [left[at : at + 2] for at in range(0, len(left), 2)]
    statistics = [name for name in left[0] if "running" in name]
    sums = {name: sum(sum(each[name] for each in pair) for pair in pairs) for name in statistics}
    return left[0] | {name: each / len(left) for name, each in sums.items()}


def loss_by_hand(recipe, model, batch, items):
    if recipe.step is divided:
        return recipe.step(model, batch, items)
    if recipe.step is not None:
        return recipe.step(model, batch)
    inputs, targets = batch
    return recipe.loss(model(inputs), targets)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


OF_THE_OPTIMIZER = {
    "plain", "accumulation", "nothing to learn", "clipping", "groups", "fused", "schedule",
    "momentum", "sparse embedding, sparse adam", "gathering optimizer", "one cycle",
    "warm-up and cosine",
}  # fmt: skip
"""What meets the optimizer: tried with both of its states, the rest in `make test` with one."""


def cases():
    for feature in FEATURES:
        states = ["fresh"] if feature in FRESH_ONLY else ["carried", "fresh"]
        for state in states:
            is_quick = state == states[0] or feature in OF_THE_OPTIMIZER
            marks = () if is_quick else pytest.mark.slow
            yield pytest.param(feature, state, marks=marks, id=f"{feature}/{state}")


@pytest.mark.parametrize(("feature", "state"), list(cases()))
def test_fit_is_the_loop_that_one_would_write(feature, state, records, tmp_path):
    recipe, data = recipe_of(feature, state), FEATURES[feature].get("data", lambda x: x)(records)
    with warnings.catch_warnings():
        if feature == "compiled":  # torch's own
            warnings.simplefilter("ignore")
        run = ob.fit(recipe, data, tmp_path / "run", blocks=BLOCKS)
        with deterministic():
            by_hand = trained_by_hand(recipe, data, run.trainer.layout)
        assert same_states(run.model.state_dict(), by_hand.state_dict())


FORGOTTEN = {
    "bf16, clipped, microbatches": "carried",
    "fp16, overflowing": "carried",
    "two optimizers, fp16": "carried",
    "average": "fresh",
    "manual": "carried",
    "microbatches, batch norm": "carried",
    "microbatches, nothing to learn": "fresh",
    "microbatches in a tree": "carried",
    "microbatches by tokens": "carried",
    "parts of a batch": "fresh",
}


@pytest.mark.parametrize("feature", FORGOTTEN)
def test_erasing_exactly_is_never_having_trained(feature, records, tmp_path):
    """Some microbatches are left smaller, one with a single record, one empty, and a batch."""
    recipe = replace(recipe_of(feature, FORGOTTEN[feature]), epochs=1, repeats=1)
    with ob.fit(recipe, records, tmp_path / "run", blocks=BLOCKS) as run:
        nobody = np.array([], dtype=np.int64)
        (_, whole), (_, half), *_, (_, last) = run.trainer.layout.batches(2, nobody)
        gone = [*whole.tolist(), *half[: len(half) // 2].tolist(), int(last[0])]
        erasure = run.forget(records=gone, method="exact")
        with ob.fit(recipe, records, tmp_path / "never", blocks=BLOCKS, exclude=gone) as never:
            assert erasure.digest == never.digest
        assert erasure.guarantee == "exact"


def same_states(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_feature_changes_what_is_trained(records, tmp_path):
    """Each of them bears on the result, so that leaving it out would be seen."""
    found = {}
    for feature in (
        "plain",
        "autocast",
        "clipping",
        "accumulation",
        "nothing to learn",
        "schedule",
        "bf16",
        "fp16",
        "fp16, overflowing",
        "clip norm",
    ):
        run = ob.fit(recipe_of(feature, "fresh"), records, tmp_path / feature, blocks=BLOCKS)
        found[feature] = run.digest
    assert len(set(found.values())) == len(found)


def test_training_under_autocast_does_not_depend_on_the_clock(records, tmp_path, monkeypatch):
    """However many steps are made between two looks at the clock."""
    digests = set()
    for number, seconds in enumerate((0.0001, 0.2, 10.0)):
        monkeypatch.setattr("obliviate.training.trainer.SECONDS_BETWEEN_EVENTS", seconds)
        recipe = recipe_of("autocast", "carried")
        digests.add(ob.fit(recipe, records, tmp_path / str(number), blocks=BLOCKS).digest)
    assert len(digests) == 1


@pytest.mark.parametrize("where", ["fit", "forget", "verify"])
def test_a_caller_within_autocast_gets_the_same(where, records, tmp_path):
    """Weights that autocast has cast once are not used again after they were trained."""
    recipe = recipe_of("autocast", "carried")
    record = [7]

    def within(what):
        half = torch.autocast("cpu", dtype=torch.bfloat16)
        return half if what == where else contextlib.nullcontext()

    with within("fit"):
        run = ob.fit(recipe, records, tmp_path / "run", blocks=BLOCKS)
    with within("verify"):
        assert run.verify().passed
    with within("forget"):
        erasure = run.forget(records=record, method="exact")
    never = ob.fit(recipe, records, tmp_path / "never", blocks=BLOCKS, exclude=record)
    assert erasure.digest == never.digest
    assert erasure.guarantee == "exact"
