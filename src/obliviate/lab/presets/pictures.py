"""Presets of pictures: MNIST with its writers, Fashion-MNIST, CIFAR-10, SVHN, ImageNet."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from torch.optim import SGD

from obliviate.datasets import idx_folder, images, mnist, shifted
from obliviate.datasets.idx_files import Split
from obliviate.datasets.image_files import SplitMissing
from obliviate.datasets.sources import CIFAR10, FASHION_MNIST, IMAGENET, MNIST, SVHN, TINY_IMAGENET
from obliviate.errors import InvalidOption
from obliviate.models import VGG, LeNet, ResNet18

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn
    from torch.utils.data import Dataset

    from obliviate.datasets.image_sets import Images
    from obliviate.datasets.sources import Source
    from obliviate.lab.presets.settings import Settings
    from obliviate.recipe.recipe import Project

_PLAIN_SGD = partial(SGD, lr=0.03, momentum=0.9)
_DECAYED_SGD = partial(SGD, lr=0.1, momentum=0.9, weight_decay=5e-4)
_SIDE = 224
_TEST_SPLITS = ("test", "validation", "valid", "val")


def writers(settings: Settings) -> Project:
    """MNIST by its writers; LeNet-5."""
    loaded = mnist(settings.folder(MNIST))
    return _grey(settings, loaded.data, loaded.test, subjects=loaded.subjects, epochs=5)


def fashion(settings: Settings) -> Project:
    """Fashion-MNIST, by records; LeNet-5."""
    folder = settings.folder(FASHION_MNIST)
    data, test = (idx_folder(folder, split, source=FASHION_MNIST) for split in get_args(Split))
    return _grey(settings, data, test, epochs=10)


def _grey(
    settings: Settings, data: Dataset[Any], test: Dataset[Any] | None, **options: Any
) -> Project:
    """Grey images of 28x28 pixels; LeNet-5."""
    return settings.project(
        model=LeNet, optimizer=_PLAIN_SGD, data=data, test=test, blocks=100, **options
    )


def cifar10(settings: Settings) -> Project:
    """CIFAR-10, shifted and mirrored; ResNet-18 of width 16 (64 as it is published)."""
    return _small(settings, CIFAR10, classes=10, moved=shifted)


def tiny_imagenet(settings: Settings) -> Project:
    """Tiny-ImageNet of 64x64 pixels, shifted and mirrored; ResNet-18 of width 16."""
    return _small(settings, TINY_IMAGENET, classes=200, moved=partial(shifted, margin=8))


def _small(
    settings: Settings, source: Source, *, classes: int, moved: Callable[[Tensor], Tensor]
) -> Project:
    """Pictures of few pixels; ResNet-18 of width 16."""
    model = partial(ResNet18, classes, width=settings.wide(16))
    return _images(settings, source, model=model, moved=moved, epochs=20, blocks=25)


def svhn(settings: Settings) -> Project:
    """SVHN's cropped digits, shifted; VGG-11 of width 16."""
    return _images(
        settings,
        SVHN,
        under="cropped_digits",
        model=partial(VGG, 10, width=settings.wide(16)),
        epochs=15,
        blocks=50,
        optimizer=partial(SGD, lr=0.05, momentum=0.9, weight_decay=5e-4),
    )


def imagenet(settings: Settings) -> Project:
    """ImageNet, cropped to 224x224 pixels, shifted and mirrored; ResNet-18 of width 64."""
    return _images(
        settings,
        IMAGENET,
        model=partial(ResNet18, 1000, width=settings.wide(64), is_small=False),
        moved=partial(shifted, margin=32),
        size=_SIDE,
        epochs=30,
        blocks=100,
        batch_size=256,
        reference_share=0.005,
    )


def _images(
    settings: Settings,
    source: Source,
    *,
    model: Callable[[], nn.Module],
    under: str = "",
    size: int | None = None,
    **options: Any,
) -> Project:
    folder = settings.folder(source)
    usual: dict[str, Any] = {"optimizer": _DECAYED_SGD, "batch_size": 128}
    return settings.project(
        model=model,
        data=_split(folder, under, ["train"], source, size),
        test=_split(folder, under, _TEST_SPLITS, source, size),
        **usual | options,
    )


def _split(
    folder: Path, under: str, names: Sequence[str], source: Source, size: int | None
) -> Images:
    """The first split that there is: what to test on has other names in other places.

    Raises:
        InvalidOption: There is none, or the first one is damaged.
    """
    place = folder / under if (folder / under).is_dir() else folder
    missing = []
    for name in names:
        try:
            return images(place, split=name, size=size)
        except SplitMissing as error:
            missing.append(error)
        except InvalidOption as error:
            raise source.again(error, folder) from error
    raise source.missing(missing[0].message, folder) from missing[0]
