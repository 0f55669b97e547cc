"""A small ledger with a story: whatever can happen to a run, as rows, on either database."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from obliviate.ledger import Entry, Ledger, Newcomers, RunFacts
from obliviate.ledger.outcome import Outcome
from obliviate.recipe.parts import with_part
from obliviate.recipe.subjects import Subjects
from obliviate.vault import Stored
from tests.models import parts_of

EXACT = Outcome(stop_reason="the end of the chain was reached", guarantee="exact")

KEY = bytes(range(32))
RUN = RunFacts(
    parts=parts_of(10, 4),
    smallest_batch=2,
    fingerprint={"model": "Linear", "seed": "3"},
    environment={"threads": "1"},
    subject_key=KEY,
    content_key=bytes(32),
    samples={3: "the-hash-of-record-3", 5: "the-hash-of-record-5"},
    project={"path": "examples/mnist.py"},
)
SUBJECTS = ["ann@example.org", "bob@example.org", "ann@example.org"] + ["cid@example.org"] * 7
METHOD = {"name": "deepobliviate", "epsilon": 0.05}
DUE = "2099-01-01T00:00:00+00:00"


def stored(key: str) -> Stored:
    return Stored(key=key, size_bytes=len(key), hash=key * 2)


def entry(block: int, new: str = "", *, keyframe: bool = False, **facts) -> Entry:
    """A block that was trained with a carried optimizer."""
    return Entry(
        **(
            {
                "block": block,
                "origin": "trained",
                "guarantee": "exact",
                "digest": f"d{block}{new}",
                "loss": 0.5,
                "seconds": 1.5,
                "update": stored(f"u{block}{new}"),
                "keyframe": stored(f"f{block}{new}") if keyframe else None,
                "optimizer": stored(f"o{block}{new}"),
            }
            | facts
        )
    )


FIRST = Entry(block=0, origin="initial", guarantee="exact", digest="d0", keyframe=stored("f0"))
CHAIN = [FIRST] + [entry(block, keyframe=block in (2, 4)) for block in (1, 2, 3, 4)]


def ids(*records: int) -> np.ndarray:
    return np.array(records, dtype=np.int64)


def newcomers(*, records=10, subjects=None, excluded=()) -> Newcomers:
    people = None if subjects is None else Subjects.of(subjects, records)
    return Newcomers(groups=np.arange(records), subjects=people, excluded=ids(*excluded))


def make(folder, *, subjects=SUBJECTS, excluded=(8, 9), url=None) -> Ledger:
    new = newcomers(subjects=subjects, excluded=excluded)
    return Ledger.create(folder, RUN, FIRST, new, url)


def trained(folder, url=None) -> Ledger:
    """A ledger of a run that was trained to its end."""
    ledger = make(folder, url=url)
    for each in CHAIN[1:]:
        ledger.chain.append([each], {each.block: bytes([each.block]) * 8})
    return ledger


def carried_out(ledger, record=3):
    """Block 1 replayed, blocks 2 to 4 stitched, with a new keyframe at block 4."""
    number = ledger.erasures.begin("forget", METHOD, ids(record), due=DUE).id
    replayed = entry(1, "n", origin="replayed", erasure=number)
    ledger.erasures.stage([replayed])
    last = replace(
        CHAIN[4],
        origin="stitched",
        guarantee="approximate",
        digest="d4n",
        keyframe=stored("f4n"),
        optimizer=None,
        erasure=number,
    )
    ledger.erasures.commit(
        number,
        replaced=[replayed, last],
        stitched=[range(2, 5)],
        outcome=Outcome(stop_reason="it faded"),
    )
    return replayed, last


def settled(ledger):
    """The whole chain replayed."""
    number = ledger.erasures.begin("settle", {"name": "exact"}, ids()).id
    replaced = [entry(block, "s", origin="replayed", erasure=number) for block in (1, 2, 3, 4)]
    for each in replaced:
        ledger.erasures.stage([each])
    ledger.erasures.commit(number, replaced=replaced, stitched=[], outcome=EXACT)
    ledger.objects.mark_destroyed(ledger.objects.keys("condemned"))


def lived(folder, url=None) -> Ledger:
    """A ledger to which everything has happened, and an erasure and a request are left over."""
    ledger = trained(folder, url)
    ledger.requests.register(METHOD, ids(2, 4), due=DUE)
    refused = ledger.requests.register(METHOD, ids(6), due=DUE)
    ledger.requests.refuse(refused.id, "not a person")
    carried_out(ledger)
    ledger.objects.mark_destroyed(ledger.objects.keys("condemned"))
    settled(ledger)
    last = ledger.chain.entries()[-1]
    ledger.exports.finish(ledger.exports.begin("/models/a", "safetensors", last).id)
    ledger.exports.finish(ledger.exports.begin("/models/a", "onnx", last).id)
    ledger.exports.withdraw("/models/a")
    failed = ledger.erasures.begin("forget", METHOD, ids(5), due=DUE)
    ledger.erasures.stage([entry(1, "x", origin="replayed", erasure=failed.id)])
    ledger.erasures.give_up(failed.id, "the loss is nan")
    ledger.add_samples({7: "the-hash-of-record-7"})
    new = Newcomers(
        groups=np.array([10, 11, 12]),
        subjects=Subjects.of([("ann@example.org", "eve@example.org"), "dora@example.org", None], 3),
        excluded=ids(12),
    )
    samples = {10: "the-hash-of-record-10"}
    parts = with_part(RUN.parts, np.arange(13), records=3, blocks=2, epochs=1, seed=0)
    ledger.extend(parts[-1], new, samples, [entry(5, keyframe=True)])
    ledger.chain.append([entry(6, loss=None)])
    ledger.destroy_subject_key()
    running = ledger.erasures.begin("forget", METHOD, ids(2, 4), requests=[1])
    ledger.erasures.stage([entry(1, "r", origin="replayed", erasure=running.id)])
    return ledger
