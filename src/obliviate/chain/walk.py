"""A walk along the chain: its states in their order, each read from the one before.

Whoever goes through many blocks reads every update once, however far apart the keyframes stand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from obliviate.errors import Mismatch, RunDamaged
from obliviate.training.protocol import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from obliviate.chain.chain import Chain


class Walk:
    """Reads later and later states of a chain; one of them is kept at hand.

    Attributes:
        made: The checkpoint of the last block that was trained again, where the chain keeps none.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self.made: dict[int, Checkpoint] = {}
        self._at = -1
        self._state: dict[str, Tensor] = {}
        self._fault: RunDamaged | Mismatch | None = None

    def state(self, block: int) -> dict[str, Tensor]:
        """P_k, checked; whoever holds the state before may go on using it.

        Args:
            block: Its number; no smaller than the last one that was asked for.

        Raises:
            RunDamaged: An object is missing or changed.
            Mismatch: The result is not what the ledger says.
        """
        at = self._last_known(block)
        if at > self._at:
            self._read(at, block)
        elif block > at and not isinstance(self._fault, RunDamaged):
            self._go_on(block)
        self._at = block
        if self._fault is not None:
            raise type(self._fault)(self._fault.message, hint=self._fault.hint)
        return self._state

    def checkpoint(self, block: int) -> Checkpoint:
        """P_k with its optimizer state, where that was kept; see `state`."""
        state = self.state(block)
        return Checkpoint(model=state, optimizer=self._chain.optimizer(block))

    def _last_known(self, block: int) -> int:
        """The state to start from: the last keyframe, or the one at hand where it is later."""
        at = block
        while at > max(self._at, 0) and self._chain.entries[at].keyframe is None:
            at -= 1
        return at

    def _read(self, at: int, block: int) -> None:
        """Take a keyframe, and go on from there."""
        self._state, self._fault = {}, None  # states are large
        try:
            self._state = self._chain.keyframe(at)
            self._state = self._chain.onward(self._state, at, block, consume=True)
        except RunDamaged as error:
            self._state, self._fault = {}, error
        else:
            self._check(block)

    def _go_on(self, block: int) -> None:
        self._fault = None
        try:
            self._state = self._chain.onward(self._state, self._at, block)
        except RunDamaged as error:
            self._state, self._fault = {}, error
        else:
            self._check(block)

    def _check(self, block: int) -> None:
        try:
            self._chain.check_state(block, self._state)
        except Mismatch as error:
            self._fault = error
