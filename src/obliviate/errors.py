"""What can go wrong, one class per cause, each with a way to mend it."""

from __future__ import annotations

import re

from obliviate.text import printable, shortened

_LONGEST_MESSAGE = 4000
PUT_BACK = (
    "put back the run's whole folder and its vault from one and the same copy, and erase again "
    "whoever was erased since; or make the run again in another folder, leaving them out"
)
"""What to do about a ledger that is lost. One alone that is put back belongs to no vault."""

REBUILD = "see what can be rebuilt with `obliviate vault RUN --check`"
"""What to do about an object that is lost."""


class ObliviateError(Exception):
    """Something was asked for that cannot be done; nothing was changed.

    Attributes:
        message: What happened, with the value that caused it; short, and without anything that a
            terminal would obey, whatever the value.
        hint: What is allowed, and how to mend it.
        code: The kind of error, in a word that does not change: "unknown_subject".
    """

    code = "error"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.code = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(self, message: str, hint: str = "") -> None:
        message, hint = (printable(shortened(each, _LONGEST_MESSAGE)) for each in (message, hint))
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class RequestError(ObliviateError):
    """The request itself was wrong: asking again in the same way cannot help."""


class InvalidRecipe(RequestError):
    """A recipe or project cannot be trained; the message lists every fault that was found."""


class Unsupported(InvalidRecipe):
    """A baseline needs something that the project does not have; the message names it."""


class InvalidOption(RequestError):
    """An option has a value or a type that is not allowed."""


class ExtraMissing(RequestError, ImportError):
    """A library that an integration is made for is not installed."""


class UnknownRecord(RequestError):
    """A record id is not in the dataset."""


class UnknownSubject(RequestError):
    """No record belongs to the subject."""


class UnknownMethod(RequestError):
    """No method of erasing has that name."""


class NothingLeft(RequestError):
    """The request would erase every record there is."""


class ForeignRecipe(RequestError):
    """The run was made with another recipe."""


class ForeignData(RequestError):
    """The run was made with another dataset."""


class RunMissing(RequestError):
    """There is no run in that place."""


class RunUnfinished(RequestError):
    """The run has not been trained to its end yet."""


class OtherFormat(RequestError):
    """The run was written by another version of Obliviate, in a format that this one lacks."""


class RequestWaits(RequestError):
    """The data holds records of people whose requests to be forgotten wait."""


class UnknownRequest(RequestError):
    """The run has no request of that number, or it cannot be changed any more."""


class UnknownExport(RequestError):
    """Nothing of the run was exported to that place, or nothing is there any more."""


class Tombstoned(RequestError):
    """The data holds records that were erased before."""


class WrongKey(RequestError):
    """The vault was sealed with another master key."""


class KeyMissing(RequestError):
    """The master key of a sealed vault cannot be had."""


class ForeignVault(RequestError):
    """The place holds the vault of another run, or something else."""


class TombstonesLost(ObliviateError):
    """The file of tombstones of a run is not there, or it is another one."""


class TombstonesDamaged(ObliviateError):
    """The file of tombstones is not what was written."""


class ExportFailed(ObliviateError):
    """The model cannot be written in the form that was asked for."""


class ModelGone(ObliviateError):
    """The model that an erasure left is stored no longer."""


class RefusedMeanwhile(ObliviateError):
    """A request was refused by another process while it was about to be carried out."""


class RunLocked(ObliviateError):
    """Another live process is writing to the run."""


class LeaseLost(ObliviateError):
    """Another process took the run over in the meantime."""


class ConnectionLost(ObliviateError):
    """The server of the ledger, or the storage of the vault, cannot be reached."""


class RankLost(ConnectionLost):
    """Another process of the same training ended, or does not answer."""


class RunDamaged(ObliviateError):
    """Something in the run folder is missing or is not what was written there."""


class RunOutdated(RunDamaged):
    """The ledger is older than, or another than, the one that last wrote to the vault.

    Or it is older than its tombstones: it holds records that were erased since.
    """


class NotDeterministic(ObliviateError):
    """The same batch gave two different results, so that no replay could be exact."""


class NotFinite(ObliviateError):
    """The loss became NaN or infinite."""


class Diverged(NotFinite):
    """A baseline's loss, or a weight, became NaN or infinite; the model is what it was before."""


class TrainingFailed(ObliviateError):
    """The dataset, the model, the loss or the optimizer raised an exception."""


class StorageFull(ObliviateError):
    """The storage has no room, or refuses to be written to."""


class StorageFailed(ObliviateError):
    """The disk failed for the moment: an I/O error, too many open files."""


class Mismatch(ObliviateError):
    """What was computed again is not what was stored."""


class NothingLearned(UserWarning):
    """Steps were made, and no parameter was changed by them."""


def error_of(code: str, message: str, hint: str) -> ObliviateError:
    """The error of a code, as another process told it."""
    kinds, known = [ObliviateError], dict[str, type[ObliviateError]]()
    while kinds:
        kind = kinds.pop()
        known[kind.code] = kind
        kinds += kind.__subclasses__()
    return known.get(code, ObliviateError)(message, hint=hint)
