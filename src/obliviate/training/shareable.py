"""What several ranks cannot share out, as far as it can be seen without a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from obliviate.recipe.recipe import invalid

if TYPE_CHECKING:
    from torch import nn

    from obliviate.recipe.recipe import Recipe

_BARE = "let model() give the bare one: what the ranks exchange is worked out here"
_EXCHANGING = {
    "SyncBatchNorm": "give the model BatchNorm",
    "DistributedDataParallel": _BARE,
    "FullyShardedDataParallel": _BARE,
    "FSDPModule": _BARE,
}
"""What of torch exchanges by itself, and what to do instead."""


def check_recipe(recipe: Recipe, ranks: int) -> None:
    """See that training by a recipe can be shared out.

    Raises:
        InvalidRecipe: It cannot; every fault in one message.
    """
    if recipe.trainer is not None:
        raise invalid([f"{type(recipe).__name__} trains by a trainer of its own; take one process"])
    if recipe.is_manual:
        raise invalid(["step takes optimizers, and makes its own steps; take one process"])
    count, faults = recipe.microbatches, []
    if count % ranks:
        fitting = [str(each) for each in range(2, count + 1) if not count % each]
        also = f", or take {' or '.join(fitting)} ranks" if fitting else ""
        faults.append(
            f"microbatches is {count}, which {ranks} ranks cannot share out; give a multiple of "
            f"{ranks}{also}"
        )
    if recipe.accumulation != "tree":
        faults.append(
            f'accumulation is "{recipe.accumulation}", one after the other; only "tree" can be '
            "shared out"
        )
    if faults:
        raise invalid(faults)


def check_model(model: nn.Module) -> None:
    """See that no part of a model exchanges by itself: it would wait for ranks that do not.

    Raises:
        InvalidRecipe: One does.
    """
    for name, module in model.named_modules():
        kinds = [each.__name__ for each in type(module).__mro__]
        found = next((each for each in kinds if each in _EXCHANGING), None)
        if found is not None:
            where = f"{name!r} is" if name else "the model is"
            raise invalid([f"{where} {found}, which exchanges by itself; {_EXCHANGING[found]}"])
