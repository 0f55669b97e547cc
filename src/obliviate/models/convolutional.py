"""Convolutional nets: LeNet-5, VGG and ResNet-18, in sizes for small and for large images."""

from __future__ import annotations

from torch import Tensor, nn

from obliviate.errors import InvalidOption
from obliviate.options import whole

_LENET_SIDE, _LENET_LEAST = 28, 12
_VGG = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
}
"""How many convolutions each stage has; Simonyan, Zisserman, table 1."""
_VGG_WIDTHS = (1, 2, 4, 8, 8)
_RESNET_WIDTHS = (1, 2, 4, 8)
_WIDTH = 64


class LeNet(nn.Module):
    """LeNet-5, with rectified units and max pooling: 61,706 parameters on 28x28 grey pixels.

    Source: LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document
    recognition".
    """

    def __init__(self, classes: int = 10, *, channels: int = 1, side: int = _LENET_SIDE) -> None:
        """Draw the weights.

        Args:
            classes: How many there are.
            channels: Of the images.
            side: Height and width of the images in pixels.
        """
        super().__init__()
        classes, channels = _counts(classes=classes, channels=channels)
        side = whole(side, "side", least=_LENET_LEAST, hint="give the images' side in pixels")
        reduced = (side // 2 - 4) // 2
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * reduced**2, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits. Shape (n, channels, side, side) -> (n, classes)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


class VGG(nn.Module):
    """VGG with BatchNorm, and one linear layer behind the convolutions: 9.2 million for depth 11.

    Images of any size of 32 pixels or more: what is left of them is averaged.

    Source: Simonyan, Zisserman 2015, "Very deep convolutional networks for large-scale image
    recognition"; with BatchNorm and a small classifier as is usual on CIFAR.
    """

    def __init__(
        self, classes: int = 10, *, channels: int = 3, depth: int = 11, width: int = _WIDTH
    ) -> None:
        """Draw the weights.

        Args:
            classes: How many there are.
            channels: Of the images.
            depth: 11, 13 or 16.
            width: Channels of the first stage; later ones have up to eight times as many.
        """
        super().__init__()
        classes, channels, width = _counts(classes=classes, channels=channels, width=width)
        stages = _VGG.get(whole(depth, "depth"))
        if stages is None:
            raise InvalidOption(f"depth is {depth}", hint="give 11, 13 or 16")
        layers: list[nn.Module] = []
        for convolutions, times in zip(stages, _VGG_WIDTHS, strict=True):
            for _ in range(convolutions):
                layers += [
                    nn.Conv2d(channels, width * times, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width * times),
                    nn.ReLU(),
                ]
                channels = width * times
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits. Shape (n, channels, height, width) -> (n, classes)."""
        logits: Tensor = self.classifier(self.features(images).mean(dim=(2, 3)))
        return logits


class ResNet18(nn.Module):
    """ResNet-18: 11.2 million parameters at width 64, with 10 classes.

    Source: He, Zhang, Ren, Sun 2016, "Deep residual learning for image recognition", table 1; the
    small stem is the usual one on CIFAR.
    """

    def __init__(
        self,
        classes: int = 10,
        *,
        channels: int = 3,
        width: int = _WIDTH,
        is_small: bool = True,
    ) -> None:
        """Draw the weights.

        Args:
            classes: How many there are.
            channels: Of the images.
            width: Channels of the first stage; the last one has eight times as many.
            is_small: Whether images are small (32 or 64 pixels): the first convolution is of 3x3
                and keeps the size. Else it is the published one, of 7x7 in steps of two, with
                pooling behind it.
        """
        super().__init__()
        classes, channels, width = _counts(classes=classes, channels=channels, width=width)
        kernel, stride = (3, 1) if is_small else (7, 2)
        stem: list[nn.Module] = [
            nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        if not is_small:
            stem.append(nn.MaxPool2d(3, 2, padding=1))
        self.stem = nn.Sequential(*stem)
        blocks: list[nn.Module] = []
        channels = width
        for stage, times in enumerate(_RESNET_WIDTHS):
            blocks.append(_Residual(channels, width * times, stride=2 if stage else 1))
            channels = width * times
            blocks.append(_Residual(channels, channels, stride=1))
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits. Shape (n, channels, height, width) -> (n, classes)."""
        logits: Tensor = self.classifier(self.blocks(self.stem(images)).mean(dim=(2, 3)))
        return logits


class _Residual(nn.Module):
    """Two convolutions, and a way around them."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.around: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.around = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, images: Tensor) -> Tensor:
        passed: Tensor = self.convolutions(images) + self.around(images)
        return passed.relu()


def _counts(**given: int) -> list[int]:
    hint = "give an int of 1 or more"
    return [whole(value, name, least=1, hint=hint) for name, value in given.items()]
