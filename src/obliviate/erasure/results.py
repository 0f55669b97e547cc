"""What the calls of a run give back."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from obliviate.ledger.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import nn

    from obliviate.ledger import ErasureFacts, ExportFacts
    from obliviate.ledger.facts import Guarantee


@dataclass(frozen=True, kw_only=True)
class Erasure(Outcome):
    """A carried-out erasure.

    Attributes:
        digest: sha256 of the state of the model that it left, in hex.
        guarantee: Of that model.
        method: The name of the method.
        records: How many records were erased.
        ignored: Named records that had been erased before.
        blocks_total: How many blocks the chain has.
        speedup: Against a full retrain, from this run's measured block times.
        number: Its number in the ledger; None where there was nothing to do.
        condemned: See `Status`.
    """

    digest: str
    guarantee: Guarantee
    method: str
    records: int
    ignored: tuple[int, ...]
    blocks_total: int
    speedup: float
    number: int | None
    condemned: int = 0
    restored: Callable[[], nn.Module] = field(repr=False, compare=False)

    def facts(self) -> dict[str, Any]:
        """All but the model, by name."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.compare}
        return {**values, "blocks_replayed": self.blocks_replayed}

    @cached_property
    def model(self) -> nn.Module:
        """The model that it left, in eval mode; read from the vault when it is first asked for.

        Raises:
            ModelGone: A later erasure has destroyed that state.
        """
        return self.restored()


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Requests that could not be carried out, and go on waiting.

    Attributes:
        requests: Their numbers; empty where it was the chain that could not be settled.
        error: Why.
    """

    requests: tuple[int, ...]
    error: Exception


class Work(list[Erasure]):
    """What a call of `work` carried out, in order.

    Attributes:
        failed: What it could not carry out.
    """

    def __init__(self, carried: Iterable[Erasure] = (), failed: Iterable[Failure] = ()) -> None:
        super().__init__(carried)
        self.failed = tuple(failed)


@dataclass(frozen=True, kw_only=True)
class Extension:
    """A carried-out extension.

    Attributes:
        records: How many records came, those that were left out included.
        blocks: How many blocks they were cut into.
        excluded: Records that the caller left out.
        reingested: Records left out because they had been erased before.
        requested: Records left out because their people wait to be forgotten.
    """

    records: int
    blocks: int
    excluded: tuple[int, ...] = ()
    reingested: tuple[int, ...] = ()
    requested: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Status:
    """How a run stands.

    Attributes:
        records: How many records the dataset has.
        erased: How many of them are erased or were left out from the start.
        blocks: How many blocks the chain will have.
        blocks_done: How many it has.
        guarantee: Of the model at the end; None while the run is unfinished.
        digest: Of that model; None while the run is unfinished.
        first_approximate: The first block whose state is not exact.
        seconds_to_settle: How long `settle` would take, from measured block times.
        erasures: All erasures, in order.
        condemned: Objects that are to be destroyed and of which something is left, because another
            process keeps reading the ledger from before. The next call that writes tries again.
        journal_head: The hash of the journal's last entry, which stands for all that was written
            down so far: kept elsewhere, it shows later whether any of it was changed.
        base: The digest of the frozen part of the model, which no checkpoint holds; None where
            there is none.
        given_up: How many epochs were given up, since training was ended early.
        evaluations: What the user measured while the run was trained, by block; of states that an
            erasure replaced, nothing is left.
        caveat: What the guarantee does not cover, where the recipe declares that.
        exports: All models that were handed on, in order, and how they stand to the run now.
        returned: How many records were erased by a newer ledger than this one, which is an older
            copy: they are left out again by the next call that writes.
    """

    records: int
    erased: int
    blocks: int
    blocks_done: int
    guarantee: Guarantee | None
    digest: str | None
    first_approximate: int | None
    seconds_to_settle: float
    erasures: tuple[ErasureFacts, ...]
    journal_head: str
    condemned: int = 0
    base: str | None = None
    given_up: int = 0
    evaluations: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    caveat: str | None = None
    exports: tuple[ExportFacts, ...] = ()
    returned: int = 0
