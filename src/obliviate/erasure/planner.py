"""The planner: what erasing some records would touch and cost, from one look at the ledger.

Many requests are planned from the same look, so that a long queue costs no more queries than one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from obliviate.erasure.plan import EXPECTED_LAG, Pace, Plan, make_plan
from obliviate.errors import NothingLeft
from obliviate.methods.exact import Exact
from obliviate.recipe.deal import is_among
from obliviate.recipe.parts import places_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from obliviate.ledger import Ledger, RunFacts
    from obliviate.recipe.parts import Places


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Plans erasures of one run, as it stood at one time.

    Attributes:
        records: How many records the run has.
        erased: The ids of those that are erased. Sorted.
        pace: Of the chain.
    """

    records: int
    erased: NDArray[np.int64]
    pace: Pace

    @classmethod
    def of(cls, ledger: Ledger, run: RunFacts) -> Planner:
        """The planner of a run."""
        seconds, first_approximate = ledger.chain.pace()
        pace = Pace(
            seconds=seconds,
            first_approximate=first_approximate,
            expected_lag=expected_lag(ledger),
        )
        return cls(records=run.records, erased=ledger.records.erased(), pace=pace)

    def plan(
        self,
        named: NDArray[np.int64],
        places: Places,
        method: str,
        *,
        is_checked: bool = True,
    ) -> Plan:
        """What erasing some records would touch and cost.

        Args:
            named: Their ids, each once; those that are erased are ignored.
            places: Where each is trained on.
            method: The name of the method.
            is_checked: Whether somebody has to be left.

        Raises:
            NothingLeft: No record would be left.
        """
        is_gone = is_among(named, self.erased)
        ids = named[~is_gone]
        if is_checked:
            check_left(self.records, len(self.erased), len(ids))
        return make_plan(
            method=method,
            records=ids.tolist(),
            blocks=places.of(~is_gone).touched.tolist(),
            ignored=named[is_gone].tolist(),
            pace=self.pace,
        )


def planned(ledger: Ledger, run: RunFacts, named: NDArray[np.int64], method: str) -> Plan:
    """What erasing some records would touch and cost, from how the run stands now.

    Args:
        ledger: Of the run.
        run: What it was made of.
        named: The ids, each once.
        method: Its name.

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


def expected_lag(ledger: Ledger) -> float:
    """How many blocks a fast erasure replays in one go: the median of this run's own."""
    lengths = [
        last - first + 1
        for facts in ledger.erasures.all()
        if facts.method.get("name") != Exact.name and facts.outcome is not None
        for first, last in facts.outcome.segments
    ]
    return float(np.median(lengths)) if lengths else EXPECTED_LAG
