"""Texts: what a causal language model makes of them, one number each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor, nn


def text_losses(model: nn.Module, batch: Any) -> Tensor:
    """-log π of each text: the sum over its tokens that are labelled. Shape (texts,).

    Args:
        model: Gives logits of shape (texts, tokens, vocabulary).
        batch: (inputs, targets), targets standing beside the outputs that predict them; or a
            mapping with "labels", each predicted by the output before it, as in Transformers, or
            with "tokens" beside them, as `models.next_token_loss` takes it.
    """
    logits, targets = predicted(model, batch)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return losses.sum(dim=1)


def predicted(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """Logits, and the targets that stand beside them. Shapes (n, t, vocabulary) and (n, t)."""
    if isinstance(batch, Mapping):
        logits: Tensor = model(batch["tokens"]) if "tokens" in batch else model(**batch).logits
        return logits[:, :-1], batch["labels"][:, 1:]
    inputs, targets = batch
    return model(inputs), targets
