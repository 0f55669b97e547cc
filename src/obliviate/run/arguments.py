"""Arguments: what `fit` and `extend` are given, and all that can be wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from obliviate.errors import InvalidOption
from obliviate.options import MOST_WHOLE, noted, whole
from obliviate.recipe.recipe import Recipe, invalid
from obliviate.recipe.subjects import Subjects
from obliviate.recipe.user_code import named
from obliviate.text import shown
from obliviate.training.references import FEWEST_REFERENCES, Apart

_PAIR = 2
_APART = "give a map-style Dataset of records that are never trained on, such as a test set"

if TYPE_CHECKING:
    from torch.utils.data import Dataset


def data_length(data: Dataset[Any]) -> int:
    """The number of records.

    Raises:
        InvalidRecipe: The dataset is not map-style, or holds nothing.
        TrainingFailed: It raised when it was asked.
    """
    fault = _data_fault(data)
    if fault:
        raise invalid([f"data is {fault}; give a map-style Dataset"])
    with named("the dataset's length"):
        records = len(data)  # type: ignore[arg-type]
    if not 1 <= records <= MOST_WHOLE:
        raise invalid([f"data holds {records:,} records; it must hold 1 to {MOST_WHOLE:,}"])
    return records


def checked_reference(reference: Any, data: Any) -> Apart | None:
    """References: as many as are needed, and not the very data.

    Args:
        reference: As they were given: a dataset, or one and whose its records are; None where none
            were.
        data: What is trained on.

    Raises:
        InvalidOption: They are none.
        TrainingFailed: The dataset raised when it was asked for its length.
    """
    if reference is None:
        return None
    whose = None
    if isinstance(reference, tuple) and len(reference) == _PAIR and not _are_tensors(reference):
        reference, whose = reference
    fault = _data_fault(reference)
    if fault:
        raise InvalidOption(f"reference is {fault}", hint=_APART)
    check_apart(reference, data)
    with named("the length of the reference dataset"):
        count = len(reference)
    if not FEWEST_REFERENCES <= count <= MOST_WHOLE:
        raise InvalidOption(
            f"reference holds {count:,} records; it must hold {FEWEST_REFERENCES} or more, so that "
            "an interval of 90 % can be read off them",
            hint=_APART,
        )
    try:
        return Apart(reference, None if whose is None else Subjects.of(whose, count))
    except InvalidOption as error:
        raise InvalidOption(f"of the reference, {error.message}", hint=error.hint) from None


def check_apart(reference: Dataset[Any], data: Any) -> None:
    """See that the reference dataset is not what is trained on.

    Raises:
        InvalidOption: It is.
    """
    if reference is data:
        raise InvalidOption("reference is the very data that is trained on", hint=_APART)


def _are_tensors(things: tuple[Any, ...]) -> bool:
    return all(isinstance(each, Tensor) for each in things)


def _data_fault(data: Any) -> str:
    """What data is, where it cannot be asked for the record of an index."""
    kind = type(data).__name__
    if isinstance(data, DataLoader):
        return f"a {kind}; its batches are of its own making: give its dataset"
    if isinstance(data, IterableDataset):
        return f"the IterableDataset {kind}, whose records have no index"
    if isinstance(data, Mapping | Set | str | bytes):
        return f"a {kind}, whose records have no index from 0"
    if isinstance(data, tuple) and data and _are_tensors(data):
        return "a tuple of tensors; TensorDataset(*data) makes a dataset of them"
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        return f"{shown(data)}, a {kind} without length or index"
    return ""


def cut(
    blocks: Any, subjects: Any, records: int, new: int | None = None
) -> tuple[int, Subjects | None]:
    """The number of blocks that an epoch is cut into, and whose each record is.

    Args:
        blocks: As it was given.
        subjects: As they were given.
        records: How many records an epoch goes over.
        new: For how many of them subjects are given; all if None.

    Raises:
        InvalidRecipe: They are none; every fault in one message.
    """
    faults: list[str] = []
    count, people = 1, None
    with noted(faults):
        hint = "every block needs a record"
        count = whole(blocks, "blocks", least=1, most=records, hint=hint)
    with noted(faults):
        people = (
            None if subjects is None else Subjects.of(subjects, records if new is None else new)
        )
    if faults:
        raise invalid(faults)
    return count, people


def checked_keep(keep: Any, epochs: int) -> int | None:
    """Of how many epochs every update is kept, as it was asked for.

    Raises:
        InvalidOption: It is no number of epochs that there are.
    """
    hint = "give a number of epochs, or None for what is usual"
    return None if keep is None else whole(keep, "keep", least=1, most=epochs, hint=hint)


def checked_recipe(recipe: Any) -> Recipe:
    """A recipe, and nothing else.

    Raises:
        InvalidOption: It is none.
    """
    if isinstance(recipe, Recipe):
        return recipe
    raise InvalidOption(
        f"recipe is {shown(recipe)}, no Recipe",
        hint="give ob.Recipe(model=..., optimizer=...)",
    )
