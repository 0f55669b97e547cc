"""One rank of several: it goes through the cases of `test_ranks.py` with the others."""

import json
import os
import signal
import time
from dataclasses import replace
from datetime import timedelta
from functools import partial

import torch
import torch._dynamo  # as the first optimizer does: before the ranks begin
from rich.console import Console
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import obliviate as ob
from obliviate.cli.demo import demonstrate
from obliviate.cli.work import work
from obliviate.errors import ObliviateError
from obliviate.training import ranks
from obliviate.training.ranks import gathered
from tests.models import images, recipe

fit = ob.fit  # what it needs is imported before the ranks begin
GONE = [3, 20, 41]
SECONDS_NAME, WAITED_SECONDS = "seconds", 8
FEW = partial(recipe, batch_size=16, repeats=1)


def rank():
    return int(os.environ.get("RANK", "0"))


class Watched(Dataset):
    """Tells which records were read; raises, or ends the process, when it is to."""

    def __init__(self, data):
        self.data, self.read, self.forbidden = data, [], set()
        self.fails, self.dies, self.waits_seconds = False, False, 0

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.waits_seconds:
            time.sleep(self.waits_seconds)
            self.waits_seconds = 0
        if self.fails or index in self.forbidden:
            raise ValueError(f"record {index} cannot be read")
        self.read.append(index)
        return self.data[index]


class Bag(nn.Module):
    """A part of it has a gradient for some records only; it counts what it sees in buffers.

    A frozen parameter follows what comes.
    """

    def __init__(self):
        super().__init__()
        self.usual, self.seldom = nn.Linear(64, 4), nn.Linear(64, 4)
        self.followed = nn.Parameter(torch.zeros(64), requires_grad=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last", torch.zeros(64), persistent=False)

    def forward(self, x):
        x = x.flatten(1)
        self.seen += len(x)
        self.last = x[-1].detach() * 0.1
        with torch.no_grad():
            self.followed.lerp_(x.mean(0), 0.1)
        outputs = self.usual(x) + self.last[:4]
        return outputs + self.seldom(x) if x[0, 0] > 0.5 else outputs


def wide():
    """An uneven number of parameters of two dtypes."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 301), nn.Tanh(), Exactly(), nn.Linear(301, 4).double()
    )


class Exactly(nn.Module):
    def forward(self, x):
        return x.double()


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


WIDE = FEW(wide, "momentum-carried", microbatches=8)


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


def timed(case, folder):
    """The same; how long it took is written into the run's folder."""
    gathered()
    begun = time.monotonic()
    trained(case, folder)
    if rank() == 0:
        (folder / SECONDS_NAME).write_text(str(time.monotonic() - begun))


def shot(case, folder, victim, seconds):
    """The same, but that a rank ends at an instant, whatever it is at."""
    gathered()
    if rank() == victim:
        signal.setitimer(signal.ITIMER_REAL, seconds)  # nobody handles the signal that comes then
    trained(case, folder)


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
    chosen = {"everything": True, "margin": 7.0, "workers": 2, "on": "local"}
    found["side by side"] = told(lambda: work([str(folder / "none")], **chosen))
    found["demo"] = told(lambda: demonstrate(folder / "none", Console(quiet=True)))
    for name, part in PARTS.items():
        unshared = FEW(partial(beside, part), microbatches=4)
        found[name] = told(lambda unshared=unshared: fit(unshared, data))
    found["is there"] = (folder / "none").exists()
    with ob.load(folder / "alone", SPARSE, data) as run:
        before = run.status().journal_head
        found["made alone"] = told(lambda: run.forget(records=[1], method="exact"))
        found["is as it was"] = run.status().journal_head == before
    return found


# What several ranks cannot share out


def beside(part):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), part(), nn.Linear(8, 4))


class Rows(nn.Module):
    """Has a sparse gradient."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(16, 8, sparse=True)

    def forward(self, x):
        return x + self.table(torch.arange(8) * 2 + (x > 0).long()).mean(1)


class Grows(nn.Module):
    """Has a buffer that gets longer, and is no part of the state."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def forward(self, x):
        self.seen = torch.cat([self.seen, x.detach().mean().reshape(1)])
        return x


class Counts(nn.Module):
    """Knows in an attribute how often it was called."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


PARTS = {
    "sparse": Rows,
    "grows": Grows,
    "counts": Counts,
    "synchronised": partial(nn.SyncBatchNorm, 8),
    "wrapped": lambda: nn.parallel.DistributedDataParallel(nn.Linear(8, 8)),
}
SPARSE = FEW(partial(beside, Rows), microbatches=4)


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


def late(folder):
    """A rank that is at something else for longer than the other one waits."""
    ranks.EXCHANGE_TIMEOUT = timedelta(seconds=WAITED_SECONDS)
    data = Watched(images())
    run = ob.fit(CASES["batch norm"], data, folder / "run", blocks=2)
    data.waits_seconds = 1.5 * WAITED_SECONDS * rank()
    return told(lambda: run.forget(records=GONE, method="exact"))


def halved(folder):
    """Digests of a net whose sums are large enough to be worked out in halves."""
    with ob.fit(WIDE, images(), folder / "halved", blocks=2) as run:
        return [run.digest, run.forget(records=GONE, method="exact").digest]


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
