"""The facts that cross between the ledger and the rooms above it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obliviate.ledger.outcome import Outcome
    from obliviate.recipe.parts import Part
    from obliviate.vault.vault import Stored

Guarantee = Literal["exact", "approximate"]
Origin = Literal["initial", "trained", "replayed", "stitched", "dropped"]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run was made of; it grows by parts, and does not change otherwise.

    Attributes:
        parts: What it was made with, and what it was extended by.
        smallest_batch: See `blocks.Layout`.
        fingerprint: The recipe, in comparable words.
        environment: Versions, processor features and thread count that bits may depend on.
        subject_key: The key under which subjects are hashed; None once it was destroyed.
        content_key: The key under which samples are hashed.
        samples: Keyed hashes of the content of a few records, by record id.
        tombstones: Where tombstones are kept and what becomes of records that have one; empty
            where none are.
        vault: Where the objects are kept, how they are sealed; see `vault.settings`.
        references: How many references it was made with; 0 where with none.
        project: Where the command line finds the project, and its options.
        made: When, ISO 8601 in UTC.
    """

    parts: tuple[Part, ...]
    smallest_batch: int
    fingerprint: Mapping[str, str]
    environment: Mapping[str, str]
    subject_key: bytes | None
    content_key: bytes
    samples: Mapping[int, str] = field(default_factory=dict)
    tombstones: Mapping[str, str] = field(default_factory=dict)
    vault: Mapping[str, Any] = field(default_factory=dict)
    references: int = 0
    project: Mapping[str, str] = field(default_factory=dict)
    made: str = ""

    @property
    def records(self) -> int:
        """The length of the dataset."""
        return sum(part.records for part in self.parts)

    @property
    def blocks(self) -> int:
        """How many blocks the chain will have, through all epochs."""
        return sum(part.length for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One checkpoint of the chain, and how it came to be.

    Attributes:
        block: 0..B.
        origin: How it came to be.
        guarantee: "exact" where it is what training without the erased records gives.
        digest: Of the state dict; None for a stitched state that nobody has needed in full yet.
        loss: Mean training loss of the block.
        evaluation: What the user measured of the state after it, when it was trained.
        seconds: How long the block took to train on.
        update: What the block did; None for block 0, and where it is not kept.
        keyframe: The full state, where one is kept.
        optimizer: The optimizer's state, where it is carried and not dropped.
        erasure: The erasure that wrote it; None where `fit` did.
    """

    block: int
    origin: Origin
    guarantee: Guarantee
    digest: str | None
    loss: float | None = None
    evaluation: Mapping[str, float] | None = None
    seconds: float = 0.0
    update: Stored | None = None
    keyframe: Stored | None = None
    optimizer: Stored | None = None
    erasure: int | None = None

    @property
    def objects(self) -> list[Stored]:
        """The objects that the entry holds on to."""
        return [stored for stored in (self.update, self.keyframe, self.optimizer) if stored]


@dataclass(frozen=True, kw_only=True)
class ObjectFacts:
    """One object of the vault, from its making to its destruction.

    Attributes:
        stored: The object.
        state: "live" while the run needs it, "condemned" until it is gone, then "destroyed".
        made: When, ISO 8601 in UTC.
        destroyed: When.
    """

    stored: Stored
    state: Literal["live", "condemned", "destroyed"]
    made: str
    destroyed: str | None = None


DROPPED: Mapping[str, Any] = {
    "origin": "dropped",
    "guarantee": "approximate",
    "digest": None,
    "evaluation": None,
    "update": None,
    "keyframe": None,
    "optimizer": None,
}
"""What becomes of an entry that holds a trace and that an erasure did not go back to."""

STITCHED: Mapping[str, Any] = {
    "origin": "stitched",
    "guarantee": "approximate",
    "digest": None,
    "evaluation": None,
    "keyframe": None,
    "optimizer": None,
}
"""What becomes of an entry that an erasure stitches on: it keeps its update alone."""


@dataclass(frozen=True, kw_only=True)
class ErasureFacts:
    """One erasure, from its request to its result.

    Attributes:
        id: Its number in the run, from 1.
        state: "running" until it is "committed", which is carried out, or "failed", which is given
            up; "settled" once the chain is exact and what held the erased records is destroyed.
        method: Name and options of the method, as JSON-able mapping.
        kind: "forget" or "settle".
        records: How many records it erases.
        outcome: What came of it; None while it runs.
    """

    id: int
    state: Literal["running", "committed", "settled", "failed"]
    kind: Literal["forget", "settle"]
    method: Mapping[str, object]
    records: int
    started: str
    finished: str | None = None
    outcome: Outcome | None = None


ERASED = ("committed", "settled")
"""Erasures whose records are out of the model."""

RequestState = Literal[
    "requested", "planned", "replaying", "committed", "destroyed", "settled", "refused"
]

ExportState = Literal["begun", "there", "replaced", "withdrawn"]
Standing = Literal["current", "older", "stale"]

OUTSIDE: tuple[ExportState, ...] = ("begun", "there")
"""Exports that may be somewhere, as far as anybody told."""

OPEN: tuple[RequestState, ...] = ("requested", "planned", "replaying")
"""Requests whose records are still in the model."""

CARRIED_OUT: tuple[RequestState, ...] = ("committed", "destroyed")
"""Requests whose records are out of the model, though not yet exactly."""


@dataclass(frozen=True, kw_only=True)
class RequestFacts:
    """One request to erase, from its receipt to its end.

    Attributes:
        id: Its number in the run, from 1.
        state: "requested"; "planned" when an erasure has taken it up; "replaying" while blocks are
            trained again; "committed" when the model is without its records; "destroyed" when
            every stored object that held them is gone; "settled" when the whole chain is exact;
            or "refused".
        received: When, ISO 8601 in UTC.
        due: The deadline, ISO 8601 in UTC.
        method: Name and options of the method asked for.
        records: How many records it names.
        erasure: The erasure that carries it out.
        reason: Why it was refused, or what else is to be said of it.
        closed: When it came to its end, ISO 8601 in UTC.
    """

    id: int
    state: RequestState
    received: str
    due: str
    method: Mapping[str, object]
    records: int
    erasure: int | None = None
    reason: str | None = None
    closed: str | None = None


@dataclass(frozen=True, kw_only=True)
class ExportFacts:
    """One model that was handed on, and how it stands to the run now.

    Attributes:
        id: Its number in the run, from 1.
        state: "begun" until all of it is "there", and for ever where the process was killed;
            "replaced" by a later export to the same place; "withdrawn" once somebody said so.
        place: Where it was written to.
        form: In what form.
        made: When, ISO 8601 in UTC.
        block: The block whose state it shows.
        guarantee: Of that model, when it was made.
        digest: Of that model; None once the run is exact and it hangs on somebody erased.
        erasure: The last erasure that was carried out by then; None where none was.
        closed: When it was replaced or withdrawn.
        standing: "current" while the run's model is the same; "stale" where it holds records that
            were erased since; "older" where it holds none of those.
        erased_since: The erasures that were carried out since and erased records.
    """

    id: int
    state: ExportState
    place: str
    form: str
    made: str
    block: int
    guarantee: Guarantee
    digest: str | None
    erasure: int | None
    closed: str | None = None
    standing: Standing
    erased_since: tuple[int, ...] = ()

    @property
    def holds_erased(self) -> bool:
        """Whether somebody who was erased is held somewhere by it, as far as anybody told."""
        return self.standing == "stale" and self.state in OUTSIDE
