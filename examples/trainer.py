"""A Trainer of Transformers that can forget: a small vision transformer that reads digits.

From the command line, where this file is a project:

    obliviate fit examples/trainer.py runs/trainer
    obliviate forget runs/trainer --record 17

From Python, where it is a script:

    python examples/trainer.py --run runs/trainer

`erasable` trains what `trainer.train()` would: the same batches to the model, the same loss, decay
groups, warm-up and cosine, accumulation and clipping. What is different is the order of the
records, which is such that anyone of them can be left out later.
"""

from __future__ import annotations

import argparse

import torch
from torch.utils.data import Dataset, TensorDataset
from transformers import (
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

import obliviate as ob
from obliviate.datasets import digits
from obliviate.integrations.transformers import erasable, recipe_of

BLOCKS = 20


class Digits(Dataset[dict[str, torch.Tensor]]):
    """Digits as Transformers likes them: mappings."""

    def __init__(self, data: TensorDataset) -> None:
        self.images, self.labels = data.tensors

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, record: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.images[record], "labels": self.labels[record]}


LEARNED, TESTED = map(Digits, digits())


def trainer() -> Trainer:
    """A Trainer as one would write it, whoever forgets later."""
    set_seed(0)
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_labels=10,
    )
    arguments = TrainingArguments(
        output_dir="runs/trainer-output",
        num_train_epochs=5,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=2,
        learning_rate=5e-3,
        lr_scheduler_type="cosine",
        warmup_steps=15,
        weight_decay=0.05,
        logging_strategy="no",
        use_cpu=True,
    )
    return Trainer(ViTForImageClassification(config), arguments, train_dataset=LEARNED)


def project(blocks: str = str(BLOCKS)) -> ob.Project:
    """What the command line trains.

    Args:
        blocks: How many blocks the records are cut into.
    """
    recipe = recipe_of(trainer())
    return ob.Project(recipe=recipe, data=LEARNED, test=TESTED, blocks=int(blocks))


def accuracy(model: torch.nn.Module) -> float:
    """The share of test digits that a model tells right."""
    with torch.no_grad():
        told = model(pixel_values=TESTED.images).logits.argmax(dim=1)
    return float((told == TESTED.labels).float().mean())


def main() -> None:
    """Train, forget a record, settle exactly, and have two blocks replayed as proof."""
    parser = argparse.ArgumentParser(description="Forget what a Trainer was trained on.")
    parser.add_argument("--run", default="runs/trainer", help="folder of the run")
    parser.add_argument("--blocks", default=str(BLOCKS), help="how many blocks to train in")
    chosen = parser.parse_args()

    run = erasable(trainer(), chosen.run, blocks=int(chosen.blocks))
    print(f"trained: {accuracy(run.model):.1%} of the test digits are told right")

    erasure = run.forget(records=[17])
    print(f"forgot a record: {erasure.blocks_replayed} of {erasure.blocks_total} blocks replayed")
    print(f"  now {erasure.guarantee}, {accuracy(erasure.model):.1%} right")

    settled = run.settle()
    print(f"settled: {settled.guarantee}, {accuracy(settled.model):.1%} right")
    print(f"blocks that replay to the very same bits: {run.verify(blocks=[1, 2]).reproduced}")


if __name__ == "__main__":
    main()
