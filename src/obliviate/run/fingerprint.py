"""Whether a recipe and a dataset are the ones that a run was made with."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from obliviate.errors import ForeignData, ForeignRecipe
from obliviate.recipe.deal import key, keyed_hash
from obliviate.states.update import digest
from obliviate.text import counted
from obliviate.training.base import DIGEST_WORD, TENSORS_WORD, differing_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from obliviate.ledger import Ledger, RunFacts
    from obliviate.training.protocol import BlockTrainer

SAMPLED_RECORDS = 8
_SHOWN_CHARACTERS = 120
_NO_SECRET = b"ranks"


def sampled(
    records: int, seed: int, left_out: NDArray[np.int64], count: int = SAMPLED_RECORDS
) -> NDArray[np.int64]:
    """A few record ids to know the dataset by, none of them left out."""
    ids = np.arange(records, dtype=np.int64)
    if len(left_out):
        ids = np.setdiff1d(ids, left_out, assume_unique=True)
    hashes = keyed_hash(ids, key(seed, "sample"))
    few = np.argpartition(hashes, count)[:count] if count < len(ids) else np.arange(len(ids))
    return ids[few[np.argsort(hashes[few])]]


def content_hashes(trainer: BlockTrainer, ids: Iterable[int], secret: bytes) -> dict[int, str]:
    """Keyed hashes of the content of some records."""
    hashes = {}
    for record in ids:
        mac = hmac.new(secret, str(record).encode(), hashlib.sha256)
        for piece in trainer.reader.content(record):
            mac.update(piece)
        hashes[int(record)] = mac.hexdigest()
    return hashes


def likeness(trainer: BlockTrainer, left_out: NDArray[np.int64]) -> dict[str, Any]:
    """What tells one run from another before it is made: its recipe, its data, its first state."""
    ids = sampled(trainer.layout.records, trainer.recipe.seed, left_out)
    hashes = content_hashes(trainer, ids, _NO_SECRET)
    return {
        "recipe": trainer.fingerprint(),
        "data": {f"record {record}": said for record, said in hashes.items()},
        "the initial state": digest(trainer.initial().model),
    }


def check_recipe(facts: RunFacts, fingerprint: dict[str, str]) -> None:
    """See that a recipe is the run's own.

    Raises:
        ForeignRecipe: It is not; the message names every difference.
    """
    # what the model reads beside its batch may be found out later, and trains nothing
    apart = {"reads", DIGEST_WORD, TENSORS_WORD}
    names = sorted((facts.fingerprint.keys() | fingerprint.keys()) - apart)
    faults = [
        f"{name}: the run has {_short(facts.fingerprint.get(name))}, "
        f"this recipe has {_short(fingerprint.get(name))}"
        for name in names
        if facts.fingerprint.get(name) != fingerprint.get(name)
    ]
    if faults:
        raise ForeignRecipe(
            "the run was made with another recipe: " + "; ".join(faults),
            hint="give the recipe that the run was made with, or make a new run in another folder",
        )
    check_base(facts, fingerprint)


def check_base(facts: RunFacts, fingerprint: Mapping[str, str]) -> None:
    """See that a frozen base is the run's own.

    Raises:
        ForeignRecipe: It is not.
    """
    if others := differing_tensors(facts.fingerprint, fingerprint):
        of = len(json.loads(facts.fingerprint.get(TENSORS_WORD, "{}")))
        raise ForeignRecipe(
            f"the run was made on another frozen base: of {counted(of, 'frozen tensor')}, "
            f"{len(others)} hold other values, such as {others[0]!r}",
            hint="let model() load the base that the run was made with; what was trained on it "
            "fits no other",
        )


def check_data(
    facts: RunFacts, trainer: BlockTrainer, records: int, erased: NDArray[np.int64]
) -> None:
    """See that a dataset is the run's own, by its length and by a few of its records.

    Raises:
        ForeignData: It is not.
    """
    hint = (
        "give the dataset that the run was made with, in the same order; erased records keep their "
        "places (they are never read, so anything may stand there)"
    )
    if records != facts.records:
        raise ForeignData(
            f"the run was made with {facts.records} records, this dataset has {records}", hint=hint
        )
    ids = sorted(facts.samples.keys() - set(erased.tolist()))
    found = content_hashes(trainer, ids, facts.content_key)
    changed = [record for record in ids if found[record] != facts.samples[record]]
    if changed:
        raise ForeignData(
            f"the run was made with other data: of {len(ids)} records looked at, {len(changed)} "
            f"differ, such as record {changed[0]}",
            hint=hint,
        )


def _short(text: str | None) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def sample_again(ledger: Ledger, trainer: BlockTrainer, lacks: int) -> None:
    """Know the dataset by other records in the place of erased ones.

    Args:
        ledger: Of the run.
        trainer: Of the run.
        lacks: How many records at the end the dataset lacks.
    """
    facts = ledger.run()  # as it is now: the key may have been destroyed
    known = facts.samples
    count = SAMPLED_RECORDS * len(facts.parts) - len(known)
    if not count:
        return
    left_out = np.union1d(ledger.records.erased(), sorted(known))
    left_out = np.union1d(left_out, _beyond(ledger, trainer, facts, lacks))
    fresh = sampled(facts.records, trainer.recipe.seed, left_out, count)
    ledger.add_samples(content_hashes(trainer, fresh, facts.content_key))


def _beyond(
    ledger: Ledger, trainer: BlockTrainer, facts: RunFacts, lacks: int
) -> NDArray[np.int64]:
    """Records that were not trained on yet, and may still be mended, or that are not there."""
    length, records = ledger.chain.length(), facts.records
    missing = np.arange(records - lacks, records, dtype=np.int64)
    if length == facts.blocks:
        return missing
    everybody = np.arange(records, dtype=np.int64)
    ahead = np.flatnonzero(trainer.layout.places(everybody).earliest > length)
    return np.union1d(ahead, missing)
