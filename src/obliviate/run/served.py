"""What a run serves: its model, as long as it may be served, and what an erasure left."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from obliviate.chain.custody import check_newest
from obliviate.erasure.results import Erasure
from obliviate.errors import (
    PUT_BACK,
    Mismatch,
    ModelGone,
    RunDamaged,
    RunOutdated,
    RunUnfinished,
)
from obliviate.ledger.outcome import Outcome
from obliviate.training.model import load_state

if TYPE_CHECKING:
    from torch import nn

    from obliviate.chain.chain import Chain
    from obliviate.run.carried import Carried
    from obliviate.run.worker import Writer


class Served:
    """What a run serves at this moment."""

    def __init__(self, writer: Writer, place: str) -> None:
        """Look at the run of a writer; `place` names it in messages."""
        self._writer, self._place = writer, place
        self._ledger, self._vault = writer.ledger, writer.vault

    def model(self) -> nn.Module:
        """The model as it is now; see `Run.model`."""
        chain = self.chain()
        self._check_returned()
        try:
            return self._model(chain, chain.length)
        except RunDamaged:
            if chain.is_current():
                check_newest(self._ledger, self._vault)  # another ledger may have destroyed it
                raise
        chain = self.chain()  # another process rewrote it while we read
        return self._model(chain, chain.length)

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
        chain, first = self._writer.chain(), self._writer.facts.parts[0].length
        if chain.length < first:
            raise RunUnfinished(
                f"{self._place} has been trained to block {chain.length} of {first}",
                hint="call fit again with the same arguments: it goes on where it was",
            )
        return chain

    def _left(self, number: int | None, block: int, digest: str) -> nn.Module:
        """The model that an erasure left, as long as nothing has replaced it."""
        chain = self._writer.chain()
        if block <= chain.length and chain.entries[block].digest == digest:
            return self._model(chain, block)
        raise ModelGone(
            f"the model that erasure {number or 'before'} left was replaced by a later one, and "
            "its state destroyed",
            hint="take `model` of the run: the model as it is now",
        )

    def _check_returned(self) -> None:
        returned = self._writer.marking.returned()
        if len(returned):
            raise RunOutdated(
                f"{self._place} holds {len(returned)} records that were erased before, such as "
                f"record {returned[0]}: it was put back from an older copy",
                hint="call settle: it leaves them out again, as every call does that writes",
            )

    def _model(self, chain: Chain, block: int) -> nn.Module:
        # not a copy of a module: its hooks and functions would go on using what was copied
        model = self._writer.trainer.new_module()
        load_state(model, chain.state(block))
        return model.eval()


def _text(digest: str | None) -> str:
    if digest is None:
        raise Mismatch("the last block has no digest", hint=PUT_BACK)
    return digest
