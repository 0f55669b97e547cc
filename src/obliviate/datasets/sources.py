"""Sources: where published data comes from, and the command that gets it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from obliviate.errors import ExtraMissing, InvalidOption
from obliviate.options import path_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_TABULAR = "https://github.com/privacytrustlab/datasets/raw/master"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_WRITERS = (
    "https://github.com/facebookresearch/qmnist/raw/master/qmnist-{train,test}-labels-idx2-int.gz"
)
_IDX = "{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a dataset is published.

    Attributes:
        name: What it is called.
        command: Gets it into the folder {folder}, a place to be filled in.
    """

    name: str
    command: str

    def missing(self, what: str, folder: Path) -> InvalidOption:
        """The error that says what is not there, and how to get it."""
        return InvalidOption(
            f"{self.name} is not complete: {what}",
            hint=f"get it with `{self.command.replace('{folder}', str(folder))}`, "
            "or give the folder where it is",
        )

    def damaged(self, path: Path, fault: str) -> InvalidOption:
        """The error that says what is wrong with a file."""
        return self.again(InvalidOption(f"{path} {fault}"), path.parent)

    def again(self, error: InvalidOption, folder: Path) -> InvalidOption:
        """What a reader of such files says of one, and how to get it again."""
        command = self.command.replace("{folder}", str(folder))
        return InvalidOption(error.message, hint=f"get {self.name} again with `{command}`")

    def file(self, place: str | Path, names: Sequence[str]) -> Path:
        """The first file of a folder that there is, of those that may hold the data.

        Args:
            place: The folder, or the file itself.
            names: What the file may be called.

        Raises:
            InvalidOption: There is none of them.
        """
        path = Path(path_text(place, "the place of the data"))
        if path.is_file():
            return path
        found = next((path / name for name in names if (path / name).is_file()), None)
        if found is None:
            raise self.missing(f"there is no {' or '.join(names)} in {path}", path)
        return found


def _curl(*urls: str) -> str:
    return f"curl -L --create-dirs --output-dir {{folder}} --remote-name-all {' '.join(urls)}"


def _untarred(name: str) -> str:
    return f"mkdir -p {{folder}} && curl -L {_TABULAR}/dataset_{name}.tgz | tar -xz -C {{folder}}"


def _from_hub(name: str) -> str:
    return f"hf download --repo-type dataset {name} --local-dir {{folder}}"


MNIST = Source(name="MNIST", command=_curl(f"https://ossci-datasets.s3.amazonaws.com/mnist/{_IDX}"))
WRITERS = Source(name="the list of MNIST's writers (QMNIST)", command=_curl(_WRITERS))
FASHION_MNIST = Source(name="Fashion-MNIST", command=_curl(f"{_FASHION}/{_IDX}"))
PURCHASE = Source(name="Purchase-100", command=_untarred("purchase"))
LOCATION = Source(name="Location-30", command=_untarred("location"))
ONLINE_RETAIL = Source(
    name="Online Retail",
    command="curl -L --create-dirs -o {folder}/online_retail.csv "
    "https://archive.ics.uci.edu/static/public/352/data.csv",
)
MOVIELENS = Source(
    name="MovieLens",
    command="curl -LO https://files.grouplens.org/datasets/movielens/ml-latest-small.zip && "
    "unzip -j ml-latest-small.zip -d {folder}",
)
TOFU = Source(name="TOFU", command=_from_hub("locuslab/TOFU"))
SPEECHES = Source(
    name="tiny Shakespeare",
    command=_curl(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
    ),
)
CIFAR10 = Source(name="CIFAR-10", command=_from_hub("uoft-cs/cifar10"))
TINY_IMAGENET = Source(name="Tiny-ImageNet", command=_from_hub("zh-plus/tiny-imagenet"))
SVHN = Source(name="SVHN", command=_from_hub("ufldl-stanford/svhn"))
IMAGENET = Source(name="ImageNet", command=_from_hub("ILSVRC/imagenet-1k"))


def library(name: str, what: str) -> ModuleType:
    """A library of the extra `datasets`.

    Args:
        name: The module.
        what: Cannot be read without it.

    Raises:
        ExtraMissing: It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ExtraMissing(
            f"{what} cannot be read: {error}", hint="pip install 'obliviate[datasets]'"
        ) from error
