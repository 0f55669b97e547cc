"""The preset of TOFU: a small language model on the bytes of questions and answers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.optim import AdamW

from obliviate.datasets import tofu
from obliviate.datasets.sources import TOFU
from obliviate.models import IGNORED, CausalLM, next_token_loss, next_token_scores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obliviate.lab.presets.settings import Settings
    from obliviate.recipe.recipe import Project

_LENGTH = 512
_END = b"\0"


def authors(settings: Settings) -> Project:
    """TOFU, by authors; a byte-level transformer of two layers, trained from nothing."""
    loaded = tofu(settings.folder(TOFU), tokenise=as_bytes)
    return settings.project(
        model=partial(CausalLM, length=_LENGTH, width=settings.wide(64)),
        optimizer=partial(AdamW, lr=2e-3),
        data=loaded.data,
        subjects=loaded.subjects,
        epochs=10,
        blocks=20,
        loss=None,
        step=next_token_loss,
        score=next_token_scores,
        collate=padded,
        batch_size=16,
    )


def as_bytes(text: Mapping[str, str]) -> dict[str, Tensor]:
    """A question and its answer as tokens, of which those of the answer are to be predicted.

    A byte is a token, so that no vocabulary is learned from anybody's text.
    """
    question = text["question"].encode() + b"\n"
    tokens = torch.tensor(list((question + text["answer"].encode() + _END)[:_LENGTH]))
    labels = tokens.clone()
    labels[: len(question)] = IGNORED
    return {"tokens": tokens, "labels": labels}


def padded(records: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch, filled up to its longest record."""
    fills = {"tokens": 0, "labels": IGNORED}
    return {
        name: pad_sequence([each[name] for each in records], batch_first=True, padding_value=fill)
        for name, fill in fills.items()
    }
