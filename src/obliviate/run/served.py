"""What a run serves: its model, as long as it may be served, and what an erasure left."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Self

from obliviate.chain.custody import check_newest
from obliviate.erasure.results import Erasure
from obliviate.errors import (
    PUT_BACK,
    ForeignRecipe,
    Mismatch,
    ModelGone,
    RunDamaged,
    RunOutdated,
    RunUnfinished,
)
from obliviate.ledger.marking import Marking
from obliviate.ledger.outcome import Outcome
from obliviate.training.averages import detach_averages, served_state
from obliviate.training.model import load_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from obliviate.chain.chain import Chain
    from obliviate.ledger import Entry, Ledger, RunFacts
    from obliviate.run.carried import Carried
    from obliviate.run.worker import Writer
    from obliviate.states.update import State
    from obliviate.vault import Vault

_SHOWN = 5


class Served:
    """What a run serves at this moment."""

    def __init__(
        self,
        custody: tuple[Ledger, Vault, RunFacts],
        chain: Callable[[], Chain],
        new_model: Callable[[], nn.Module],
        place: str,
    ) -> None:
        """Look at a run.

        Args:
            custody: Its ledger, its vault, and what the ledger says of it.
            chain: Gives its chain as it is now.
            new_model: Makes its module, in the run's environment.
            place: Its name in messages.
        """
        self._ledger, self._vault, self._facts = custody
        self._chain, self._new_model, self._place = chain, new_model, place

    @classmethod
    def by(cls, writer: Writer, place: str) -> Self:
        """Look at the run of a writer."""
        # not a copy of a module: its hooks and functions would go on using what was copied
        custody = writer.ledger, writer.vault, writer.facts
        return cls(custody, writer.chain, writer.trainer.new_module, place)

    def model(self) -> nn.Module:
        """The model as it is now; see `Run.model`."""
        return self.model_and_entry()[0]

    def model_and_entry(self) -> tuple[nn.Module, Entry]:
        """The model as it is now, and what the ledger says of that state."""
        chain = self.chain()
        self._check_returned()
        try:
            return self._model(chain, chain.length), chain.entries[-1]
        except RunDamaged:
            if chain.is_current():
                check_newest(self._ledger, self._vault)  # another ledger may have destroyed it
                raise
        chain = self.chain()  # another process rewrote it while we read
        return self._model(chain, chain.length), chain.entries[-1]

    def digest(self) -> str:
        """Of the model."""
        return _text(self.chain().entries[-1].digest)

    def erasure(self, carried: Carried) -> Erasure:
        """The answer to a call that carried an erasure out."""
        chain, last = carried.chain, carried.chain.entries[-1]
        facts = None if carried.number is None else self._ledger.erasures.erasure(carried.number)
        outcome = carried.outcome or (facts and facts.outcome)
        outcome = outcome or Outcome(stop_reason="nothing to do", digest_before=last.digest)
        seconds = carried.seconds or outcome.seconds
        full = sum(entry.seconds for entry in chain.entries)
        digest = _text(last.digest)
        now = {"digest": digest, "guarantee": last.guarantee, "seconds": seconds}
        return Erasure(
            **{**vars(outcome), **now},
            method=str(facts.method["name"]) if facts else "none",
            records=facts.records if facts else 0,
            ignored=carried.ignored,
            blocks_total=chain.length,
            speedup=full / seconds if seconds else float("inf"),
            number=carried.number,
            condemned=len(self._ledger.objects.keys("condemned")),
            restored=partial(self._left, carried.number, chain.length, digest),
        )

    def chain(self) -> Chain:
        """The chain, once it has been trained to the end of its first epochs."""
        chain, first = self._chain(), self._facts.parts[0].length
        if chain.length < first:
            raise RunUnfinished(
                f"{self._place} has been trained to block {chain.length} of {first}",
                hint="call fit again with the same arguments: it goes on where it was",
            )
        return chain

    def _left(self, number: int | None, block: int, digest: str) -> nn.Module:
        """The model that an erasure left, as long as nothing has replaced it."""
        chain = self._chain()
        if block <= chain.length and chain.entries[block].digest == digest:
            return self._model(chain, block)
        raise ModelGone(
            f"the model that erasure {number or 'before'} left was replaced by a later one, and "
            "its state destroyed",
            hint="take `model` of the run: the model as it is now",
        )

    def _check_returned(self) -> None:
        returned = Marking(self._ledger, self._facts).returned()
        if len(returned):
            raise RunOutdated(
                f"{self._place} holds {len(returned)} records that were erased before, such as "
                f"record {returned[0]}: it was put back from an older copy",
                hint="call settle: it leaves them out again, as every call does that writes",
            )

    def _model(self, chain: Chain, block: int) -> nn.Module:
        model, state = self._new_model(), served_state(chain.state(block))
        detach_averages(model)
        check_fits(model, state, self._place)
        load_state(model, state)
        return model.eval()


def check_fits(model: nn.Module, state: State, where: str, faults: Sequence[str] = ()) -> None:
    """See that a module has a state's entries.

    Args:
        model: The module.
        state: The state.
        where: Where the state is, for the message.
        faults: What is known to be wrong.

    Raises:
        ForeignRecipe: It is another module than was trained.
    """
    own = model.state_dict()
    found = [*faults, *(f"the module has no {name}" for name in sorted(state.keys() - own.keys()))]
    found += [
        f"{name} is {list(tensor.shape)}, not {list(own[name].shape)}"
        for name, tensor in state.items()
        if name in own and tensor.shape != own[name].shape
    ]
    if found:
        raise ForeignRecipe(
            f"the state in {where} is of another module: {'; '.join(found[:_SHOWN])}",
            hint="give the factory of the recipe that the run was made with",
        )


def _text(digest: str | None) -> str:
    if digest is None:
        raise Mismatch("the last block has no digest", hint=PUT_BACK)
    return digest
