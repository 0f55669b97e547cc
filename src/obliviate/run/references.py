"""References of a run: are they given where they are needed, and none of its records?"""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING

import numpy as np

from obliviate.errors import InvalidOption, TrainingFailed
from obliviate.methods.scorer import Scorer, with_own_loss
from obliviate.methods.scores import batch_scores
from obliviate.run.fingerprint import sampled
from obliviate.text import counted
from obliviate.training.batches import content_hash
from obliviate.training.references import References

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from obliviate.chain.chain import Chain
    from obliviate.methods.method import Method
    from obliviate.recipe.contents import Hashes
    from obliviate.recipe.parts import Part
    from obliviate.run.worker import Writer
    from obliviate.training.protocol import BlockTrainer
    from obliviate.training.records import Records
    from obliviate.training.references import Apart

    Match = tuple[int, int]
    """The index of a reference, and the id of a record."""

_NOBODY = np.array([], dtype=np.int64)
_FIRST_BITS, _REST_BITS = 22, np.uint32(10)
_SAMPLED = 256  # records that are compared before training
_LEAVE_OUT = (
    "a reference shows how a model behaves that never saw it: leave it out, as with "
    "torch.utils.data.Subset, or give other records"
)


def has_epochs(parts: Sequence[Part]) -> bool:
    """Whether some records are trained on in several epochs."""
    return any(len(part.deals) > 1 or (part.is_over_all and part.first_record) for part in parts)


def needs_references(method: Method, parts: Sequence[Part]) -> bool:
    """Whether a method goes by references on a chain of these parts."""
    return method.aims and has_epochs(parts)


def check_given(writer: Writer, method: Method, records: NDArray[np.int64]) -> None:
    """See that the references that an erasure goes by are there, and can be gone by.

    Args:
        writer: Who is about to carry it out.
        method: How.
        records: What it erases.

    Raises:
        InvalidOption: There are none, or they are records of the run.
        TrainingFailed: A dataset raised.
    """
    if given_references(writer, method) is not None:
        check_references(writer, records)


def given_references(writer: Writer, method: Method) -> References | None:
    """The references that an erasure goes by; None where its method goes by none.

    Raises:
        InvalidOption: The run was made with some, and none are given.
    """
    if not needs_references(method, writer.facts.parts):
        return None
    if writer.references is None and writer.facts.references:
        raise InvalidOption(
            f"the run was made with {writer.facts.references:,} references, and none are given",
            hint="load(..., reference=...), or method='deepobliviate', which goes by none",
        )
    return writer.references


def check_references(writer: Writer, going: NDArray[np.int64] = _NOBODY) -> None:
    """See that no reference is a record that the run was trained on, by their content.

    Hashes of 4 bytes are compared first; what is equal by them is read, and compared. Records that
    are erased, or wait for it, are not read. A record that the dataset draws anew each time has
    another hash each time, and is not found.

    Args:
        writer: Of the run; without references there is nothing to see.
        going: Records that are about to be erased: where they cannot be read any more, they are
            not compared.

    Raises:
        InvalidOption: One is.
        TrainingFailed: A dataset raised.
    """
    references, trainer = writer.references, writer.trainer
    if references is None:
        return
    gone = np.union1d(writer.ledger.records.erased(), writer.waiting())
    alike = _alike(references.all_hashes, writer.chain(), trainer, gone)
    _refuse(references, trainer.reader, alike, frozenset(going.tolist()))


def tried_references(
    trainer: BlockTrainer, apart: Apart | None, left_out: NDArray[np.int64]
) -> int:
    """Try references before a run is made with them: each is read, and some are scored.

    Args:
        trainer: Of the run to be made.
        apart: The references, if there are any.
        left_out: Records that are not to be read.

    Returns:
        How many they are.

    Raises:
        InvalidOption: They are records of the run, as far as a few hundred of those tell.
        InvalidRecipe: The loss has no form for single records, and the recipe no score.
        TrainingFailed: A dataset raised, or what it gives cannot be scored.
    """
    if apart is None:
        return 0
    secret, recipe = secrets.token_bytes(32), trainer.recipe
    references = References(recipe, apart, trainer.environment, secret)
    records = sampled(trainer.layout.records, recipe.seed, left_out, _SAMPLED)
    contents = (trainer.reader.content(record) for record in records.tolist())
    hashes = np.array([content_hash(each, secret) for each in contents], dtype=np.uint32)
    alike = _pairs(_Sorted(references.all_hashes), hashes, records)
    _refuse(references, trainer.reader, alike)
    _score(trainer, references, records[:1], left_out)
    return len(references)


