"""A LightningModule that can forget people: a script of Lightning, and one call beside it.

From Python, where it is a script:

    python examples/lightning_module.py --run runs/lightning

From the command line, where this file is a project:

    obliviate fit examples/lightning_module.py runs/lightning
    obliviate forget runs/lightning --subject writer-17

Whatever the Trainer is told (epochs, accumulation, clipping, precision) and the module does
(its step, its hooks, its optimizers and schedulers) is done in every replay as Lightning does it.
"""

from __future__ import annotations

import argparse
import logging

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import obliviate as ob
from obliviate.datasets import digits
from obliviate.integrations.lightning import erasable, recipe_of

BLOCKS = 25
EPOCHS = 3
SUBJECTS = [f"writer-{number // 10}" for number in range(1500)]  # ten digits each


class Digits(L.LightningModule):
    """A small network, trained by AdamW over one cycle of the learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10)
        )

    def training_step(self, batch):
        """The loss of a batch."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        """AdamW, and a schedule over all steps."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.002)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.01, total_steps=self.trainer.estimated_stepping_batches
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def script() -> tuple[L.Trainer, Digits, DataLoader]:
    """What there would be without Obliviate, up to `trainer.fit(module, loader)`."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    L.seed_everything(1, verbose=False)
    learned, _ = digits()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
    )
    return trainer, Digits(), DataLoader(learned, batch_size=32, shuffle=True)


def project(blocks: str = str(BLOCKS)) -> ob.Project:
    """What the command line trains.

    Args:
        blocks: How many blocks an epoch is cut into.
    """
    trainer, module, loader = script()
    recipe = recipe_of(trainer, module, data=loader, subjects=SUBJECTS, blocks=int(blocks))
    return ob.Project(recipe=recipe, data=loader.dataset, subjects=SUBJECTS, blocks=int(blocks))


def accuracy(model: nn.Module, data: TensorDataset) -> float:
    """The share of records that a model tells right."""
    images, labels = data.tensors
    with torch.no_grad():
        return float((model.net(images).argmax(dim=1) == labels).float().mean())


def main() -> None:
    """Train, forget a person, settle exactly, and have two blocks replayed as proof."""
    parser = argparse.ArgumentParser(description="Forget with a LightningModule.")
    parser.add_argument("--run", default="runs/lightning", help="folder of the run")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="how many blocks to train in")
    chosen = parser.parse_args()
    _, tested = digits()

    trainer, module, loader = script()
    run = erasable(
        trainer, module, chosen.run, data=loader, subjects=SUBJECTS, blocks=chosen.blocks
    )
    print(f"trained: {accuracy(run.model, tested):.1%} of the test digits are told right")

    erasure = run.forget(subjects=["writer-17"])
    print(f"forgot a person: {erasure.blocks_replayed} of {erasure.blocks_total} blocks replayed")
    print(f"  now {erasure.guarantee}, {accuracy(erasure.model, tested):.1%} right")

    settled = run.settle()
    print(f"settled: {settled.guarantee}, {accuracy(settled.model, tested):.1%} right")
    print(f"blocks that replay to the very same bits: {run.verify(blocks=[1, 2]).reproduced}")


if __name__ == "__main__":
    main()
