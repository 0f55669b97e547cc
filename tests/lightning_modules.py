"""LightningModules that the tests train, by Lightning and for a run."""

from __future__ import annotations

import lightning as L
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, StepLR
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

WIDTH, CLASSES, RECORDS = 6, 3, 48


def records(count: int = RECORDS) -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(count, WIDTH, generator=generator)
    return TensorDataset(inputs, inputs[:, :CLASSES].argmax(1))


class Classifier(L.LightningModule):
    """With dropout, so that the generators count."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, inputs):
        return self.head(self.body(inputs))

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        loss = F.cross_entropy(self(inputs), targets)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Composed(Classifier):
    """Of another module, with layers that are made late, running averages and a metric."""

    def __init__(self, width=8, part=None) -> None:
        super().__init__()
        self.save_hyperparameters(ignore="part")
        self.part = part or Classifier()
        self.accuracy = MulticlassAccuracy(CLASSES)
        self.late = None

    def setup(self, stage):
        self.rate = 0.1 / self.trainer.max_epochs

    def configure_model(self):
        if self.late is None:
            torch.manual_seed(11)
            self.late = nn.Sequential(nn.BatchNorm1d(CLASSES), nn.Linear(CLASSES, CLASSES))

    def forward(self, inputs):
        return self.late(self.part(inputs)) + self.head(self.body(inputs))

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        outputs = self(inputs)
        self.accuracy(outputs, targets)
        self.log("accuracy", self.accuracy)
        return F.cross_entropy(outputs, targets)

    def on_train_epoch_end(self):
        self.accuracy.reset()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9)


class OneCycle(Classifier):
    """Two groups in an order of their own: clipping sums norms in it."""

    def configure_optimizers(self):
        groups = [
            {"params": [each for each in self.parameters() if each.ndim < 2], "weight_decay": 0.0},
            {"params": [each for each in self.parameters() if each.ndim > 1], "weight_decay": 0.1},
        ]
        optimizer = torch.optim.AdamW(groups, lr=0.01)
        total = self.trainer.estimated_stepping_batches
        scheduler = OneCycleLR(optimizer, max_lr=0.05, total_steps=total)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


class Reused(Classifier):
    """Uses a weight twice in a pass, which autocast's cache would sum up in halves."""

    def forward(self, inputs):
        return self.head(self.body(inputs)) + self.head(self.body(inputs.flip(1)))

    def training_step(self, batch, batch_idx):
        return {"loss": super().training_step(batch, batch_idx), "more": batch_idx}


class ByEpochs(Classifier):
    """Two schedulers, one by epochs and one by every third batch."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        by_step = {
            "scheduler": LambdaLR(optimizer, lambda step: 1 / (1 + step)),
            "interval": "step",
            "frequency": 3,
        }
        return [optimizer], [StepLR(optimizer, 1, gamma=0.5), by_step]


class Hooked(Classifier):
    """Has a part in everything that happens to a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Linear(8, CLASSES).requires_grad_(False)
        self.strength = 0.0

    def on_train_epoch_start(self):
        self.strength = 0.1 * (1 + self.current_epoch)

    def on_train_batch_start(self, batch, batch_idx):
        self.scale = 1 + batch_idx % 2

    def on_after_batch_transfer(self, batch, dataloader_idx):
        inputs, targets = batch
        return inputs + 0.5, targets

    def training_step(self, batch):
        inputs, targets = batch
        if len(targets) and targets[0] == 2:
            return None
        noise = self.strength * torch.randn_like(inputs)
        return self.scale * F.cross_entropy(self(inputs + noise), targets)

    def on_after_backward(self):
        for each in self.parameters():
            if each.grad is not None:
                each.grad.mul_(1.1)

    def on_before_optimizer_step(self, optimizer):
        for group in optimizer.param_groups:
            for each in group["params"]:
                if each.grad is not None:
                    each.grad.add_(0.01)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val, gradient_clip_algorithm):
        if self.head.weight.grad is not None:
            self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="value")

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        optimizer.step(closure=optimizer_closure)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * min(1.0, (self.trainer.global_step + 1) / 10)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.teacher.weight.lerp_(self.head.weight.detach(), 0.1)


class Adversaries(L.LightningModule):
    """Two networks, an optimizer each, of which one makes a step at every other batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.maker, self.judge = nn.Linear(2, WIDTH), nn.Linear(WIDTH, 1)

    def training_step(self, batch, batch_idx):
        inputs, _ = batch
        for_maker, for_judge = self.optimizers()
        made = self.maker(torch.randn(len(inputs), 2))
        if batch_idx % 2 == 0:
            self.toggle_optimizer(for_maker)
            loss = F.softplus(-self.judge(made)).mean()
            for_maker.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(for_maker, 0.1, "norm")
            for_maker.step()
            self.untoggle_optimizer(for_maker)
        told = F.softplus(-self.judge(inputs)).mean() + F.softplus(self.judge(made.detach())).mean()
        for_judge.zero_grad()
        self.manual_backward(told)
        for_judge.step()
        self.log("told", told)

    def configure_optimizers(self):
        return [
            torch.optim.Adam(self.maker.parameters(), lr=0.01),
            torch.optim.SGD(self.judge.parameters(), lr=0.1, momentum=0.9),
        ]


def halved(chosen):
    """A batch of records, collated by a function of its own."""
    inputs, targets = zip(*chosen, strict=True)
    return torch.stack(inputs) / 2 + 0.1 * torch.randn(WIDTH), torch.tensor(targets)


class Data(L.LightningDataModule):
    """Has its records once it was set up, and touches each batch."""

    def setup(self, stage):
        self.train = records()

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=8, shuffle=True)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0] * 2, batch[1]


class Fragile(Classifier):
    """Meets its fate in the second epoch."""

    fate = staticmethod(lambda: None)

    def training_step(self, batch, batch_idx):
        if self.current_epoch == 1 and batch_idx > 8:
            self.fate()
        return super().training_step(batch, batch_idx)


# What cannot be carried over


class Told(Classifier):
    """Asks for what no replay can give."""

    def lr_scheduler_step(self, scheduler, metric):
        scheduler.step()


class Asking(Classifier):
    asked = "callback_metrics"

    def training_step(self, batch, batch_idx):
        getattr(self.trainer, self.asked)
        return super().training_step(batch, batch_idx)


class Stopping(Classifier):
    def training_step(self, batch, batch_idx):
        self.trainer.should_stop = True
        return super().training_step(batch, batch_idx)


class Skipping(Classifier):
    def on_train_batch_start(self, batch, batch_idx):
        return -1


class Counting(Classifier):
    seen = 0

    def __init__(self):
        super().__init__()
        self.seen = 0

    def training_step(self, batch, batch_idx):
        self.seen += len(batch[0])
        return super().training_step(batch, batch_idx)


class Cooling(Classifier):
    def __init__(self):
        super().__init__()
        self.heat = 1.0

    def on_train_epoch_end(self):
        self.heat *= 0.9


class Heating(Cooling):
    def on_train_epoch_start(self):
        self.heat *= 1.1


class Copying(Classifier):
    def on_train_epoch_end(self):
        with torch.no_grad():
            self.head.weight.mul_(0.5)


class Gathering(Adversaries):
    def training_step(self, batch, batch_idx):
        _, optimizer = self.optimizers()
        self.manual_backward(F.softplus(-self.judge(batch[0])).mean())
        if batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()


class Counted(Adversaries):
    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx + 0 * self.global_step)