def _score(
    trainer: BlockTrainer,
    references: References,
    record: NDArray[np.int64],
    left_out: NDArray[np.int64],
) -> None:
    """Score a batch of references as records are scored."""
    recipe, initial = trainer.recipe, trainer.initial().model
    scorer = Scorer(trainer, initial, record, np.union1d(left_out, record))
    ids = np.arange(min(len(references), recipe.batch_size), dtype=np.int64)
    batch = references.batch(ids)
    with scorer.loaded(initial) as model:
        try:
            batch_scores(model, with_own_loss(recipe), batch, len(ids), scorer.kind)
        except TrainingFailed as error:
            raise TrainingFailed(
                f"{references.what}, records {ids[0]} to {ids[-1]}: {error.message}",
                hint="let it give what the training data gives, of the same form",
            ) from error


class _Sorted:
    """Hashes of references, to look others up in."""

    def __init__(self, hashes: Hashes) -> None:
        self.order = np.argsort(hashes, kind="stable")
        self.hashes = hashes[self.order]
        self._begin_so = np.zeros(1 << _FIRST_BITS, dtype=np.bool_)
        self._begin_so[hashes >> _REST_BITS] = True

    def among(self, hashes: Hashes) -> NDArray[np.int64]:
        """Where in these hashes are some that are known. Shape (m,)."""
        # nearly all of millions are ruled out by their first bits, without a search for each
        at = np.flatnonzero(self._begin_so[hashes >> _REST_BITS])
        near = np.minimum(np.searchsorted(self.hashes, hashes[at]), len(self.hashes) - 1)
        found: NDArray[np.int64] = at[(self.hashes[near] == hashes[at]) & (hashes[at] != 0)]
        return found

    def of(self, some: np.uint32) -> NDArray[np.int64]:
        """The references of a hash."""
        first, last = (np.searchsorted(self.hashes, some, side) for side in ("left", "right"))
        return self.order[first:last]


def _alike(
    hashes: Hashes, chain: Chain, trainer: BlockTrainer, gone: NDArray[np.int64]
) -> Iterator[Match]:
    """References and records of one hash, by what the chain says of the last epochs' records."""
    known = _Sorted(hashes)
    for block in _last_blocks(trainer.layout.parts, chain.length):
        contents = chain.contents(block)
        at = known.among(contents)
        if len(at):
            records = trainer.layout.members(block)[at]
            is_there = ~np.isin(records, gone)
            yield from _pairs(known, contents[at][is_there], records[is_there])


def _pairs(known: _Sorted, hashes: Hashes, records: NDArray[np.int64]) -> Iterator[Match]:
    for at in known.among(hashes):
        for reference in known.of(hashes[at]):
            yield int(reference), int(records[at])


def _last_blocks(parts: Sequence[Part], length: int) -> Iterator[int]:
    """Blocks in which every record is that was trained on: those of the last epochs over them.

    Where training stopped within an epoch, the one before goes with it.
    """
    for part in reversed(parts):
        done = min(length - part.first_block + 1, part.length)
        if done > 0:
            begun = done // part.blocks
            first = max(0, begun - 1) * part.blocks
            yield from range(part.first_block + first, part.first_block + done)
            if part.is_over_all and begun:
                return  # whoever came before is in it, too


def _refuse(
    references: References,
    reader: Records,
    alike: Iterable[Match],
    going: frozenset[int] = frozenset(),
) -> None:
    """Refuse references that are records, which a hash alone does not prove.

    Raises:
        InvalidOption: One is.
    """
    alike = iter(alike)
    for reference, record in alike:
        with contextlib.suppress(*((TrainingFailed,) if record in going else ())):
            if references.content(reference) == reader.content(record):
                others = len({each for each, _ in alike} - {reference})
                more = f"; {counted(others, 'other')} too, by their hashes" if others else ""
                raise InvalidOption(
                    f"reference {reference} is record {record} of the run, by its content{more}",
                    hint=_LEAVE_OUT,
                )
