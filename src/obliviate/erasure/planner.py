"""The planner: what erasing some records would touch and cost, from one look at the ledger.

Many requests are planned from the same look, so that a long queue costs no more queries than one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from obliviate.erasure.plan import EXPECTED_LAG, Pace, Plan, make_plan
from obliviate.errors import InvalidOption, NothingLeft
from obliviate.methods.exact import Exact
from obliviate.recipe.deal import is_among
from obliviate.recipe.parts import places_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from obliviate.ledger import Ledger, RunFacts
    from obliviate.methods.method import Method
    from obliviate.recipe.parts import Part, Places


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Plans erasures of one run, as it stood at one time.

    Attributes:
        parts: Of the run.
        erased: The ids of those that are erased. Sorted.
        pace: Of the chain.
    """

    parts: Sequence[Part]
    erased: NDArray[np.int64]
    pace: Pace

    @classmethod
    def of(cls, ledger: Ledger, run: RunFacts) -> Planner:
        """The planner of a run."""
        seconds, first_approximate, window = ledger.chain.pace()
        pace = Pace(
            seconds=seconds,
            first_approximate=first_approximate,
            expected_lag=expected_lag(ledger),
            window=window,
        )
        return cls(parts=run.parts, erased=ledger.records.erased(), pace=pace)

    def plan(
        self,
        named: NDArray[np.int64],
        places: Places,
        method: Method,
        *,
        is_checked: bool = True,
    ) -> Plan:
        """What erasing some records would touch and cost.

        Args:
            named: Their ids, each once; those that are erased are ignored.
            places: Where each is trained on.
            method: How.
            is_checked: Whether somebody has to be left, and the method has to be within reach.

        Raises:
            NothingLeft: No record would be left.
            InvalidOption: The method goes back further than the run keeps.
        """
        is_gone = is_among(named, self.erased)
        ids = named[~is_gone]
        if is_checked:
            check_left(sum(part.records for part in self.parts), len(self.erased), len(ids))
        places, reach = places.of(~is_gone), 1
        if method.reach is not None and len(ids):
            reach = int(places.last(method.reach).touched[0])
            if is_checked:
                self._check_reach(method.reach, reach)
        elif method.usual_reach is not None and len(ids):
            reach = int(places.last(method.usual_reach).touched[0])
        return make_plan(
            method=method.name,
            reach=reach,
            records=ids.tolist(),
            blocks=places.touched.tolist(),
            ignored=named[is_gone].tolist(),
            pace=self.pace,
        )

    def _check_reach(self, back: int, block: int) -> None:
        part = next(each for each in reversed(self.parts) if each.first_block <= block)
        if block < part.full_from:
            raise InvalidOption(
                f"the method goes {back} epochs back; of the {len(part.deals)} epochs, the run "
                f"keeps the last {part.keep} in full",
                hint=f'give back={part.keep} or less, or method="exact"; a run that is made with '
                f"keep={back} can go further back",
            )


def planned(ledger: Ledger, run: RunFacts, named: NDArray[np.int64], method: Method) -> Plan:
    """What erasing some records would touch and cost, from how the run stands now.

    Args:
        ledger: Of the run.
        run: What it was made of.
        named: The ids, each once.
        method: How.

    Raises:
        NothingLeft: No record would be left.
    """
    places = places_of(run.parts, named, ledger.records.groups_of(named))
    return Planner.of(ledger, run).plan(named, places, method)


def left_of(
    ledger: Ledger, records: int, named: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The named records that are not erased yet, and those that are; see `planned`.

    Raises:
        NothingLeft: No record would be left.
    """
    erased = ledger.records.erased_among(named)
    ids = np.setdiff1d(named, erased)
    check_left(records, ledger.records.erased_count(), len(ids))
    return ids, erased


def check_left(records: int, erased: int, asked: int) -> None:
    """See that an erasure leaves somebody.

    Args:
        records: How many there are.
        erased: How many are erased already.
        asked: How many others are to be.

    Raises:
        NothingLeft: No record would be left.
    """
    if asked and erased + asked == records:
        raise NothingLeft(
            "the request would erase every record there is",
            hint="a model of nobody cannot be trained; delete the run's folder instead",
        )


def check_start(plan: Plan, method: Method) -> None:
    """See that a method can do something from where a replay begins.

    Raises:
        InvalidOption: It cannot.
    """
    if plan.start is None and plan.unreached:
        raise InvalidOption(
            f"the last block that holds the records is {plan.unreached[-1]}, and the run "
            "keeps nothing that a fast method could go back to there",
            hint='give method="exact"',
        )
    if method.functional and plan.start is not None and plan.start < plan.window:
        raise InvalidOption(
            f"the replay begins at block {plan.start}, and the run keeps every state only "
            f"from block {plan.window - 1} on: before, nothing can be measured",
            hint="leave functional out, or make a run that keeps all epochs",
        )


def expected_lag(ledger: Ledger) -> float:
    """How many blocks a fast erasure replays in one go: the median of this run's own."""
    lengths = [
        last - first + 1
        for facts in ledger.erasures.all()
        if facts.method.get("name") != Exact.name and facts.outcome is not None
        for first, last in facts.outcome.segments
    ]
    return float(np.median(lengths)) if lengths else EXPECTED_LAG
