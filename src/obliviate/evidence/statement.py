"""Evidence: what the ledger says of a run, gathered for people outside.

No record ids, no subjects and no scores of single records: whoever reads a report must not learn
whom it is about. The ledger is enough: neither the data nor the model is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from obliviate.chain.custody import refuse_outdated
from obliviate.clock import stamp
from obliviate.disk.paths import local_folder
from obliviate.evidence.chart import Curve
from obliviate.ledger import Ledger
from obliviate.ledger.facts import ERASED
from obliviate.recipe.parts import places_of
from obliviate.text import READS_MORE, measured
from obliviate.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from obliviate.ledger import Entry, ErasureFacts, ExportFacts, RunFacts
    from obliviate.ledger.facts import Guarantee
    from obliviate.ledger.outcome import Ending, Outcome, Stitch
    from obliviate.recipe.parts import Places

FEWEST_SHOWN = 2  # a mean over fewer records is the score of one
_MOST_SHOWN = 64  # of the groups that scores are averaged in
GUARANTEES: Mapping[str, str] = {
    "exact": "The model is, bit for bit, the one that training without the erased records "
    "produces. This is a property of the program: anyone who holds the retained data can repeat "
    "the training and compare the digests.",
    "approximate": "At least one erasure was carried out by the fast method, which replays a part "
    "of the training and stitches the rest back on. Nothing is proved of the result by itself: it "
    "comes with the measured curve, and with an estimate or a check of what is left. Settling the "
    "run replaces it by exact replay.",
    "unfinished": "The run has not been trained to its end. No model is served from it, and "
    "nothing is promised of it.",
}
ASSUMPTIONS = (
    "The program, the recipe and the computing environment are those named in this report.",
    "Record ids have not been given to other records since the run was made.",
    "The erased records are all that the training data held of the persons concerned: copies of "
    "them under other ids, and what other records say of them, were not part of the request.",
    "The run folder was changed by this program alone.",
)
NOT_REACHED = (
    "Backups and snapshots of the run folder, of the storage below it, and of the training data.",
    "Copies of the model that were deployed or handed on before the erasure: of those that the run "
    "itself has exported it is said below whether they hold somebody who was erased since.",
    "Models derived from it, such as fine-tuned or distilled ones, and its recorded predictions.",
    "The training data itself: erased records are never read again by this run, but deleting them "
    "at their source is the data holder's task.",
    "The updates behind a fast erasure, until the run is settled: they are kept, and whoever has "
    "the run folder, the retained data and the means to solve for the state they were computed "
    "from can come close to it. Settling replaces them.",
    "Physical remains on storage media: objects are deleted from the file system, not overwritten.",
)


@dataclass(frozen=True, kw_only=True)
class ErasureEvidence:
    """One erasure, without naming whom it was about.

    Attributes:
        number: Its number in the run, from 1.
        kind: "forget" or "settle".
        state: "committed", "settled", "running" or "failed".
        method: The method's name.
        options: The method's options.
        received: When it was begun, ISO 8601 in UTC.
        finished: When it was carried out or taken back; None while it runs.
        records: How many records it erased.
        curve: The replayed blocks and their residual memory; None where nothing came of it, or it
            was destroyed.
        segments: The replayed blocks, as (first, last).
        blocks_replayed: How many blocks were trained on again.
        stop_reason: Why replaying stopped, in words.
        predicted_tail: An estimate, and no bound, of the L1 distance to the exact result, relative
            to the update of the first affected block.
        guarantee: Of the model that it left.
        digest: Of that model.
        digest_before: Of the model before it.
        seconds: From the request to the new model.
        stitches: How the rest of training was put back, where ρ was chosen; without the figures
            where they would be those of a single record.
        ending: Where the erased records ended, beside their target: without the figures where they
            would be those of a single record, and with means of a few scores each for the scores.
        begun_again: How often replaying began again from further back, because a check failed.
    """

    number: int
    kind: str
    state: str
    method: str
    options: Mapping[str, object]
    received: str
    finished: str | None
    records: int
    curve: Curve | None = None
    segments: tuple[tuple[int, int], ...] = ()
    blocks_replayed: int = 0
    stop_reason: str | None = None
    predicted_tail: float | None = None
    guarantee: Guarantee | None = None
    digest: str | None = None
    digest_before: str | None = None
    seconds: float | None = None
    stitches: tuple[Stitch, ...] = ()
    ending: Ending | None = None
    begun_again: int = 0


@dataclass(frozen=True, kw_only=True)
class ExportEvidence:
    """One model that was handed on.

    Attributes:
        number: Its number in the run, from 1.
        name: The last part of where it was written to.
        form: In what form.
        made: When, ISO 8601 in UTC.
        guarantee: Of that model, when it was made.
        state: "there", "begun", "replaced" or "withdrawn".
        closed: When it was replaced or withdrawn.
        standing: "current", "older", or "stale" where it holds records that were erased since.
        erased_since: The erasures since, by their numbers.
    """

    number: int
    name: str
    form: str
    made: str
    guarantee: Guarantee
    state: str
    closed: str | None
    standing: str
    erased_since: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything a report says.

    Attributes:
        run: The name of the run's folder.
        written: When the report was written, ISO 8601 in UTC.
        version: Of the program that wrote it.
        records: The length of the dataset.
        left_out: Records that were never trained on.
        erased: Records that were erased since.
        blocks: How many blocks the chain has.
        blocks_done: How many of them have been trained on.
        guarantee: Of the model as it is now; None while the run is unfinished.
        meaning: The guarantee in words.
        digest: Of the model as it is now.
        given_up: How many epochs were given up, since training was ended early.
        measured: What was measured in training of a state that no erasure replaced, in words.
        base: The digest of the frozen part of the model, which no digest of the model covers; None
            where there is none.
        first_approximate: The first block whose state is not exact.
        approximate_blocks: How many blocks' states are not exact.
        objects_destroyed: Stored objects that held traces, or became unneeded, and are gone.
        recipe: How the run was trained, in words.
        environment: What bits of training depend on beside it.
        erasures: All of them, in order.
        exports: All models that were handed on, in order.
        journal_head: The hash of the last entry of the run's journal.
    """

    run: str
    written: str
    version: str
    records: int
    left_out: int
    erased: int
    blocks: int
    blocks_done: int
    given_up: int
    measured: str | None
    guarantee: Guarantee | None
    meaning: str
    digest: str | None
    base: str | None
    first_approximate: int | None
    approximate_blocks: int
    objects_destroyed: int
    recipe: Mapping[str, str]
    environment: Mapping[str, str]
    erasures: tuple[ErasureEvidence, ...]
    exports: tuple[ExportEvidence, ...]
    journal_head: str
    assumptions: tuple[str, ...] = ASSUMPTIONS
    not_reached: tuple[str, ...] = NOT_REACHED

    @property
    def is_interrupted(self) -> bool:
        """Whether an erasure was begun and not carried out."""
        return any(erasure.state == "running" for erasure in self.erasures)


