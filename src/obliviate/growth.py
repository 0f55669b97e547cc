"""Growth: new records behind the old ones, in new blocks. Ids never shift, old blocks stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import cat
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from obliviate.errors import ForeignData, InvalidOption, RunUnfinished
from obliviate.identity import SAMPLED_RECORDS, content_hashes
from obliviate.ledger import Newcomers, Part
from obliviate.making import cut, data_length, layout_of
from obliviate.naming import record_ids
from obliviate.reingested import Reingested
from obliviate.training import Trainer

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from numpy.typing import NDArray

    from obliviate.ledger import RunFacts
    from obliviate.progress import Event
    from obliviate.subjects import Given, Subjects
    from obliviate.writer import Writer


def joined(old: Dataset[Any], new: Dataset[Any]) -> Dataset[Any]:
    """One dataset followed by another; tensors stay tensors, which are faster to train on."""
    if type(old) is type(new) is TensorDataset and len(old.tensors) == len(new.tensors):
        pairs = list(zip(old.tensors, new.tensors, strict=True))
        if all(a.shape[1:] == b.shape[1:] and a.dtype == b.dtype for a, b in pairs):
            return TensorDataset(*(cat(pair) for pair in pairs))
    return ConcatDataset([old, new])


def lacking(facts: RunFacts, length: int, chain_length: int) -> int:
    """How many records a dataset lacks, where the run's extension by them is not finished."""
    is_finished = chain_length >= facts.blocks
    missing = facts.records - length
    is_last_part = len(facts.parts) > 1 and missing == facts.parts[-1].records
    return missing if is_last_part and not is_finished else 0


@dataclass(frozen=True, kw_only=True)
class Addition:
    """New records for a run.

    Attributes:
        data: The records.
        blocks: How many blocks they are cut into; of about the size of the first ones if None.
        subjects: Whose each is; see `fit`.
        exclude: Those to leave out, by their ids in the run.
    """

    data: Dataset[Any]
    blocks: int | None = None
    subjects: Given | None = None
    exclude: Iterable[int] = ()


def extending(
    writer: Writer, old: Dataset[Any], addition: Addition
) -> Generator[Event, None, Dataset[Any]]:
    """Write an extension down, or find it written by a call that was interrupted.

    Returns:
        The run's dataset from now on; its new blocks are still to be trained.
    """
    facts = writer.facts
    if writer.ledger.length() == facts.blocks:
        return (yield from _begin(writer, old, addition))
    if len(facts.parts) == 1:
        raise RunUnfinished(
            "the run has not been trained to its end",
            hint="call fit again with the same arguments first",
        )
    return _resumed(writer, old, addition.data)


def _begin(
    writer: Writer, old: Dataset[Any], addition: Addition
) -> Generator[Event, None, Dataset[Any]]:
    facts = writer.facts
    part, people, left_out = _checked(facts, addition)
    whole, before = joined(old, addition.data), facts.records
    trainer = _trainer(writer, whole, (*facts.parts, part))
    ids = np.arange(before, before + part.records, dtype=np.int64)
    found = Reingested.among(trainer, ids, facts.tombstones)
    left_out = np.union1d(left_out, found.records)
    fresh = np.setdiff1d(ids, left_out)[:SAMPLED_RECORDS]
    samples = content_hashes(trainer, fresh, facts.content_key)
    yield from writer.taking_lease()
    try:
        yield from writer.continuing()
        new = Newcomers(
            blocks=trainer.layout.all_blocks()[before:],
            subjects=people,
            contents=found.contents,
            excluded=left_out,
        )
        writer.ledger.extend(part, new, samples)
    finally:
        writer.ledger.lease.release()
    return whole


def _checked(
    facts: RunFacts, addition: Addition
) -> tuple[Part, Subjects | None, NDArray[np.int64]]:
    count, first = data_length(addition.data), facts.parts[0]
    usual = max(1, round(count * first.blocks / first.records))
    blocks = usual if addition.blocks is None else addition.blocks
    blocks, people = cut(blocks, addition.subjects, count)
    left_out = record_ids(addition.exclude, facts.records + count, what="exclude")
    if len(left_out) and left_out[0] < facts.records:
        raise InvalidOption(
            f"exclude holds record {left_out[0]}, which the run knows already",
            hint="to erase it, call forget",
        )
    return Part(records=count, blocks=blocks), people, left_out


def _resumed(writer: Writer, old: Dataset[Any], new: Dataset[Any]) -> Dataset[Any]:
    facts, count = writer.facts, data_length(new)
    part = facts.parts[-1]
    before = facts.records - part.records
    hint = "give the very records that the extension was begun with"
    if count != part.records:
        raise ForeignData(
            f"an extension by {part.records} records was interrupted; these are {count}", hint=hint
        )
    whole = joined(old if data_length(old) == before else Subset(old, range(before)), new)
    known = {record: said for record, said in facts.samples.items() if record >= before}
    if content_hashes(_trainer(writer, whole, facts.parts), known, facts.content_key) != known:
        raise ForeignData(
            "an extension by other records was interrupted and is not finished", hint=hint
        )
    return whole


def _trainer(writer: Writer, data: Dataset[Any], parts: Sequence[Part]) -> Trainer:
    facts, recipe = writer.facts, writer.trainer.recipe
    layout = layout_of(recipe, parts, facts.smallest_batch)
    return Trainer(recipe, data, layout, facts.environment, facts.content_key)
