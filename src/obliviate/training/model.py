"""The module that is trained: made, filled with a state, and what of it is in a state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from obliviate.recipe.deal import key
from obliviate.recipe.recipe import invalid
from obliviate.recipe.user_code import named
from obliviate.states.update import is_wrapper, place
from obliviate.training.averages import PREFIX, attach_averages
from obliviate.training.determinism import seed_generators

if TYPE_CHECKING:
    from collections.abc import Callable

    from obliviate.recipe.recipe import Recipe
    from obliviate.states.update import State


def made_model(recipe: Recipe) -> nn.Module:
    """A new module from the recipe's factory, under the run's seed, on the recipe's device."""
    model = model_of(recipe.model, recipe.seed, recipe.device)
    if recipe.ema is not None:
        with named("ema"):
            attach_averages(model)
    return model


def model_of(factory: Callable[[], nn.Module], seed: int, device: str = "cpu") -> nn.Module:
    """A new module from a factory, under a run's seed.

    Raises:
        InvalidRecipe, TrainingFailed: It gives none that can be trained, or it raised.
    """
    seed_generators(key(seed, "model"), device)
    with named("the model's factory"):
        model = factory()
        if not isinstance(model, nn.Module):
            raise invalid([f"model() gave {type(model).__name__}; it must give a torch.nn.Module"])
        if any(each.is_meta for each in (*model.parameters(), *model.buffers())):
            raise invalid(["model() gave tensors without memory (meta); make them on a device"])
        return model.to(device)


def another_model(recipe: Recipe, first: nn.Module) -> nn.Module:
    """A second new module from the recipe's factory.

    Raises:
        InvalidRecipe: It shares memory with the first one.
    """
    other = made_model(recipe)
    mine = {tensor.data_ptr() for tensor in _filled(first).values()}
    for name, tensor in _filled(other).items():
        if tensor.data_ptr() in mine:
            fault = f"model() gives {name!r} of the model before: training would change both"
            raise invalid([fault + "; make new modules in it, or deepcopy the old ones"])
    return other


def _filled(model: nn.Module) -> dict[str, Tensor]:
    entries = model.state_dict().items()
    return {name: each for name, each in entries if is_dense(each) and each.numel()}


def has_batch_norm(model: nn.Module) -> bool:
    """Whether some module cannot be trained on a single record."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def parameter_names(model: nn.Module) -> frozenset[str]:
    """Names of a state's entries that are parameters, tied ones once.

    They are known by their memory: a state dict may call a parameter by another name, or not at
    all.
    """
    places = set(map(place, model.parameters()))
    return frozenset(
        name
        for name, entry in model.state_dict().items()
        if isinstance(entry, Tensor) and place(entry) in places
    )


def buffer_names(model: nn.Module) -> frozenset[str]:
    """Names of a state's entries that are no parameters, such as running variances and codebooks.

    Integers without dimensions are not among them: they count steps.
    """
    parameters = filter(is_dense, model.parameters())
    trained = {parameter.data_ptr() for parameter in parameters if parameter.numel()}
    return frozenset(
        name
        for name, entry in model.state_dict(keep_vars=True).items()
        if isinstance(entry, Tensor)
        and entry.layout == torch.strided
        and not name.startswith(PREFIX)  # a sum of what steps did, as weights are
        and not (isinstance(entry, nn.Parameter) or entry.data_ptr() in trained)
        and (entry.ndim or entry.is_floating_point() or entry.is_complex())
    )


def is_dense(value: object) -> bool:
    """Whether a state dict's entry is a tensor with memory of its own and a shape."""
    if not isinstance(value, Tensor) or is_lazy(value) or is_wrapper(value):
        return False
    return value.layout == torch.strided and not value.is_meta


def load_state(model: nn.Module, state: State) -> None:
    """Copy a state into a module, in place, so that ties and views survive.

    What the state does not have, a frozen base, stays as it is.
    """
    live = model.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            live[name].copy_(tensor)
    torch.clear_autocast_cache()
