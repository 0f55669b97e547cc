"""Growth: new records behind the old ones, in new blocks. Ids never shift, old blocks stay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from torch import cat
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from obliviate.chain.bridge import bridging
from obliviate.desk.subjects import record_ids
from obliviate.erasure.results import Extension
from obliviate.errors import ForeignData, InvalidOption, RequestWaits, RunUnfinished
from obliviate.ledger import Newcomers
from obliviate.ledger.records import subject_hash
from obliviate.options import choice, whole
from obliviate.recipe.parts import with_part
from obliviate.recipe.subjects import Subjects
from obliviate.run.arguments import cut, data_length
from obliviate.run.fingerprint import SAMPLED_RECORDS, content_hashes
from obliviate.run.make import deal_seed, groups_for, layout_of, trainer_of
from obliviate.run.tombstoned import Reingested
from obliviate.run.trial import trying
from obliviate.run.worker import Writer
from obliviate.training.base import moving_in

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from numpy.typing import NDArray

    from obliviate.events import Event
    from obliviate.ledger import RunFacts
    from obliviate.recipe.parts import Part
    from obliviate.recipe.recipe import Recipe
    from obliviate.recipe.subjects import Given
    from obliviate.training.protocol import BlockTrainer

Choice = Literal["exclude", "refuse"]
"""What becomes of new records of people whose requests wait: they are left out, or all are."""

Over = Literal["new", "all"]
"""What the epochs of an extension go over: the new records alone, or the old ones as well."""


def joined(old: Dataset[Any], new: Dataset[Any]) -> Dataset[Any]:
    """One dataset followed by another; tensors stay tensors, which are faster to train on.

    Raises:
        InvalidRecipe: The new one is no map-style dataset, or holds nothing.
    """
    data_length(new)
    if type(old) is type(new) is TensorDataset and len(old.tensors) == len(new.tensors):
        pairs = list(zip(old.tensors, new.tensors, strict=True))
        if all(a.shape[1:] == b.shape[1:] and a.dtype == b.dtype for a, b in pairs):
            return TensorDataset(*(cat(pair) for pair in pairs))
    return ConcatDataset([old, new])


def lacking(facts: RunFacts, length: int) -> int:
    """How many records a dataset lacks: those of the last extension, or none.

    Whoever's call was stopped, before its end or just behind it, comes with the old data again and
    calls `extend` again.
    """
    missing = facts.records - length
    return missing if len(facts.parts) > 1 and missing == facts.parts[-1].records else 0


@dataclass(frozen=True, kw_only=True)
class Addition:
    """New records for a run.

    Attributes:
        data: The records.
        blocks: How many blocks each epoch is cut into; of about the size of the first ones if None.
        epochs: How many epochs are trained; as many as the recipe's over new records, or one over
            all, if None.
        over: What they go over.
        subjects: Whose each is; see `fit`.
        exclude: Those to leave out, by their ids in the run.
        requested: What becomes of those whose people wait to be forgotten.
    """

    data: Dataset[Any]
    blocks: int | None = None
    epochs: int | None = None
    over: Over = "new"
    subjects: Given | None = None
    exclude: Iterable[int] = ()
    requested: Choice = "exclude"


def is_unfinished(writer: Writer) -> bool:
    """Whether an extension was begun and is not trained to its end.

    Raises:
        RunUnfinished: The first training is not.
    """
    facts = writer.facts
    if writer.ledger.chain.length() == facts.blocks:
        return False
    if len(facts.parts) == 1:
        raise RunUnfinished(
            "the run has not been trained to its end",
            hint="call fit again with the same arguments first",
        )
    return True


def extending(
    writer: Writer, whole: Dataset[Any], addition: Addition
) -> Generator[Event, None, Extension]:
    """Train on new records, each of which is tried first.

    The records become part of the run with the first block that was trained on them, and not
    before: an extension that fails until then leaves nothing behind.

    Args:
        writer: Of the run as it was.
        whole: Its dataset from now on.
        addition: The new records.
    """
    facts, ledger = writer.facts, writer.ledger
    blocks, people, chosen = _checked(facts, addition)
    trainer = _grown(writer, whole, addition, people, blocks)
    part, grown = trainer.layout.parts[-1], replace(facts, parts=trainer.layout.parts)
    ids = np.arange(facts.records, grown.records, dtype=np.int64)
    found = Reingested.among(trainer, ids, facts.tombstones, people)
    asked = _asked_for(writer, people, addition.requested)
    left_out = np.union1d(np.union1d(chosen, found.records), asked)
    new = Newcomers(
        groups=trainer.layout.groups[facts.records :],
        subjects=people,
        contents=found.contents,
        excluded=left_out,
    )
    yield from writer.taking_lease()
    try:
        yield from writer.continuing()
        yield from _trying(writer, trainer, part.first_block, left_out)
        fresh = np.setdiff1d(trainer.layout.members(part.first_block), left_out)
        fresh = fresh[fresh >= facts.records][:SAMPLED_RECORDS]
        samples = content_hashes(trainer, fresh, facts.content_key)
        # records that are left out stay so even before the ledger knows of them
        training = Writer(ledger, writer.vault, trainer, grown).going_on(
            partial(ledger.extend, part, new, samples), left_out
        )
        yield from training
    finally:
        ledger.lease.release()
    return Extension(
        records=part.records,
        blocks=part.blocks,
        excluded=tuple(chosen.tolist()),
        reingested=tuple(found.records.tolist()),
        requested=tuple(asked.tolist()),
    )


def growing(writer: Writer, whole: Dataset[Any], addition: Addition) -> BlockTrainer:
    """What trains on new records, on a rank where they are not written down.

    Args:
        writer: Of the run as it was.
        whole: Its dataset from now on.
        addition: The new records.
    """
    blocks, people, _ = _checked(writer.facts, addition)
    return _grown(writer, whole, addition, people, blocks)


def going_on(writer: Writer, addition: Addition) -> Generator[Event, None, Extension]:
    """Go on with an extension that was interrupted; records not trained on yet may be mended.

    One that was stopped behind its last commit is finished: nothing is left to train.

    Args:
        writer: Of the extended run, with its whole dataset.
        addition: The records of the extension.
    """
    facts, ledger = writer.facts, writer.ledger
    part = writer.trainer.layout.parts[-1]
    yield from writer.taking_lease()
    try:
        yield from writer.continuing()
        length = ledger.chain.length()
        ids = np.arange(part.first_record, facts.records, dtype=np.int64)
        ahead = ids[writer.trainer.layout.places(ids).earliest > length]
        chosen = np.setdiff1d(_left_out(facts, addition), ledger.records.erased())
        trained = np.setdiff1d(chosen, ahead)
        if len(trained):
            raise InvalidOption(
                f"exclude holds record {trained[0]}, which was trained on already",
                hint="to erase it, call forget",
            )
        rest = np.setdiff1d(ahead, chosen)
        its = None
        if addition.subjects is not None:
            everybody = list(Subjects.of(addition.subjects, part.records))
            its = [everybody[record - part.first_record] for record in rest.tolist()]
        found = Reingested.among(writer.trainer, rest, facts.tombstones, its)
        ledger.records.leave_out(np.union1d(chosen, found.records), found.by_record)
        yield from _trying(writer, writer.trainer, length + 1, chosen)
        yield from writer.going_on()
    finally:
        ledger.lease.release()
    return Extension(
        records=part.records,
        blocks=part.blocks,
        excluded=tuple(chosen.tolist()),
        reingested=tuple(found.records.tolist()),
    )


def _trying(
    writer: Writer, trainer: BlockTrainer, first: int, left_out: NDArray[np.int64]
) -> Generator[Event, None, None]:
    """Try every record that blocks from one on will be the first to train on."""
    chain, part = writer.chain(), trainer.layout.parts[-1]
    blocks = range(first, part.first_block + part.blocks)
    erased = np.union1d(writer.ledger.records.erased(), left_out)
    start = yield from bridging(chain, writer.trainer, chain.length, erased)
    yield from trying(trainer, start.model, blocks, erased)


def _asked_for(writer: Writer, people: Subjects | None, requested: Choice) -> NDArray[np.int64]:
    """New records of people who wait to be forgotten."""
    hint = 'give "exclude" to leave out records of people who wait, "refuse" to be told of them'
    chosen = choice(requested, "requested", get_args(Choice), hint)
    facts = writer.facts
    waiting = set() if people is None else writer.ledger.records.waiting()
    if people is None or not waiting or facts.subject_key is None:
        return np.array([], dtype=np.int64)
    names = {name for name in people.names() if subject_hash(name, facts.subject_key) in waiting}
    found = [
        record
        for record, its in enumerate(people, start=facts.records)
        if not names.isdisjoint(its)
    ]
    if found and chosen == "refuse":
        raise RequestWaits(
            f"{len(found)} new records are of people who wait to be forgotten, such as {found[0]}",
            hint='take them out, leave them out with requested="exclude", or call work first',
        )
    return np.array(found, dtype=np.int64)


def _left_out(facts: RunFacts, addition: Addition, count: int = 0) -> NDArray[np.int64]:
    """The ids that the caller leaves out; `count` records are to come."""
    left_out = record_ids(addition.exclude, facts.records + count, what="exclude")
    before = facts.records if count else facts.records - facts.parts[-1].records
    if len(left_out) and left_out[0] < before:
        raise InvalidOption(
            f"exclude holds record {left_out[0]}, which the run knows already",
            hint="to erase it, call forget",
        )
    return left_out


def _checked(facts: RunFacts, addition: Addition) -> tuple[int, Subjects | None, NDArray[np.int64]]:
    """The blocks of an epoch, whose the new records are, and which of them are left out."""
    count = data_length(addition.data)
    blocks, people = cut(
        _blocks(facts, addition), addition.subjects, _covered(facts, addition), count
    )
    return blocks, people, _left_out(facts, addition, count)


def _covered(facts: RunFacts, addition: Addition) -> int:
    """How many records the new epochs go over."""
    hint = 'give "new" to train on the new records alone, "all" to train on the old ones too'
    over = choice(addition.over, "over", get_args(Over), hint)
    return data_length(addition.data) + (facts.records if over == "all" else 0)


def _blocks(facts: RunFacts, addition: Addition) -> Any:
    if addition.blocks is not None:
        return addition.blocks
    first = facts.parts[0]
    return max(1, round(_covered(facts, addition) * first.blocks / first.records))


def _epochs(addition: Addition, recipe: Recipe) -> int:
    if addition.epochs is None:
        return recipe.epochs if addition.over == "new" else 1
    return whole(addition.epochs, "epochs", least=1, hint="give a number of epochs, or None")


def _grown(
    writer: Writer,
    data: Dataset[Any],
    addition: Addition,
    people: Subjects | None,
    blocks: int,
) -> BlockTrainer:
    """The trainer of the run as it will be."""
    facts, recipe = writer.facts, writer.trainer.recipe
    count = data_length(addition.data)
    new = groups_for(recipe, people, range(facts.records, facts.records + count))
    groups = np.concatenate([writer.ledger.records.groups(), new])
    parts = with_part(
        facts.parts,
        groups,
        records=count,
        blocks=blocks,
        epochs=_epochs(addition, recipe),
        seed=deal_seed(recipe),
        is_over_all=addition.over == "all",
    )
    return _trainer(writer, data, parts, lambda: groups)


def resumed(writer: Writer, old: Dataset[Any], addition: Addition) -> Dataset[Any]:
    """The whole dataset of a run whose extension was interrupted.

    Raises:
        ForeignData, InvalidOption: It was begun with something else.
    """
    facts, new = writer.facts, addition.data
    part, count = facts.parts[-1], data_length(new)
    before = facts.records - part.records
    hint = "give the very records that the extension was begun with"
    if count != part.records:
        raise ForeignData(
            f"the run was extended by {part.records} records; these are {count}", hint=hint
        )
    blocks = part.blocks if addition.blocks is None else addition.blocks
    blocks, people = cut(blocks, addition.subjects, len(part.covered), count)
    begun = {"blocks": part.blocks, "epochs": len(part.deals), "over": _over(part)}
    given = {"blocks": blocks, "epochs": addition.epochs, "over": addition.over}
    for name, value in begun.items():
        if given[name] not in (None, value):
            raise InvalidOption(
                f"the extension was begun with {name}={value!r}, not {given[name]!r}",
                hint="give that, as when it was begun",
            )
    number = len(facts.parts) - 1
    known = writer.ledger.records
    if people is None and facts.tombstones and known.has_subjects(number):
        raise InvalidOption(
            "the extension was begun with subjects, and none are given",
            hint="give them again: tombstones know a record by whose it is, too",
        )
    key = facts.subject_key
    if people is not None and key and not known.has_same_subjects(number, people, key):
        raise InvalidOption("the extension was begun with other subjects", hint=hint)
    whole = joined(old if data_length(old) == before else Subset(old, range(before)), new)
    samples = {record: said for record, said in facts.samples.items() if record >= before}
    trainer = _trainer(writer, whole, facts.parts, writer.ledger.records.groups)
    if content_hashes(trainer, samples, facts.content_key) != samples:
        raise ForeignData(
            "the run was extended by other records",
            hint=f"{hint}; only those that were not trained on yet may be mended",
        )
    return whole


def _over(part: Part) -> Over:
    return "all" if part.is_over_all else "new"


def _trainer(
    writer: Writer,
    data: Dataset[Any],
    parts: tuple[Part, ...],
    grouping: Callable[[], NDArray[np.int64]],
) -> BlockTrainer:
    facts, recipe = writer.facts, writer.trainer.recipe
    return trainer_of(
        recipe,
        data,
        layout_of(recipe, parts, grouping, facts.smallest_batch),
        environment=facts.environment,
        content_key=facts.content_key,
        moving=moving_in(facts.fingerprint),
        before=writer.trainer,
    )
