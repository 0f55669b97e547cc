"""The live module, what of it is in a checkpoint, and other modules by the same recipe."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from obliviate.errors import NotDeterministic
from obliviate.recipe.recipe import invalid
from obliviate.states.update import LARGE_BYTES, captured, size_bytes
from obliviate.training.base import Base
from obliviate.training.model import (
    another_model,
    buffer_names,
    is_dense,
    load_state,
    made_model,
    parameter_names,
)
from obliviate.training.module_state import Hidden

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from torch import Tensor

    from obliviate.recipe.recipe import Recipe
    from obliviate.states.memory import Memory
    from obliviate.states.update import State
    from obliviate.training.determinism import Environment


class Live:
    """The module that is trained, and its loss.

    Attributes:
        model: The module, on the recipe's device.
        loss: The recipe's, or a copy of it where it is a module, which may change in training.
        base: The frozen part of the module, which is in no checkpoint.
        parameters: Names of the parameters in a checkpoint, tied ones once.
        buffers: Names of what no optimizer makes; see `buffer_names`.
        memory: Where the states of a training go; None while nobody trains it.
    """

    base: Base
    parameters: frozenset[str]
    buffers: frozenset[str]

    def __init__(
        self,
        recipe: Recipe,
        environment: Environment,
        *,
        model: nn.Module | None = None,
        moving: Collection[str] = (),
    ) -> None:
        """Make a module.

        Args:
            recipe: By which.
            environment: In what environment.
            model: A new one from the recipe's factory; one is made if None.
            moving: See `Base`; what the first steps showed when the run was made.
        """
        self._recipe, self._environment = recipe, environment
        self.memory: Memory | None = None
        with environment.entered():
            self.model = model or made_model(recipe)
        loss = recipe.loss
        if isinstance(loss, nn.Module):
            loss = copy.deepcopy(loss).to(recipe.device)
        self.loss: Callable[[Any, Any], Tensor] | None = loss
        self._hidden = Hidden(self.model, self.loss)
        self._spare: tuple[nn.Module, Hidden] | None = None
        self._set_base(self.model, moving)

    def _set_base(self, new: nn.Module, moving: Collection[str]) -> None:
        """Tell apart what a checkpoint has, by the live module; its values are a new one's."""
        self.base = Base(self.model, moving)
        self.parameters = parameter_names(self.model) - self.base.names
        self.buffers = buffer_names(self.model) - self.base.names
        first = self.base.rest(new.state_dict())
        is_kept = all(map(is_dense, first.values())) and size_bytes(first) <= LARGE_BYTES
        self._initial: State | None = captured(first) if is_kept else None

    # Other modules

    def initial(self) -> State:
        """The state of a new module: kept where it is small, else made anew."""
        if self._initial is not None:
            return captured(self._initial)
        with self._environment.entered():
            return captured(self.base.rest(made_model(self._recipe).state_dict()))

    def new_module(self) -> nn.Module:
        """See `BlockTrainer.new_module`."""
        with self._environment.entered():
            model = another_model(self._recipe, self.model)
        if differing := self.base.differing(model):
            raise NotDeterministic(
                f"model() gave {differing[0]!r}, which is frozen, with other values than before",
                hint="load the same values each time, or draw them from the global generators of "
                "torch, numpy and Python, which are seeded",
            )
        return model

    def spare_module(self) -> nn.Module:
        """See `BlockTrainer.spare_module`; where there is a base, one is kept that shares it."""
        if self._spare is not None:
            model, hidden = self._spare
            hidden.put_back()
            return model
        model = self.new_module()
        if self.base.names:  # large, or slow to make
            self.base.lend(model)
            self._spare = model, Hidden(model, None)
        return model

    # The live one

    def put_back(self) -> None:
        """Make what is in no checkpoint what it was in a new module."""
        self._hidden.put_back()

    def check_thawed(self, block: int) -> None:
        """See that training left alone what requires a gradient.

        Raises:
            InvalidRecipe: It did not.
        """
        if thawed := self._hidden.thawed():
            raise invalid(
                [
                    f"block {block}: the model changed requires_grad of {thawed[0]!r} while it was "
                    "trained, which no checkpoint keeps; give that part a parameter group, and a "
                    "learning rate of 0 for as long as it is to stay as it is"
                ]
            )

    def state(self, block: int) -> State:
        """A copy of the state after a block.

        Raises:
            InvalidRecipe: Something was written to that no checkpoint holds.
        """
        entries = self.model.state_dict()
        if written := self.base.changed(entries):
            raise invalid(
                [
                    f"block {block}: {written[0]!r} was written to, which is frozen and no part of "
                    "a checkpoint, as the first steps left it alone; make it a buffer "
                    "(register_buffer): buffers are in every checkpoint"
                ]
            )
        return captured(self.base.rest(entries), self.memory)

    def tried_state(self) -> State:
        """A copy of the state after first steps.

        What is frozen and was written to all the same belongs to it, and to every state from now
        on; the live module has the values of a new one there.
        """
        entries = self.model.state_dict()
        written = frozenset(self.base.changed(entries))
        names = [name for name in entries if name not in self.base.names - written]
        state = captured({name: entries[name] for name in names})
        if written:
            with self._environment.entered():
                new = made_model(self._recipe)
            load_state(self.model, {name: new.state_dict()[name] for name in written})
            self._spare = None  # it may share their memory
            self._set_base(new, self.base.moving | written)
        return state
