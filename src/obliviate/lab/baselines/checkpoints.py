"""Checkpoints of shards in a folder, and the list that says which of them count."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from obliviate.disk.paths import naming
from obliviate.errors import RunDamaged
from obliviate.training.protocol import Checkpoint
from obliviate.vault import Stored, Vault
from obliviate.vault.codec import decode, encode
from obliviate.vault.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

LIST_NAME, OBJECTS_NAME = "checkpoints.json", "objects"
_AGAIN = "prepare again in another folder, without the records that were forgotten"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A checkpoint as it lies in the folder.

    Attributes:
        shard: Of which shard, from 0.
        step: After which of its steps, from 1.
        model: The state.
        optimizer: The optimizer's, where it is carried.
        is_new: Whether it was made for a request that is not carried out to its end.
    """

    shard: int
    step: int
    model: Stored
    optimizer: Stored | None
    is_new: bool = False

    @property
    def objects(self) -> list[Stored]:
        """All that it takes."""
        return [self.model] if self.optimizer is None else [self.model, self.optimizer]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Kept:
        """A checkpoint as the list has it."""
        optimizer = values["optimizer"] and Stored(**values["optimizer"])
        return cls(**{**values, "model": Stored(**values["model"]), "optimizer": optimizer})


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What the list says.

    Attributes:
        facts: What the folder was made for.
        erased: Sorted ids of all records that were forgotten.
        asked: Those that a request which is not carried out to its end names.
        kept: The checkpoints.
    """

    facts: Mapping[str, Any]
    erased: tuple[int, ...] = ()
    asked: tuple[int, ...] = ()
    kept: tuple[Kept, ...] = ()

    def without(self, first: Mapping[int, int]) -> Iterator[Kept]:
        """The checkpoints that hold nobody who is asked for, and all new ones.

        Args:
            first: The shards that hold some of them, and the first step of each that does.
        """
        for kept in self.kept:
            if kept.is_new or kept.step < first.get(kept.shard, kept.step + 1):
                yield kept


class Checkpoints:
    """The checkpoints in a folder.

    The list is written whole or not at all, behind what it names: what it says is so, whenever a
    process is killed. A request is on it before anything is trained for it. What it makes stands
    beside what there was, and takes its place when the request has been carried out.
    """

    def __init__(self, folder: Path) -> None:
        """Look at a folder, which may be new or empty."""
        self.folder = folder
        self._lists, self._vault = Folder(folder), Vault(Folder(folder / OBJECTS_NAME))
        self._listed = self._read()

    @property
    def listed(self) -> Listed:
        """What the list says."""
        assert self._listed is not None  # noqa: S101 - it is made before it is asked
        return self._listed

    @property
    def facts(self) -> Mapping[str, Any] | None:
        """What the folder was made for; None where it is new."""
        return None if self._listed is None else self._listed.facts

    @property
    def erased(self) -> NDArray[np.int64]:
        """All records that were forgotten, sorted."""
        return np.array(self.listed.erased, dtype=np.int64)

    @property
    def asked(self) -> NDArray[np.int64]:
        """Those of a request that is not carried out to its end, sorted."""
        return np.array(self.listed.asked, dtype=np.int64)

    @property
    def disk_bytes(self) -> int:
        """What the checkpoints take on disk."""
        return sum(each.size_bytes for kept in self.listed.kept for each in kept.objects)

    def make(self, facts: Mapping[str, Any]) -> None:
        """Begin the list."""
        with naming(self.folder):
            (self.folder / OBJECTS_NAME).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._commit(Listed(facts=facts))

    def last(self, shard: int, first: Mapping[int, int]) -> Kept | None:
        """The last checkpoint of a shard that holds nobody who is asked for; None without any.

        Args:
            shard: Which.
            first: See `Listed.without`.
        """
        its = (kept for kept in self.listed.without(first) if kept.shard == shard)
        return max(its, key=lambda kept: kept.step, default=None)

    def read(self, kept: Kept) -> Checkpoint:
        """What a checkpoint holds.

        Raises:
            RunDamaged: It is missing, or not what was written.
        """
        try:
            model, *optimizer = [decode(self._vault.read(each)) for each in kept.objects]
        except RunDamaged as error:
            raise RunDamaged(error.message, hint=_AGAIN) from error
        return Checkpoint(model=model, optimizer=optimizer[0] if optimizer else None)

    def add(self, shard: int, step: int, checkpoint: Checkpoint) -> None:
        """Keep the checkpoint after a step.

        Raises:
            StorageFull, StorageFailed: It cannot be written.
        """
        packed = checkpoint.optimizer
        kept = Kept(
            shard=shard,
            step=step,
            model=self._vault.write(encode(checkpoint.model)),
            optimizer=None if packed is None else self._vault.write(encode(packed)),
            is_new=bool(self.listed.asked),
        )
        self._commit(replace(self.listed, kept=(*self.listed.kept, kept)))

    def ask(self, records: NDArray[np.int64]) -> None:
        """Note that a request names records, before anything is done about it."""
        self._commit(replace(self.listed, asked=tuple(records.tolist())))

    def carry_out(self, first: Mapping[int, int]) -> None:
        """Put what was made for the request in the place of what held its records, for good.

        Args:
            first: See `Listed.without`.
        """
        now = self.listed
        kept = tuple(replace(each, is_new=False) for each in now.without(first))
        erased = tuple(np.union1d(self.erased, self.asked).tolist())
        self._commit(replace(now, erased=erased, asked=(), kept=kept))
        self.sweep()

    def take_back(self) -> None:
        """Have it as it was before the request."""
        kept = tuple(each for each in self.listed.kept if not each.is_new)
        self._commit(replace(self.listed, asked=(), kept=kept))
        self.sweep()

    def sweep(self) -> None:
        """Destroy what the list does not name."""
        named = {each.key for kept in self.listed.kept for each in kept.objects}
        for key in set(self._vault) - named:
            self._vault.destroy(key)

    def _read(self) -> Listed | None:
        path = self.folder / LIST_NAME
        with naming(self.folder):
            if not path.exists():
                return None
        try:
            values = json.loads(self._lists.read(LIST_NAME))
            kept = tuple(Kept.of(each) for each in values["kept"])
            ids = {name: tuple(values[name]) for name in ("erased", "asked")}
            return Listed(**{**values, **ids, "kept": kept})
        except (ValueError, KeyError, TypeError) as error:
            raise RunDamaged(f"{path} is no list of checkpoints: {error}", hint=_AGAIN) from error

    def _commit(self, listed: Listed) -> None:
        self._lists.replace(LIST_NAME, json.dumps(asdict(listed)).encode())
        self._listed = listed
