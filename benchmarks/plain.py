"""The hand-written loop that all is measured against: no checkpoints, no seeding, no ledger."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import TensorDataset, default_collate

NOBODY = np.array([], dtype=np.int64)


def train(recipe, data, layout):
    """Train over the very batches of a layout."""
    *_, model = blocks(recipe, data, layout)
    return model.eval()


def blocks(recipe, data, layout):
    """The same, block by block: the model after each."""
    model = recipe.model()
    inputs, targets = data.tensors
    model.train()
    for block in range(1, layout.blocks + 1):
        if block == 1 or recipe.optimizer_state == "fresh":
            optimizer = recipe.optimizer(model.parameters())
            rates = [group["lr"] for group in optimizer.param_groups]
        first = layout.first_step(block)
        for step, records in layout.batches(block, NOBODY):
            index = torch.from_numpy(records)
            if recipe.schedule:
                factor = recipe.schedule(first + step, layout.total_steps(block))
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
            optimizer.zero_grad(set_to_none=True)
            recipe.loss(model(inputs[index]), targets[index]).backward()
            optimizer.step()
        yield model


def train_shuffled(recipe, data, steps=None):
    """Ordinary training: in every epoch all records in a new order; one optimizer.

    Args:
        recipe: Net, loss, optimizer, schedule and epochs; a repeat counts as one.
        data: What is trained on.
        steps: How many batches an epoch is cut into, as alike as can be; else full ones.
    """
    model = recipe.model()
    optimizer = recipe.optimizer(model.parameters())
    rates = [group["lr"] for group in optimizer.param_groups]
    epochs = recipe.epochs * recipe.repeats
    per_epoch = steps or -(-len(data) // recipe.batch_size)
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(data))
        batches = order.tensor_split(steps) if steps else order.split(recipe.batch_size)
        for step, index in enumerate(batches):
            if recipe.schedule:
                factor = recipe.schedule(epoch * per_epoch + step, per_epoch * epochs)
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
            inputs, targets = batch(data, index)
            optimizer.zero_grad(set_to_none=True)
            recipe.loss(model(inputs), targets).backward()
            optimizer.step()
    return model.eval()


def batch(data, index):
    """Some records: rows of tensors, or one by one as a `DataLoader` fetches them."""
    if isinstance(data, TensorDataset):
        return data[index]
    return default_collate([data[record] for record in index.tolist()])


@torch.no_grad()
def accuracy(model, data) -> float:
    """Percent of records that a model tells right."""
    inputs, targets = data.tensors
    guesses = torch.cat([model(some).argmax(1) for some in inputs.split(1000)])
    return 100 * (guesses == targets).double().mean().item()
