"""A model without the data that it was trained on: of an export, or of a run's own folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from obliviate.chain.chain import Chain
from obliviate.chain.custody import opened
from obliviate.disk.paths import absolute
from obliviate.errors import InvalidOption, Mismatch, RunMissing
from obliviate.export import place_of, weights
from obliviate.ledger import Ledger
from obliviate.ledger.open import has_ledger
from obliviate.recipe.recipe import invalid
from obliviate.run.fingerprint import check_base
from obliviate.run.served import Served, check_fits
from obliviate.states.update import captured, digest
from obliviate.states.update import place as memory
from obliviate.training.base import Base, moving_in
from obliviate.training.determinism import Environment
from obliviate.training.model import buffer_names, load_state, model_of
from obliviate.vault import VaultSettings, check_seal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from obliviate.export import Card, Place
    from obliviate.states.update import State
    from obliviate.vault import Seal

_READ_BY = {
    "pretrained": "from_pretrained of transformers, or PeftModel.from_pretrained of peft, reads it",
    "onnx": "onnxruntime reads it",
}


def open_model(
    path: str | Path, *, model: Callable[[], nn.Module], seal: Seal | None = None
) -> nn.Module:
    """The model of an export, or of a run as it is now, without the data that it was trained on.

    Args:
        path: What `Run.export` made, as "safetensors"; or a run's folder.
        model: Makes the module, without arguments: the recipe's own factory.
        seal: The master key of a run's sealed vault; where it is remembered to be if None.

    Returns:
        A new module, in eval mode.

    Raises:
        RunMissing: There is neither an export nor a run.
        ForeignRecipe: The factory makes another module than was trained.
        Mismatch: The state is not what was exported.
        RunDamaged: It cannot be read.
        RunUnfinished, RunOutdated, WrongKey, KeyMissing: The run cannot be served; see `Run.model`.
    """
    if not callable(model):
        raise invalid([f"model is {model!r}; give the function that makes the module"])
    place = place_of(path)
    if "://" not in place.name and has_ledger(absolute(place.name, "the run's folder")):
        check_seal(seal)
        return _of_run(absolute(place.name, "the run's folder"), model, seal)
    card = place.card()
    if card is None:
        raise RunMissing(
            f"there is neither an export nor a run in {place.name}",
            hint="check the path; `Run.export` makes an export",
        )
    return _of_export(place, card, model)


def _of_export(place: Place, card: Card, factory: Callable[[], nn.Module]) -> nn.Module:
    if card.form != "safetensors":
        raise InvalidOption(
            f'{place.name} holds a model as "{card.form}"',
            hint=_READ_BY.get(card.form, "whoever announced that form says what reads it"),
        )
    model = model_of(factory, seed=0)
    load_state(model, _named(weights.read(place), model, place.name))
    if digest(captured(model.state_dict())) != card.state_digest:
        raise Mismatch(
            f"the state in {place.name} is not what was exported", hint="export the model again"
        )
    return model.eval()


def _named(tensors: State, model: nn.Module, where: str) -> State:
    """The state that a module asks for; of tied tensors one is there.

    Raises:
        ForeignRecipe: The module asks for something else.
    """
    wanted, known = model.state_dict(), dict[tuple[object, ...], Tensor]()
    for name in tensors.keys() & wanted.keys():
        known[memory(wanted[name])] = tensors[name]
    state = {name: known[memory(own)] for name, own in wanted.items() if memory(own) in known}
    lacking = [f"it lacks {name}" for name in sorted(wanted.keys() - state.keys())]
    check_fits(model, {**tensors, **state}, where, lacking)
    return state


def _of_run(folder: Path, factory: Callable[[], nn.Module], seal: Seal | None) -> nn.Module:
    ledger = Ledger(folder)
    try:
        ledger.check(names=("runs", "parts"))
        vault = opened(ledger, folder, seal)
        ledger.unlock(vault.unwrapped)
        facts = ledger.run()
        with Environment.of("cpu", facts.environment).entered():
            made = model_of(factory, int(facts.fingerprint.get("seed", 0)))
        base, spacing = (
            Base(made, moving_in(facts.fingerprint)),
            VaultSettings.of(facts.vault).spacing,
        )
        check_base(facts, base.words())
        buffers = buffer_names(made) - base.names

        def chain() -> Chain:
            return Chain(ledger, vault, facts.blocks, buffers, spacing=spacing, parts=facts.parts)

        served = Served((ledger, vault, facts), chain, lambda: made, str(folder))
        model, entry = served.model_and_entry()
    finally:
        ledger.close()
    is_average = "ema" in facts.fingerprint  # the digest is that of all that is trained, too
    if not is_average and digest(captured(base.rest(model.state_dict()))) != entry.digest:
        raise Mismatch(
            f"the state of {folder} does not make the module the one that the ledger names",
            hint="give the factory of the recipe that the run was made with; where it is that one, "
            "`obliviate verify RUN` says what was changed",
        )
    return model
