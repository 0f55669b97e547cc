"""The facts that cross between the ledger and the rooms above it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obliviate.vault.store import Stored

Guarantee = Literal["exact", "approximate"]
Origin = Literal["initial", "trained", "replayed", "stitched"]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run was made of; it never changes.

    Attributes:
        records: The length of the dataset.
        blocks: How many blocks it is cut into.
        smallest_batch: See `blocks.Layout`.
        fingerprint: The recipe, in comparable words.
        environment: Versions, processor features and thread count that bits may depend on.
        subject_key: The key under which subjects and samples are hashed.
        samples: Keyed hashes of the content of a few records, by record id.
        project: Where the command line finds the project, and its options.
        made: When, ISO 8601 in UTC.
    """

    records: int
    blocks: int
    smallest_batch: int
    fingerprint: Mapping[str, str]
    environment: Mapping[str, str]
    subject_key: bytes
    samples: Mapping[int, str] = field(default_factory=dict)
    project: Mapping[str, str] = field(default_factory=dict)
    made: str = ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One checkpoint of the chain, and how it came to be.

    Attributes:
        block: 0..B.
        origin: How it came to be.
        guarantee: "exact" where it is what training without the erased records gives.
        digest: Of the state dict; None for a stitched state that nobody has needed in full yet.
        loss: Mean training loss of the block.
        seconds: How long the block took to train on.
        update: What the block did; None for block 0.
        keyframe: The full state, where one is kept.
        optimizer: The optimizer's state, where it is carried and not dropped.
        erasure: The erasure that wrote it; None where `fit` did.
    """

    block: int
    origin: Origin
    guarantee: Guarantee
    digest: str | None
    loss: float | None = None
    seconds: float = 0.0
    update: Stored | None = None
    keyframe: Stored | None = None
    optimizer: Stored | None = None
    erasure: int | None = None

    @property
    def objects(self) -> list[Stored]:
        """The objects that the entry holds on to."""
        return [stored for stored in (self.update, self.keyframe, self.optimizer) if stored]


STITCHED: Mapping[str, Any] = {
    "origin": "stitched",
    "guarantee": "approximate",
    "digest": None,
    "keyframe": None,
    "optimizer": None,
}
"""What becomes of an entry that an erasure stitches on: it keeps its update alone."""


@dataclass(frozen=True, kw_only=True)
class ErasureFacts:
    """One erasure, from its request to its result.

    Attributes:
        id: Its number in the run, from 1.
        state: "running" until it is carried out or given up.
        method: Name and options of the method, as JSON-able mapping.
        kind: "forget" or "settle".
        records: How many records it erases.
        outcome: What came of it, as a JSON-able mapping; empty while it runs.
    """

    id: int
    state: Literal["running", "committed", "failed"]
    kind: Literal["forget", "settle"]
    method: Mapping[str, object]
    records: int
    started: str
    finished: str | None = None
    outcome: Mapping[str, Any] = field(default_factory=dict)
