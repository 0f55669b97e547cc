"""Fast erasures of models whose states are no mere sums of updates, beside exact ones.

Buffers of many kinds, constraints on weights, and rows that one person alone trains. For each kind
and method, over seeds: test accuracy against the exact replay's, what is not finite, and of an
erased person's own row, what is left of it or has turned its sign.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import warnings
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.data import TensorDataset

import obliviate as ob
from benchmarks.page import write

RECORDS, TEST, WIDTH, CLASSES, BLOCKS, HELD = 600, 2000, 12, 3, 30, 6
USERS, ITEMS, FACTORS = 120, 30, 8
METHODS = ("deepobliviate", "calibrated")


class Follower(nn.Module):
    """A net with a part, before its head, that follows what comes by in training."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
        for name, value in self.buffers_of().items():
            self.register_buffer(name, value)

    def forward(self, x):
        hidden = self.through(x, self.training) if self.is_first else x
        hidden = torch.tanh(self.body(hidden))
        return self.head(hidden if self.is_first else self.through(hidden, self.training))


class Variance(Follower):
    """Running mean and variance of inputs, of which a few records have a rare feature."""

    is_first = True

    def buffers_of(self):
        return {"mean": torch.zeros(WIDTH), "var": torch.ones(WIDTH)}

    def through(self, x, is_training):
        if is_training:
            self.mean.lerp_(x.mean(0), 0.1)
            self.var.lerp_(x.var(0, unbiased=False), 0.1)
        return (x - self.mean) / torch.sqrt(self.var + 1e-4)


class Range(Follower):
    """The range of activations, from the infinities on."""

    is_first = False

    def buffers_of(self):
        return {"low": torch.tensor(float("inf")), "high": torch.tensor(float("-inf"))}

    def through(self, x, is_training):
        if is_training:
            self.low = torch.minimum(self.low, x.detach().min())
            self.high = torch.maximum(self.high, x.detach().max())
        return 4 * (x - self.low) / (self.high - self.low + 1e-3) - 2


class Whitening(Follower):
    """Inputs whitened by the Cholesky factor of their running covariance."""

    is_first = True

    def buffers_of(self):
        return {"covariance": torch.eye(WIDTH)}

    def through(self, x, is_training):
        if is_training:
            self.covariance.lerp_(x.T @ x / len(x), 0.05)
        factor = torch.linalg.cholesky(self.covariance + 1e-3 * torch.eye(WIDTH))
        return torch.linalg.solve_triangular(factor, x.T, upper=False).T


class Codebook(Follower):
    """A residual codebook, kept as running counts and sums of its clusters."""

    is_first = False

    def buffers_of(self):
        generator = torch.Generator().manual_seed(0)
        return {"counts": torch.ones(8), "sums": torch.randn(8, WIDTH, generator=generator)}

    def through(self, x, is_training):
        nearest = torch.cdist(x.detach(), self.sums / self.counts[:, None]).argmin(1)
        if is_training:
            one_hot = nn.functional.one_hot(nearest, 8).to(x.dtype)
            self.counts.lerp_(one_hot.sum(0) + 1e-3, 0.05)
            self.sums.lerp_(one_hot.T @ x.detach(), 0.05)
        return x + 0.3 * (self.sums / self.counts[:, None])[nearest]


class Observed(Follower):
    """Quantised activations, as training aware of quantisation has them: scale and zero point."""

    is_first = False

    def buffers_of(self):
        return {
            "ends": torch.tensor([0.0, 0.0]),
            "scale": torch.tensor([1.0]),
            "zero": torch.tensor([0], dtype=torch.int32),
        }

    def through(self, x, is_training):
        if is_training:
            ends = torch.stack([x.detach().min().clamp(max=0), x.detach().max().clamp(min=0)])
            self.ends = ends if self.ends.eq(0).all() else self.ends.lerp(ends, 0.01)
            self.scale = ((self.ends[1] - self.ends[0]) / 255).clamp(min=1e-6)[None]
            self.zero = (-self.ends[:1] / self.scale).round().to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero, 0, 255)