def gathered(folder: str | Path) -> Evidence:
    """What the ledger of a run says.

    Raises:
        RunMissing, RunDamaged, OtherFormat: It cannot be read.
        RunOutdated: Another ledger than this one last wrote to the vault.
    """
    place = local_folder(folder)
    ledger = Ledger(place)
    try:
        refuse_outdated(ledger, place)
        with ledger.understanding():
            return _evidence(ledger, place.resolve().name)
    finally:
        ledger.close()


def _evidence(ledger: Ledger, name: str) -> Evidence:
    facts, entries = ledger.run(), ledger.chain.entries()
    inexact = [entry.block for entry in entries if entry.guarantee != "exact"]
    is_finished = len(entries) > facts.parts[0].length
    guarantee = entries[-1].guarantee if is_finished else None
    left_out = len(ledger.records.excluded())
    return Evidence(
        run=name,
        written=stamp(),
        version=__version__,
        records=facts.records,
        left_out=left_out,
        erased=len(ledger.records.erased()) - left_out,
        blocks=facts.blocks,
        blocks_done=len(entries) - 1,
        given_up=sum(len(part.given_up) for part in facts.parts),
        measured=_measured(entries),
        guarantee=guarantee,
        meaning=_meaning(guarantee, facts),
        digest=entries[-1].digest if is_finished else None,
        base=facts.fingerprint.get("base"),
        first_approximate=inexact[0] if inexact else None,
        approximate_blocks=len(inexact),
        objects_destroyed=len(ledger.objects.keys("destroyed")),
        recipe={name: words for name, words in facts.fingerprint.items() if name != "base tensors"},
        environment=dict(facts.environment),
        erasures=_erasures(ledger, facts),
        exports=tuple(map(_export, ledger.exports.all())),
        journal_head=ledger.journal.head(),
    )


