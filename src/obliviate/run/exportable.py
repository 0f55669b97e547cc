"""Exportable: a run's model is handed on, and the ledger remembers where to."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from obliviate.disk.paths import naming
from obliviate.errors import InvalidOption, ModelGone, ObliviateError
from obliviate.export import CARD_NAME, Card, place_of
from obliviate.export.forms import form_of, written
from obliviate.export.place import check_outside
from obliviate.ledger.facts import CARRIED_OUT, ERASED
from obliviate.run.followers import Exporting
from obliviate.run.following import led_at_once
from obliviate.run.requested import Requested
from obliviate.run.served import Served
from obliviate.states.update import captured, digest
from obliviate.text import READS_MORE
from obliviate.vault.folder import Folder
from obliviate.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from obliviate.export import Place
    from obliviate.ledger import ExportFacts, Ledger
    from obliviate.recipe.recipe import Recipe
    from obliviate.run.worker import Writer

_EXAMPLES = 2  # of one record, a graph would be for batches of one


class Exportable(Requested):
    """A run whose model can be handed on.

    Attributes:
        recipe: The run's.
        writer: Who may change it.
    """

    recipe: Recipe
    writer: Writer

    @led_at_once(Exporting)
    def export(
        self, place: str | Path, form: str = "safetensors", *, example: Any = None
    ) -> ExportFacts:
        """Hand the model on, as it is now: in a folder of its own, with a card beside it.

        The folder is there as a whole or not at all, and an earlier export of this run to the same
        place goes. The run remembers it: `exports` and `status` say whether somebody who was erased
        since is held by it.

        Args:
            place: A folder that is new or empty, or a URL that fsspec knows.
            form: "safetensors" for all that the state dict holds, in a file that
                `ob.open_model` reads; "pretrained" as a model of transformers or peft saves itself,
                adapters alone where it has such; "onnx" for the graph; or what another package
                announces.
            example: What the model's `forward` is called with, for "onnx": a tensor, several in a
                tuple, or a mapping. Zeros in the form of the run's own inputs if None.

        Raises:
            RunUnfinished, RunOutdated, RunDamaged: See `model`.
            InvalidOption: There is no such form, the model has it not, or the place is not free.
            ExportFailed: The model cannot be written in that form.
            StorageFull, StorageFailed, ConnectionLost: The place cannot be written to; what was
                there before is there.
        """
        writes, where = form_of(form), place_of(place)
        storage = self.writer.vault.storage
        folders = [self.folder, *([storage.path] if isinstance(storage, Folder) else [])]
        check_outside(where, folders)

        def write(model: nn.Module, folder: Path) -> None:
            written(form, writes, model, folder, lambda: self._example(example))

        while True:
            model, entry = self._served.model_and_entry()
            with where.held(self.ledger.name) as folder:
                try:
                    facts = self.ledger.exports.begin(where.name, form, entry)
                except ModelGone:  # an erasure was committed meanwhile: take the new one
                    continue
                return self._handed_on(where, folder, facts, model, write)

    @property
    def _served(self) -> Served:
        return Served.by(self.writer, str(self.folder))

    def _handed_on(
        self,
        where: Place,
        folder: Path,
        facts: ExportFacts,
        model: nn.Module,
        write: Callable[[nn.Module, Path], None],
    ) -> ExportFacts:
        """Write what the ledger has been told of; where that fails, nothing is left of it."""
        exports = self.ledger.exports
        try:
            with naming(where.name):
                write(model, folder)
                card = self._card(facts, folder, digest(captured(model.state_dict())))
                (folder / CARD_NAME).write_bytes(card.to_bytes())
            where.put(folder)
        except BaseException:
            with contextlib.suppress(ObliviateError):  # else it stays begun: it may be somewhere
                where.take_back()
                if not self._lies_in(where, facts):
                    exports.give_up(facts.id)
            raise
        return exports.finish(facts.id)

    def _lies_in(self, where: Place, facts: ExportFacts) -> bool:
        card = where.card()
        return card is not None and (card.run, card.export) == (self.ledger.name, facts.id)

    def _card(self, facts: ExportFacts, folder: Path, state_digest: str) -> Card:
        ledger, until = self.ledger, facts.erasure or 0
        is_more = self.recipe.reads == "more"
        return Card(
            run=ledger.name,
            export=facts.id,
            form=facts.form,
            digest=str(facts.digest),
            state_digest=state_digest,
            guarantee=facts.guarantee,
            caveat=READS_MORE if is_more else None,
            blocks=facts.block,
            erasures=tuple(
                each.id
                for each in ledger.erasures.all()
                if each.state in ERASED and each.id <= until
            ),
            requests=_requests(ledger, facts),
            journal_head=ledger.journal.head(),
            made=facts.made,
            version=__version__,
            files={
                path.relative_to(folder).as_posix(): _hash(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            },
        )

    def _example(self, given: Any) -> Any:
        """What to call the model with: what was given, or zeros, so that nobody's record is."""
        if given is not None:
            return given
        gone = np.union1d(self.ledger.records.erased(), self.writer.waiting())
        ids = np.arange(self.facts.records - self.writer.lacks, dtype=np.int64)
        left = np.setdiff1d(ids, gone, assume_unique=True)[:_EXAMPLES]
        batch = self.writer.trainer.reader.batch(left)
        is_pair = isinstance(batch, tuple | list) and isinstance(batch[0], Tensor)
        if self.recipe.step is not None or not is_pair:
            raise InvalidOption(
                "what this model is called with is not known, for the recipe has a step of its own",
                hint="give it as example=: a tensor, several in a tuple, or a mapping",
            )
        return torch.zeros_like(batch[0])


def _requests(ledger: Ledger, facts: ExportFacts) -> tuple[int, ...]:
    """The requests that an export reflects; some found all their records erased already."""
    return tuple(
        each.id
        for each in ledger.requests.all(*CARRIED_OUT, "settled")
        if (
            each.received < facts.made
            if each.erasure is None
            else each.erasure <= (facts.erasure or 0)
        )
    )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
