"""Settings of a preset: where its data is, and what a user may change of its recipe."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset

from obliviate.datasets import Images, held_out
from obliviate.errors import InvalidOption
from obliviate.options import index_of, path_text, text, whole
from obliviate.recipe.recipe import Project, Recipe
from obliviate.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from obliviate.datasets.sources import Source

VARIABLE = "OBLIVIATE_DATA"
"""Names the folder that holds a folder of data for each preset."""

_REFERENCE_SHARE = 0.05
_REFERENCES = 60
"""About how many to set aside of few records: an interval is read off 20 at the least."""
_TEST_SHARE, _TEST_SEED = 0.2, 1
_Given = TypeVar("_Given")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What was asked for; None where the preset says.

    Attributes:
        name: Of the preset.
        data: The folder of its data.
        epochs: How often all records are gone through.
        blocks: How many blocks an epoch is cut into.
        records: How many records to take, the first ones.
        width: Of the model.
        seed: Of the recipe.
        device: Where to train.
        workers: Processes that load data.
    """

    name: str
    data: str | Path | None = None
    epochs: int | None = None
    blocks: int | None = None
    records: int | None = None
    width: int | None = None
    seed: int = 0
    device: str = "cpu"
    workers: int = 0

    @classmethod
    def of(cls, name: str, data: str | Path | None, options: dict[str, Any]) -> Settings:
        """Take options as Python gives them, or as text, as a command line does.

        Raises:
            InvalidOption: One has a name or a value that is not allowed.
        """
        numbers = ("epochs", "blocks", "records", "width", "seed", "workers")
        for option in options:
            if option not in (*numbers, "device"):
                raise InvalidOption(
                    f"the preset {name} has no option {option!r}",
                    hint=f"it takes: data, {', '.join(numbers)}, device",
                )
        given: dict[str, Any] = {
            each: _number(value, each) for each, value in options.items() if each in numbers
        }
        if "device" in options:
            given["device"] = text(options["device"], "device")
        return cls(name=name, data=data, **given)

    def folder(self, source: Source) -> Path:
        """The folder of the data.

        It is what was given; else the preset's own in the folder that OBLIVIATE_DATA names, or that
        folder; else the preset's own in the user's cache, ~/.cache/obliviate.

        Raises:
            InvalidOption: It is not there; the hint is the command that gets the data.
        """
        folder = self._place()
        if not folder.is_dir():
            raise source.missing(f"there is no folder {folder}", folder)
        return folder

    def check_no_folder(self) -> None:
        """See that no folder of data is given for what comes with the library.

        Raises:
            InvalidOption: One is.
        """
        if self.data is not None and self.data != "":
            raise InvalidOption(
                f"data is {shown(self.data)}, and the preset {self.name} reads no files",
                hint="leave it out: the records come with scikit-learn",
            )

    def _place(self) -> Path:
        if self.data is not None and self.data != "":
            return Path(path_text(self.data, "data"))
        own = self.name.replace("-", "_")
        if named := os.environ.get(VARIABLE):
            root = Path(path_text(named, VARIABLE))
            return root / own if (root / own).is_dir() or not root.is_dir() else root
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(cache) / "obliviate" / own

    def project(
        self,
        *,
        model: Callable[[], nn.Module],
        optimizer: Callable[[Any], torch.optim.Optimizer],
        data: Dataset[Any],
        epochs: int,
        blocks: int,
        subjects: Sequence[str | None] | None = None,
        test: Dataset[Any] | None = None,
        moved: Callable[[Tensor], Tensor] | None = None,
        reference_share: float = _REFERENCE_SHARE,
        **recipe: Any,
    ) -> Project:
        """The project: some people are held out as references, the others are trained on.

        Args:
            model: Its factory.
            optimizer: Its factory.
            data: All that may be trained on.
            epochs: Unless another number was asked for.
            blocks: Unless another number was asked for.
            subjects: Whose each record is.
            test: Records to measure accuracy on.
            moved: What is done to images whenever they are trained on; not to references.
            reference_share: How many are held out.
            recipe: What else the recipe says.
        """
        data, subjects = first_of(data, subjects, self.records)
        share = max(reference_share, min(0.5, _REFERENCES / len(data)))  # type: ignore[arg-type]
        trained, whose, reference = held_out(data, subjects, share=share)
        return Project(
            recipe=Recipe(
                model=model,
                optimizer=optimizer,
                epochs=_chosen(self.epochs, epochs),
                seed=self.seed,
                device=self.device,
                workers=self.workers,
                **{"loss": nn.functional.cross_entropy, "schedule": cosine} | recipe,
            ),
            data=trained if moved is None else _moved(trained, moved),
            subjects=whose,
            reference=reference,
            test=test,
            blocks=_chosen(self.blocks, blocks),
        )

    def wide(self, usual: int) -> int:
        """The width of the model."""
        return _chosen(self.width, usual)


def cosine(step: int, total: int) -> float:
    """From 1 to 0 over the whole chain, along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / total))


def without_test(
    data: Dataset[Any], subjects: Sequence[str | None] | None
) -> tuple[Dataset[Any], list[Any] | None, Dataset[Any]]:
    """Records, less a fifth of the people to test on, where nothing is published for that."""
    trained, whose, test = held_out(data, subjects, share=_TEST_SHARE, seed=_TEST_SEED)
    return trained, whose, test[0] if isinstance(test, tuple) else test


def first_of(
    data: Dataset[Any], subjects: Sequence[str | None] | None, most: int | None
) -> tuple[Dataset[Any], Sequence[str | None] | None]:
    """The first records, and whose they are."""
    if most is None:
        return data, subjects
    some: Dataset[Any]
    if isinstance(data, TensorDataset):
        some = TensorDataset(*(each[:most] for each in data.tensors))
    elif isinstance(data, Images):
        some = data.first(most)
    else:
        count = min(most, len(data))  # type: ignore[arg-type]
        some = Subset(data, range(count))
    return some, None if subjects is None else subjects[:most]


def _moved(part: Dataset[Any], transform: Callable[[Tensor], Tensor]) -> Dataset[Any]:
    # the references are a part of the same images, and stay as they are
    if not (isinstance(part, Subset) and isinstance(part.dataset, Images)):
        raise TypeError("only a part of some Images can be moved")
    return Subset(part.dataset.transformed(transform), part.indices)


def _number(value: Any, name: str) -> int:
    is_text = isinstance(value, str) and value.strip().isdecimal()
    number = int(value) if is_text else index_of(value)
    least = 0 if name in ("seed", "workers") else 1
    return whole(value if number is None else number, name, least=least)


def _chosen(given: _Given | None, usual: _Given) -> _Given:
    return usual if given is None else given
