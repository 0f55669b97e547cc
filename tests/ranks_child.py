"""One rank of several: it goes through the cases of `test_ranks.py` with the others."""

import json
import os
import signal
from dataclasses import replace
from functools import partial

import torch
import torch._dynamo  # as the first optimizer does: before the ranks begin
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from obliviate.errors import ObliviateError
from tests.models import images, recipe

fit = ob.fit  # what it needs is imported before the ranks begin
GONE = [3, 20, 41]
FEW = partial(recipe, batch_size=16, repeats=1)


def rank():
    return int(os.environ.get("RANK", "0"))


class Watched(Dataset):
    """Tells which records were read; raises, or ends the process, when it is to."""

    def __init__(self, data):
        self.data, self.read, self.forbidden = data, [], set()
        self.fails, self.dies = False, False

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails or index in self.forbidden:
            raise ValueError(f"record {index} cannot be read")
        self.read.append(index)
        return self.data[index]


class Bag(nn.Module):
    """A part of it has a gradient for some records only; it counts what it sees in buffers."""

    def __init__(self):
        super().__init__()
        self.usual, self.seldom = nn.Linear(64, 4), nn.Linear(64, 4)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last", torch.zeros(64), persistent=False)

    def forward(self, x):
        x = x.flatten(1)
        self.seen += len(x)
        self.last = x[-1].detach() * 0.1
        outputs = self.usual(x) + self.last[:4]
        return outputs + self.seldom(x) if x[0, 0] > 0.5 else outputs


def tokens(batch):
    return (batch[1] != 0).sum()


def at_times(model, batch):
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    return None if batch[0][0, 0, 0, 0] < -0.5 else loss


CASES = {
    "batch norm": FEW("batch-norm-cnn", "adam-carried", microbatches=4, ema=0.9, clip_norm=0.5),
    "some have no gradient": FEW(Bag, "momentum-carried", microbatches=8, repeats=2, step=at_times),
    "no whole subtrees, by tokens": FEW(
        "dropout-cnn", "adam-carried", microbatches=12, weigh=tokens, precision="fp16"
    ),
}


def story(case, folder):
    """Digests of a run from its making to its extension; what the ranks read."""
    data = Watched(images())
    found = {}
    with ob.fit(CASES[case], data, folder, blocks=2, subjects=[str(at) for at in range(72)]) as run:
        found["fit"], found["read"] = run.digest, sorted(set(data.read))
        data.forbidden |= set(GONE[:2])
        erasure = run.forget(records=GONE[:2], method="deepobliviate:epsilon=9,blocks=1")
        found["forget"] = [erasure.digest, erasure.number, erasure.records]
        request = run.request(subjects=["41"])
        work = run.work(everything=True)
        found["work"] = [request.id, len(work), work[0].digest, work[0].guarantee]
        data.forbidden.add(41)
        found["settle"] = run.settle().digest
        verification = run.verify(blocks=[1, 2])
        found["verify"] = [list(verification.reproduced), verification.passed]
        if case == "batch norm":
            extension = run.extend(images(20, seed=1), blocks=1)
            found["extend"] = [run.digest, extension.records, run.facts.records]
        found["model"] = float(sum(each.detach().double().sum() for each in run.model.parameters()))
    return found


def trained(case, folder):
    """The digest of a longer training, and that of an erasure."""
    with ob.fit(GRID[case], images(), folder, blocks=4) as run:
        return {"fit": run.digest, "forget": run.forget(records=GONE, method="exact").digest}


GRID = {
    f"{model}, {optimizer}": FEW(model, optimizer, microbatches=8, epochs=2)
    for model in ("mlp", "batch-norm-cnn", "transformer")
    for optimizer in ("momentum-carried", "adam-carried", "adam-fresh")
}


def told(call):
    """What a call raises."""
    try:
        call()
    except ObliviateError as error:
        return [error.code, error.message, error.hint]
    return None


def faults(folder):
    """What every rank is told of input that cannot be used on some of them."""
    fitting, data = CASES["batch norm"], images()
    other = TensorDataset(data.tensors[0] + (rank() == 1), data.tensors[1])
    slower = replace(fitting, epochs=1 + (rank() == 3))
    wider = replace(fitting, model=Bag) if rank() == 2 else fitting
    fit = partial(ob.fit, path=folder / "none", blocks=2)
    found = {
        "six": told(lambda: fit(replace(fitting, microbatches=6), data)),
        "sequence": told(lambda: fit(replace(fitting, accumulation="sequence"), data)),
        "recipe": told(lambda: fit(slower, data)),
        "model": told(lambda: fit(wider, data)),
        "data": told(lambda: fit(fitting, other)),
        "options": told(lambda: ob.fit(fitting, data, folder / "none", blocks=2 + (rank() == 1))),
        "folder": told(lambda: ob.fit(fitting, data, folder / f"none{rank() == 1}", blocks=2)),
        "invalid": told(lambda: fit(fitting, data, keep=7)),
    }
    found["is there"] = (folder / "none").exists()
    rows = FEW(sparse, microbatches=4)
    found["sparse"] = told(lambda: ob.fit(rows, data, folder / "sparse", blocks=2))
    return found


def sparse():
    return nn.Sequential(nn.Flatten(), Rows(), nn.Linear(8, 4))


class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(128, 8, sparse=True)

    def forward(self, x):
        return self.table(torch.arange(64) * 2 + (x > 0).long()).mean(1)


def failures(folder):
    """A rank whose dataset fails, ranks that call different things, and one that ends."""
    data, found = Watched(images()), {}
    run = ob.fit(CASES["batch norm"], data, folder / "failing", blocks=2)
    run.verify(blocks=[1])
    data.fails = rank() == 2
    found["dataset"] = told(lambda: run.forget(records=GONE, method="exact"))
    found["mixed"] = told(run.settle if rank() == 1 else run.verify)
    data.fails = False
    found["again"] = run.forget(records=GONE, method="exact").digest
    data.dies = rank() == 3
    found["lost"] = told(lambda: run.forget(records=[1], method="exact"))
    found["and then"] = told(run.settle)
    return found


def go_through(folder, names):
    """Go through some cases with the other ranks, and write down what came of them."""
    found = {}
    for name in names:
        if name in CASES:
            found[name] = story(name, folder / name.replace(" ", "-"))
        elif name in GRID:
            found[name] = trained(name, folder / name.replace(" ", "-"))
        else:
            found[name] = globals()[name](folder)
    (folder / f"rank-{rank()}.json").write_text(json.dumps(found))
