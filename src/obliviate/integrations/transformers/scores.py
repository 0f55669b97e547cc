"""Scores: how well a model of Transformers remembers each record, by its labels and its logits.

The log odds of the true class of a classifier; the mean log probability of the labelled tokens of
a language model, causal or masked; minus the loss of a classifier of several labels and of a
regression.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft import PeftModel
from torch import Tensor, nn

from obliviate.errors import InvalidRecipe
from obliviate.methods.scores import is_classification, margins

if TYPE_CHECKING:
    from collections.abc import Mapping

_KNOWN = (
    "LMHeadModel",
    "ForCausalLM",
    "ForMaskedLM",
    "ForConditionalGeneration",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForImageClassification",
)
IGNORED = -100
"""The label of what is not to be predicted, as everywhere in Transformers."""


def scores_of(model: nn.Module, batch: Mapping[str, Any], *, is_shifted: bool) -> Tensor:
    """One number for each record of a batch; NaN where nothing of it is labelled. Shape (n,).

    Args:
        model: In evaluation mode.
        batch: As the collator makes it, with labels.
        is_shifted: Whether the logits at a place are of the token behind it, as a causal language
            model's are.

    Raises:
        InvalidRecipe: There are no labels, or they do not go with the logits.
    """
    labels = batch.get("labels")
    if not isinstance(labels, Tensor):
        raise _unknown(f"a batch has no labels, but {', '.join(map(str, batch))}")
    outputs = model(**batch)  # labels too: encoder-decoders make their inputs of them
    logits: Tensor = outputs["logits"]
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    if problem == "multi_label_classification":
        each = nn.functional.binary_cross_entropy_with_logits(
            logits.float(), labels.float(), reduction="none"
        )
        return -each.double().mean(dim=1)
    if is_classification(logits, labels):
        return margins(logits, labels)
    if logits.ndim == labels.ndim + 1 and logits.ndim > 2 and not labels.is_floating_point():  # noqa: PLR2004
        return _token_scores(logits, labels, is_shifted=is_shifted)
    if logits.numel() == labels.numel():
        squares = (logits.reshape(len(labels), -1) - labels.reshape(len(labels), -1)).square()
        return -squares.double().mean(dim=1)
    raise _unknown(f"logits of shape {list(logits.shape)}, labels of {list(labels.shape)}")


def _token_scores(logits: Tensor, labels: Tensor, *, is_shifted: bool) -> Tensor:
    """The mean log probability of the labelled tokens of each record. Shape (n,)."""
    if is_shifted:
        logits, labels = logits[..., :-1, :], labels[..., 1:]
    losses = nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(),
        labels.reshape(-1),
        ignore_index=IGNORED,
        reduction="none",
    )
    is_labelled = (labels != IGNORED).reshape(len(labels), -1)
    total = losses.double().reshape(len(labels), -1).sum(dim=1)
    return -total / is_labelled.sum(dim=1)  # 0/0 is NaN: there is nothing to go by


def _unknown(found: str) -> InvalidRecipe:
    return InvalidRecipe(
        f"these records cannot be scored by themselves: {found}",
        hint="give a score of your own: replace(recipe_of(trainer), score=...), or ask for "
        'method="exact"',
    )


def has_known_scores(model: nn.Module) -> bool:
    """Whether a model is of a kind that `scores_of` knows: language models and classifiers."""
    return type(base_of(model)).__name__.endswith(_KNOWN)


def base_of(model: nn.Module) -> nn.Module:
    """The model that an adapter is put into; one without an adapter is its own."""
    base: nn.Module = model.get_base_model() if isinstance(model, PeftModel) else model
    return base
