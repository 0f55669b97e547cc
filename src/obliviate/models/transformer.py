"""A small transformer on tokens: one that tells classes, and one that predicts the next token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from obliviate.errors import InvalidOption
from obliviate.options import real, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

IGNORED = -100
"""The target of a token that is not to be predicted, as for torch's cross entropy."""


class _Transformer(nn.Module):
    """Embeddings of tokens and places, and layers of attention."""

    def __init__(
        self, *, tokens: int, length: int, width: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        given = {"tokens": tokens, "length": length, "width": width, "layers": layers}
        for name, value in (given | {"heads": heads}).items():
            whole(value, name, least=1, hint="give an int of 1 or more")
        if width % heads:
            raise InvalidOption(
                f"width is {width} for {heads} heads", hint="give a multiple of the heads"
            )
        dropout = real(dropout, "dropout", least=0, most=1)
        self.length = length
        self.tokens = nn.Embedding(tokens, width)
        self.places = nn.Embedding(length, width)
        self.layers = nn.ModuleList(_Layer(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def hidden(self, tokens: Tensor, *, is_causal: bool, is_there: Tensor | None) -> Tensor:
        """Shape (n, length) -> (n, length, width)."""
        count = tokens.shape[1]
        if count > self.length:
            raise InvalidOption(
                f"a record has {count} tokens, the model takes {self.length}",
                hint="cut the records, or make the model with a larger `length`",
            )
        states: Tensor = self.tokens(tokens) + self.places.weight[:count]
        for layer in self.layers:
            states = layer(states, is_there, is_causal=is_causal)
        normed: Tensor = self.norm(states)
        return normed


class _Layer(nn.Module):
    """Attention and a small net, each on what is normalised, each added to what was there."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projections = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.net = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, states: Tensor, is_there: Tensor | None, *, is_causal: bool) -> Tensor:
        states = states + self._attention(self.first(states), is_there, is_causal=is_causal)
        passed: Tensor = states + self.net(self.second(states))
        return passed

    def _attention(self, states: Tensor, is_there: Tensor | None, *, is_causal: bool) -> Tensor:
        records, count, width = states.shape
        shape = (records, count, 3, self.heads, width // self.heads)
        query, key, value = self.projections(states).reshape(shape).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if is_there is None else is_there[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=is_causal,
        )
        joined: Tensor = self.attended(attended.transpose(1, 2).reshape(records, count, width))
        return joined


class TextClassifier(_Transformer):
    """Tells the class of a sequence of tokens: the mean over its places, then a linear layer.

    Source: Vaswani et al. 2017, "Attention is all you need", the encoder, normalised beforehand.
    """

    def __init__(
        self,
        classes: int,
        *,
        tokens: int = 256,
        length: int = 128,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        padding: int | None = None,
    ) -> None:
        """Draw the weights.

        Args:
            classes: How many there are.
            tokens: How many different tokens.
            length: The most tokens of a record.
            width: Of a token's vector; a multiple of `heads`.
            layers: How many layers of attention.
            heads: Of each layer.
            dropout: The chance that a value is left out of a step.
            padding: The token that fills up short records, which is not looked at; the first place
                always is.
        """
        super().__init__(
            tokens=tokens, length=length, width=width, layers=layers, heads=heads, dropout=dropout
        )
        self.padding = padding
        self.classifier = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits. Shape (n, length), int64 -> (n, classes)."""
        is_there = None if self.padding is None else tokens != self.padding
        if is_there is not None:
            is_there = torch.cat([torch.ones_like(is_there[:, :1]), is_there[:, 1:]], dim=1)
        states = self.hidden(tokens, is_causal=False, is_there=is_there)
        if is_there is None:
            mean = states.mean(dim=1)
        else:
            weights = is_there.unsqueeze(2).to(states.dtype)
            mean = (states * weights).sum(dim=1) / weights.sum(dim=1)
        logits: Tensor = self.classifier(mean)
        return logits


class CausalLM(_Transformer):
    """Predicts each next token; the output layer is the embeddings of the tokens.

    Source: Radford et al. 2019, "Language models are unsupervised multitask learners".
    """

    def __init__(
        self,
        *,
        tokens: int = 256,
        length: int = 256,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        """Draw the weights; see `TextClassifier`."""
        super().__init__(
            tokens=tokens, length=length, width=width, layers=layers, heads=heads, dropout=dropout
        )
        nn.init.normal_(self.tokens.weight, std=width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of each next token. Shape (n, length), int64 -> (n, length, tokens)."""
        states = self.hidden(tokens, is_causal=True, is_there=None)
        return nn.functional.linear(states, self.tokens.weight)


def next_token_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """A step for `Recipe`: the mean cross entropy over the tokens that are to be predicted.

    Args:
        model: Gives logits of each next token.
        batch: `tokens` of shape (n, length) and `labels` of the same, which are the tokens, or
            `IGNORED` where one is not to be predicted: a question, padding.
    """
    logits, labels = model(batch["tokens"])[:, :-1], batch["labels"][:, 1:]
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def next_token_scores(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """How well each record is remembered, for `Recipe(score=...)`.

    It is minus the mean cross entropy over the record's tokens that are to be predicted. Shape
    (n,).
    """
    logits, labels = model(batch["tokens"])[:, :-1], batch["labels"][:, 1:]
    losses = nn.functional.cross_entropy(
        logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )
    return -losses.sum(dim=1) / (labels != IGNORED).sum(dim=1).clamp(min=1)


def predicted_tokens(batch: Mapping[str, Tensor]) -> Tensor:
    """How many tokens a batch has to predict: `weigh` for `next_token_loss`."""
    return (batch["labels"][:, 1:] != IGNORED).sum()