def _measured(entries: Sequence[Entry]) -> str | None:
    for entry in reversed(entries):
        if entry.evaluation:
            return f"after block {entry.block}: {measured(entry.evaluation)}"
    return None


def _meaning(guarantee: Guarantee | None, facts: RunFacts) -> str:
    meaning = GUARANTEES[guarantee or "unfinished"]
    if guarantee is not None and facts.fingerprint.get("reads") == "more":
        meaning += f" Mind what that is: {READS_MORE}."
    return meaning


def _export(facts: ExportFacts) -> ExportEvidence:
    return ExportEvidence(
        number=facts.id,
        name=PurePath(facts.place).name,
        form=facts.form,
        made=facts.made,
        guarantee=facts.guarantee,
        state=facts.state,
        closed=facts.closed,
        standing=facts.standing,
        erased_since=facts.erased_since,
    )


def _erasures(ledger: Ledger, facts: RunFacts) -> tuple[ErasureEvidence, ...]:
    found = []
    for each in ledger.erasures.all():
        records = ledger.erasures.records_of(each.id)
        places = places_of(facts.parts, records, ledger.records.groups_of(records))
        found.append(_erasure(each, places, facts.blocks))
    return tuple(found)


def _erasure(facts: ErasureFacts, places: Places, blocks: int) -> ErasureEvidence:
    options = dict(facts.method)
    method = str(options.pop("name"))
    common: dict[str, Any] = {
        "number": facts.id,
        "kind": facts.kind,
        "state": facts.state,
        "method": method,
        "options": options,
        "received": facts.started,
        "finished": facts.finished,
        "records": facts.records,
    }
    outcome = facts.outcome
    if facts.state not in ERASED or outcome is None:
        # the reason of a failure may quote the user's own code, and with it a person
        return ErasureEvidence(**common)
    curve = None
    if outcome.residual_memory:
        curve = Curve(
            segments=outcome.segments,
            residual_memory=outcome.residual_memory,
            affected=tuple(places.touched.tolist()),
            blocks=blocks,
            method=method,
            functional_memory=_anonymous(outcome, places),
            control_memory=outcome.control_memory,
        )
    return ErasureEvidence(
        **common,
        curve=curve,
        segments=outcome.segments,
        blocks_replayed=outcome.blocks_replayed,
        stop_reason=outcome.stop_reason,
        predicted_tail=outcome.predicted_tail,
        guarantee=outcome.guarantee,
        digest=outcome.digest,
        digest_before=outcome.digest_before,
        seconds=outcome.seconds,
        stitches=tuple(_stitch(each, outcome, places) for each in outcome.stitches),
        ending=_ending(outcome.ending) if outcome.ending else None,
        begun_again=len(outcome.too_shallow),
    )


def _anonymous(outcome: Outcome, places: Places) -> tuple[float | None, ...]:
    """The functional memory, but for blocks where it is the score of a single record."""
    return tuple(
        value if _is_crowd(places, block) else None
        for block, value in zip(outcome.replayed, outcome.functional_memory, strict=False)
    )


def _stitch(stitch: Stitch, outcome: Outcome, places: Places) -> Stitch:
    scored = outcome.ending.records if outcome.ending else FEWEST_SHOWN
    if _is_crowd(places, stitch.after) and scored >= FEWEST_SHOWN:
        return stitch
    verdict = _verdict(has_passed=stitch.has_passed)
    return replace(stitch, predicted=None, low=None, high=None, reached=None, verdict=verdict)


def _ending(ending: Ending) -> Ending:
    if ending.records >= FEWEST_SHOWN:
        before, after = ending.scores
        return replace(ending, scores=(_averaged(before), _averaged(after)))
    return replace(
        ending,
        before=None,
        target=None,
        low=None,
        high=None,
        reached=None,
        inside=None,
        wrong=None,
        verdict=_verdict(has_passed=ending.is_met),
        scores=((), ()),
        expected=(),
    )


def _averaged(scores: tuple[float, ...]) -> tuple[float, ...]:
    """Sorted scores, a few neighbours at a time: none is that of a single record."""
    groups = np.array_split(scores, min(len(scores) // FEWEST_SHOWN, _MOST_SHOWN))
    return tuple(float(group.mean()) for group in groups)


def _verdict(*, has_passed: bool) -> str:
    return "passed" if has_passed else "failed"


def _is_crowd(places: Places, until: int) -> bool:
    return bool((places.earliest <= until).sum() >= FEWEST_SHOWN)