def normed(norm) -> nn.Module:
    """Layers under a constraint."""
    layers = [norm(nn.Linear(WIDTH, WIDTH)), nn.Tanh(), norm(nn.Linear(WIDTH, WIDTH)), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


def averaged() -> nn.Module:
    """BatchNorm that averages over all of training."""
    norm = nn.BatchNorm1d(WIDTH, momentum=None)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), norm, nn.Tanh(), nn.Linear(WIDTH, CLASSES))


class Factors(nn.Module):
    """A row for each user, beside rows of items that everybody trains."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(USERS, FACTORS), nn.Embedding(ITEMS, FACTORS)

    def forward(self, user, item):
        return (self.user(user)[:, None] * self.item(item)).sum(-1)


def liking(model, batch):
    """What is liked, above what is drawn at random."""
    user, item = batch
    other = torch.randint(0, ITEMS, item.shape)
    return -nn.functional.logsigmoid(model(user, item) - model(user, other)).mean()


SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
NETS = {
    "running variance, a rare feature": Variance,
    "range from ±∞": Range,
    "whitening by Cholesky": Whitening,
    "codebook of running counts": Codebook,
    "quantisation's scale and zero point": Observed,
    "spectral norm": partial(normed, spectral_norm),
    "weight norm": partial(normed, weight_norm),
    "BatchNorm of cumulative average": averaged,
}
ROWS = {
    "own row, SGD": partial(SGD, lr=1.0),
    "own row, SGD with decay": partial(SGD, lr=1.0, weight_decay=0.002),
    "own row, Adam": partial(ADAM, lr=0.02),
    "own row, Adam with decay": partial(ADAM, lr=0.02, weight_decay=0.002),
    "own row, AdamW": partial(ADAMW, lr=0.02, weight_decay=0.02),
}


def people(seed: int, count: int) -> TensorDataset:
    """Records of three classes, some with rare features."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, WIDTH, generator=generator)
    rare = torch.rand(count, WIDTH // 2, generator=generator) < 0.01
    inputs[:, WIDTH // 2 :] = rare.float()
    return TensorDataset(inputs, inputs[:, :CLASSES].argmax(1))


def likes(seed: int) -> TensorDataset:
    """What each user likes."""
    generator = np.random.default_rng(seed)
    taste, kind = generator.normal(size=(USERS, 3)), generator.normal(size=(ITEMS, 3))
    chances = np.exp(taste @ kind.T)
    chances /= chances.sum(1, keepdims=True)
    items = [generator.choice(ITEMS, 8, replace=False, p=each) for each in chances]
    return TensorDataset(torch.arange(USERS), torch.from_numpy(np.array(items)))


def score(model, batch):
    """How well a user's likes are remembered."""
    return model(*batch).mean(1)


@torch.no_grad()
def accuracy(model: nn.Module, test: TensorDataset) -> float:
    """Percent of records that a model tells right."""
    return 100 * float((model(test.tensors[0]).argmax(1) == test.tensors[1]).double().mean())


def is_finite(model: nn.Module) -> bool:
    """Whether all that a model keeps is."""
    return all(bool(value.isfinite().all()) for value in model.state_dict().values())


def erasures(recipe, data, records=None):
    """The original's model, and what each method makes of a copy of its run."""
    with tempfile.TemporaryDirectory() as place:
        run = ob.fit(recipe, data, f"{place}/run", blocks=BLOCKS)
        original, records = run.model, records or rare_in(run, data)
        run.ledger.close()
        found = {}
        for name in (*METHODS, "exact"):
            shutil.copytree(f"{place}/run", f"{place}/{name}")
            run = ob.load(f"{place}/{name}", recipe, data)
            found[name] = run.forget(records=records, method=name)
            found[name].model  # noqa: B018 - it is read when it is asked for, and here it still is
            run.ledger.close()
        return original, found


def rare_in(run, data) -> list[int]:
    """A record of a middle block, one with a rare feature if there is one."""
    members = run.trainer.layout.members(HELD)
    inputs = data.tensors[0][torch.from_numpy(members)]
    return [int(members[int(inputs[:, WIDTH // 2 :].sum(1).argmax())])]


def net(model, seed: int) -> list[dict[str, object]]:
    """One seed of a net: each method beside the exact replay."""
    data, test = people(seed, RECORDS), people(seed + 1000, TEST)
    recipe = ob.Recipe(
        model=model,
        optimizer=partial(SGD, lr=0.1),
        loss=nn.functional.cross_entropy,
        batch_size=5,
        repeats=2,
        seed=seed,
    )
    _, found = erasures(recipe, data)
    exact = accuracy(found["exact"].model, test)
    return [
        {
            "method": name,
            "loss": exact - accuracy(found[name].model, test),
            "odd": not is_finite(found[name].model),
            "blocks": found[name].blocks_replayed,
            "exact": found[name].guarantee == "exact",
        }
        for name in METHODS
    ]


def row(optimizer, seed: int) -> list[dict[str, object]]:
    """One seed of a factorisation: what is left of an erased user's own row."""
    recipe = ob.Recipe(
        model=Factors,
        optimizer=optimizer,
        step=liking,
        score=score,
        batch_size=2,
        repeats=4,
        seed=seed,
        optimizer_state="carried" if seed % 2 else "fresh",
    )
    data, user = likes(seed), seed % USERS
    rows = []
    original, found = erasures(recipe, data, [user])
    exact = found["exact"].model.user.weight[user].detach()
    for name in METHODS:
        erasure = found[name]
        before = original.user.weight[user].detach() - exact
        after = erasure.model.user.weight[user].detach() - exact
        rows.append(
            {
                "method": name,
                "left": 100 * float(after.norm() / before.norm()),
                "turned": float(after @ before) < -0.01 * float(before @ before),
                "odd": not bool(after.isfinite().all()),
                "blocks": erasure.blocks_replayed,
                "exact": erasure.guarantee == "exact",
            }
        )
    return rows


def line(kind: str, method: str, rows: list[dict[str, object]]) -> str:
    """A line of the table."""
    names = rows[0].keys() - {"method"}
    figures = {name: np.array([each[name] for each in rows], dtype=float) for name in names}
    lost = figures.get("loss")
    left = figures.get("left")
    cells = [
        kind,
        method,
        f"{np.median(figures['blocks']):.0f}",
        f"{figures['exact'].sum():.0f}",
        f"{figures['odd'].sum():.0f}",
        "" if lost is None else f"{lost.mean():+.2f}",
        "" if lost is None else f"{lost.max():+.2f}",
        "" if left is None else f"{left.max():.3f}",
        "" if left is None else f"{figures['turned'].sum():.0f}",
    ]
    return f"| {' | '.join(cells)} |"


COLUMNS = [
    "kind",
    "method",
    "blocks",
    "exact",
    "not finite",
    "points lost",
    "at most",
    "% of the row left",
    "sign turned",
]
HEAD = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--only", default="", help="kinds that have this in their name")
    parser.add_argument("--page", action="store_true", help="write the table into the page")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*deterministic.*")
    lines = list(HEAD)
    tried = [(kind, partial(net, model)) for kind, model in NETS.items()]
    tried += [(kind, partial(row, optimizer)) for kind, optimizer in ROWS.items()]
    for kind, measure in tried:
        if given.only not in kind:
            continue
        seeds = range(given.first, given.first + given.seeds)
        rows = [each for seed in seeds for each in measure(seed)]
        for method in METHODS:
            lines.append(line(kind, method, [each for each in rows if each["method"] == method]))
            print(lines[-1], flush=True)
    if given.page:
        write("odd", table="\n".join(lines), seeds=given.seeds)


if __name__ == "__main__":
    main()
