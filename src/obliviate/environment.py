"""What the bits of a training step depend on beside the recipe and the data."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.utils.deterministic

if TYPE_CHECKING:
    from collections.abc import Iterator

# torch declares its attributes on the module's class, where type checkers do not see them
deterministic: Any = torch.utils.deterministic


BITS_DEPEND_ON = ("torch", "processor")
"""What cannot be set by us: where it differs, so may the last bits of every state."""


class Environment:
    """The process-wide settings that bits depend on, set for a while and then put back."""

    def __init__(self, device: str, threads: int) -> None:
        self._devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
        self._threads = threads

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Deterministic algorithms, the run's threads, gradients, no autocast, own generators."""
        threads, fill = torch.get_num_threads(), deterministic.fill_uninitialized_memory
        is_deterministic = torch.are_deterministic_algorithms_enabled()
        warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
        python, numpy = random.getstate(), np.random.get_state()
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=self._devices))
            stack.enter_context(torch.inference_mode(mode=False))
            stack.enter_context(torch.enable_grad())
            for kind in sorted({"cpu", *(device.type for device in self._devices)}):
                stack.enter_context(torch.autocast(kind, enabled=False))
            try:
                self._set_threads(self._threads)
                torch.use_deterministic_algorithms(True)
                deterministic.fill_uninitialized_memory = False
                yield
            finally:
                self._set_threads(threads)
                torch.use_deterministic_algorithms(is_deterministic, warn_only=warns_only)
                deterministic.fill_uninitialized_memory = fill
                random.setstate(python)
                np.random.set_state(numpy)

    def _set_threads(self, threads: int) -> None:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def environment_facts() -> dict[str, str]:
    """What the bits of a training step may depend on beside the recipe and the data."""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }


def seed_generators(seed: int, device: str) -> None:
    """Seed torch's, numpy's and Python's global generators."""
    # torch.manual_seed asks every accelerator backend, which costs more than a small step
    torch.default_generator.manual_seed(seed)
    if device.startswith("cuda"):
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
