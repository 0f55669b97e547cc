"""A small transformer with Adam on pieces of Shakespeare, whose people are the speakers.

obliviate lab experiments/shakespeare.py FOLDER -o data=SHAKESPEARE --subject erased

DATA is a folder with speeches.jsonl.xz: an object a line, with `speaker` and `text`. A record is a
short piece of what a speaker says, a character the token; its loss is the mean over the tokens. In
a mislabelled piece the characters stand in an order of chance; so they do in the reference then,
which is of the same kind.
"""

from __future__ import annotations

import json
import lzma
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from erased import SEED
from people import cohort, some, terms_of

if TYPE_CHECKING:
    import obliviate as ob

CHARACTERS = "\n !$&',-.3:;?abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
LENGTH, WIDTH = 24, 32


class Speaker(nn.Module):
    """Two causal encoder layers over characters: 23,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(CHARACTERS), WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, len(CHARACTERS))
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens) + self.places
        return self.head(self.encoder(hidden, mask=self.mask, is_causal=True))


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean over all tokens."""
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def score(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Minus the mean loss of each record's tokens."""
    inputs, targets = batch
    losses = nn.functional.cross_entropy(model(inputs).mT, targets, reduction="none")
    return -losses.mean(dim=1)


def pieces(folder: str) -> tuple[TensorDataset, np.ndarray]:
    """All whole pieces of text, no two alike, as tokens and the next tokens, and whose each is."""
    spoken: dict[str, list[str]] = {}
    with lzma.open(Path(folder) / "speeches.jsonl.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            speech = json.loads(line)
            spoken.setdefault(speech["speaker"], []).append(speech["text"])
    known: dict[str, int] = {}
    for person, speeches in enumerate(spoken.values()):
        text = "\n".join(speeches)
        for start in range(0, len(text) - LENGTH, LENGTH + 1):
            known.setdefault(text[start : start + LENGTH + 1], person)
    tokens = torch.tensor([[CHARACTERS.index(each) for each in piece] for piece in known])
    return as_records(tokens), np.array(list(known.values()))


def as_records(tokens: Tensor) -> TensorDataset:
    """Tokens, and the next tokens."""
    return TensorDataset(tokens[:, :-1].clone(), tokens[:, 1:].clone())


def shuffled(data: TensorDataset, chosen: np.ndarray) -> TensorDataset:
    """The data with the characters of some pieces in an order of chance."""
    inputs, targets = data.tensors
    tokens = torch.cat([inputs, targets[:, -1:]], dim=1)
    chance = np.random.default_rng(0)
    for row in chosen:
        tokens[row] = tokens[row, torch.from_numpy(chance.permutation(tokens.shape[1]))]
    return as_records(tokens)


def project(  # noqa: PLR0917 - options come by name
    data: str = "data/tinyshakespeare",
    kind: str = "mislabelled",
    place: str = "middle",
    records: str = "3000",
    epochs: str = "10",
    blocks: str = "10",
    keep: str = "",
    seed: str = str(SEED),
) -> ob.Project:
    """What the laboratory trains; the options are `cifar`'s, with no backdoor."""
    known, people = pieces(data)
    terms = terms_of(kind, place, records, epochs, blocks, seed, keep=keep)
    made = cohort(partial(some, known), people, terms, spoil=shuffled)
    return made.project(
        model=Speaker,
        optimizer=partial(torch.optim.Adam, lr=0.004),
        loss=loss,
        score=score,
    )
