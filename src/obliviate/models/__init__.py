"""Ready models: small nets of the sizes that are published, for benchmarks and first tries.

A recipe takes a factory: `Recipe(model=partial(models.ResNet18, 10, width=16))`. All of them are
made of deterministic operations, so that a replay gives the same bits.
"""

from obliviate.models.convolutional import VGG, LeNet, ResNet18
from obliviate.models.named import timm, transformers
from obliviate.models.perceptron import MLP
from obliviate.models.transformer import (
    IGNORED,
    CausalLM,
    TextClassifier,
    next_token_loss,
    next_token_scores,
    predicted_tokens,
)

__all__ = [
    "IGNORED",
    "MLP",
    "VGG",
    "CausalLM",
    "LeNet",
    "ResNet18",
    "TextClassifier",
    "next_token_loss",
    "next_token_scores",
    "predicted_tokens",
    "timm",
    "transformers",
]
