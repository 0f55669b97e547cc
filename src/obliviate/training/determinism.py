"""What the bits of a training step depend on beside the recipe and the data.

Switches of the whole process are set, for the time of training, to what they were when the run was
made, and then put back. What cannot be set is written down and compared.
"""

from __future__ import annotations

import contextlib
import json
import operator
import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.utils.deterministic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# torch declares its attributes on the module's class, where type checkers do not see them
deterministic: Any = torch.utils.deterministic
backends: Any = torch.backends
native: Any = torch._C

BITS_DEPEND_ON = ("torch", "processor", "accelerator", "cuda", "cudnn", "tf32 override")
"""What cannot be set by us: where it differs, so may the last bits of every state."""

_OF_CUDA = frozenset({"cublas workspace", "blas library", "linalg library"})
"""Switches that are no facts of a run on a CPU, where they do nothing and some cannot be set."""

_WORKSPACE, _SAME_EACH_TIME = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")
_MIXED = "set for single backends"
_DENORMAL = 1e-310


@dataclass(frozen=True)
class Switch:
    """A setting of the process that bits depend on."""

    read: Callable[[], Any]
    write: Callable[[Any], object]


def _attribute(path: str) -> Switch:
    """A setting of torch.backends."""
    owner, _, name = path.rpartition(".")
    module = operator.attrgetter(owner)(backends) if owner else backends

    def write(value: Any) -> None:
        setattr(module, name, value)

    return Switch(lambda: getattr(module, name), write)


def _matmul_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except (
        RuntimeError
    ):  # it was set otherwise, for some of the backends; they are asked one by one
        return _MIXED


def _set_matmul_precision(value: str) -> None:
    if value != _MIXED:
        torch.set_float32_matmul_precision(value)


def _set_default_dtype(name: str) -> None:
    torch.set_default_dtype(getattr(torch, name))


def _set_workspace(value: str | None) -> None:
    if value is None:
        os.environ.pop(_WORKSPACE, None)
    else:
        os.environ[_WORKSPACE] = value


def _attention_order() -> Any:
    return tuple(native._get_sdp_priority_order())


def _library(what: str) -> Switch:
    """Which library computes, by the name of torch's own enumeration."""
    choose: Any = getattr(backends.cuda, f"preferred_{what}_library")
    return Switch(lambda: choose().name, lambda name: choose(getattr(type(choose()), name)))


def _is_flushing_denormals() -> bool:
    # asked of a product, for torch only says whether it could be set
    return not bool(torch.tensor(_DENORMAL, dtype=torch.float64, device="cpu").mul(1.0).ne(0.0))


_PATHS = (
    "mkldnn.enabled",
    "mkldnn.deterministic",
    "fp32_precision",  # these, from the general to the special: the special ones are set last
    "mkldnn.fp32_precision",
    "mkldnn.matmul.fp32_precision",
    "mkldnn.conv.fp32_precision",
    "mkldnn.rnn.fp32_precision",
    "cudnn.fp32_precision",
    "cudnn.conv.fp32_precision",
    "cudnn.rnn.fp32_precision",
    "cuda.matmul.fp32_precision",
    "cuda.matmul.allow_fp16_reduced_precision_reduction",
    "cuda.matmul.allow_bf16_reduced_precision_reduction",
    "cuda.matmul.allow_fp16_accumulation",
    "cudnn.enabled",
    "cudnn.benchmark",
    "cudnn.deterministic",
    "opt_einsum.enabled",
    "opt_einsum.strategy",
)


def _switches() -> Iterator[tuple[str, Switch]]:
    yield (
        "default dtype",
        Switch(
            lambda: str(torch.get_default_dtype()).removeprefix("torch."),
            _set_default_dtype,
        ),
    )
    yield (
        "default device",
        Switch(lambda: str(torch.get_default_device()), torch.set_default_device),
    )
    yield "flush denormals", Switch(_is_flushing_denormals, torch.set_flush_denormal)
    yield "matmul precision", Switch(_matmul_precision, _set_matmul_precision)
    for path in _PATHS:
        with contextlib.suppress(AttributeError):  # other versions of torch have others
            switch = _attribute(path)
            switch.read()
            yield path, switch
    yield from _attention_switches()
    if hasattr(native, "_get_cpu_allow_fp16_reduced_precision_reduction"):
        yield (
            "fp16 reduction",
            Switch(
                native._get_cpu_allow_fp16_reduced_precision_reduction,
                native._set_cpu_allow_fp16_reduced_precision_reduction,
            ),
        )
    yield "cublas workspace", Switch(lambda: os.environ.get(_WORKSPACE), _set_workspace)
    for what in ("blas", "linalg"):
        if hasattr(backends.cuda, f"preferred_{what}_library"):
            yield f"{what} library", _library(what)
    if hasattr(native, "_get_nnpack_enabled"):
        yield "nnpack", Switch(native._get_nnpack_enabled, backends.nnpack.set_flags)


def _attention_switches() -> Iterator[tuple[str, Switch]]:
    mha = backends.mha
    yield "mha fast path", Switch(mha.get_fastpath_enabled, mha.set_fastpath_enabled)
    for kind in ("flash", "math", "mem_efficient", "cudnn"):
        read = getattr(backends.cuda, f"{kind}_sdp_enabled", None)
        if read is not None:
            yield f"{kind} attention", Switch(read, getattr(backends.cuda, f"enable_{kind}_sdp"))
    for kind in ("fa3", "overrideable"):
        if hasattr(native, f"_get_{kind}_sdp_enabled"):
            read = getattr(native, f"_get_{kind}_sdp_enabled")
            yield f"{kind} attention", Switch(read, getattr(native, f"_set_sdp_use_{kind}"))
    if hasattr(native, "_get_sdp_priority_order"):
        write = native._set_sdp_priority_order
        yield "attention order", Switch(_attention_order, lambda order: write(list(order)))
    if hasattr(backends.cuda, "allow_fp16_bf16_reduction_math_sdp"):
        read = backends.cuda.fp16_bf16_reduction_math_sdp_allowed
        yield (
            "math attention reduction",
            Switch(read, backends.cuda.allow_fp16_bf16_reduction_math_sdp),
        )


SWITCHES: dict[str, Switch] = dict(_switches())


def settings() -> dict[str, str]:
    """What the switches say now, each as JSON."""
    return {name: json.dumps(value) for name, value in _values().items()}


def _values() -> dict[str, Any]:
    return {name: switch.read() for name, switch in SWITCHES.items()}


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # as the switches have it


def _set(wanted: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        if present[name] != value:
            SWITCHES[name].write(value)


class Environment:
    """The process-wide settings that bits depend on, set for a while and then put back.

    Attributes:
        threads: How many threads torch computes with.
        facts: What the switches are set to, among other things; those that are not named stay as
            they are.
        is_strict: Whether torch is held to deterministic algorithms. What that costs is measured
            without.
    """

    def __init__(
        self,
        device: str,
        threads: int,
        facts: Mapping[str, str] | None = None,
        *,
        is_strict: bool = True,
    ) -> None:
        self.is_strict = is_strict
        self._devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
        self.threads, self.facts = threads, dict(facts or {})
        self._settings = {
            name: _plain(json.loads(self.facts[name])) for name in SWITCHES if name in self.facts
        }

    @classmethod
    def of(cls, device: str, facts: Mapping[str, str]) -> Environment:
        """The environment that a run was made in; see `environment_facts`."""
        return cls(device, int(facts["threads"]), facts)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Deterministic algorithms, the run's switches, gradients, no autocast, own generators."""
        threads, fill = torch.get_num_threads(), deterministic.fill_uninitialized_memory
        is_deterministic = torch.are_deterministic_algorithms_enabled()
        warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
        python, numpy = random.getstate(), np.random.get_state()
        before = _values()
        kinds = sorted({"cpu", *(device.type for device in self._devices)})
        autocasts = {kind: torch.is_autocast_enabled(kind) for kind in kinds}
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=self._devices))
            stack.enter_context(torch.inference_mode(mode=False))
            stack.enter_context(torch.enable_grad())
            try:
                self._set_threads(self.threads)
                _set(self._settings, before)
                torch.use_deterministic_algorithms(self.is_strict)
                deterministic.fill_uninitialized_memory = False
                for kind in kinds:
                    # no context of autocast: within one, torch goes on using weights that it has
                    # cast once, however they have been trained since
                    torch.set_autocast_enabled(kind, False)
                yield
            finally:
                self._set_threads(threads)
                _set(before, _values())
                torch.use_deterministic_algorithms(is_deterministic, warn_only=warns_only)
                deterministic.fill_uninitialized_memory = fill
                for kind, was_enabled in autocasts.items():
                    torch.set_autocast_enabled(kind, was_enabled)
                random.setstate(python)
                np.random.set_state(numpy)

    def _set_threads(self, threads: int) -> None:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def environment_facts(device: str = "cpu", workers: int = 0) -> dict[str, str]:
    """What the bits of a training step may depend on beside the recipe and the data.

    Args:
        device: Where a run trains.
        workers: How many processes load its data. Torch computes in them with one thread.
    """
    threads = torch.get_num_threads()
    facts = {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": str(threads),
        "data threads": str(1 if workers else threads),
    }
    if torch.device(device).type == "cuda":
        return facts | _accelerator_facts(device) | _strict(settings())
    return facts | {name: said for name, said in settings().items() if name not in _OF_CUDA}


def _accelerator_facts(device: str) -> dict[str, str]:
    """What of a GPU and its libraries chooses how something is computed; no driver does."""
    found = torch.cuda.get_device_properties(device)
    version = torch.version.cuda or f"hip {torch.version.hip}"
    return {
        "accelerator": f"{found.name}, {found.major}.{found.minor}, "
        f"{found.multi_processor_count} multiprocessors",
        "cuda": str(version),
        "cudnn": str(backends.cudnn.version()),
        "tf32 override": os.environ.get("NVIDIA_TF32_OVERRIDE", "none"),
    }


def _strict(said: dict[str, str]) -> dict[str, str]:
    """With a workspace of cuBLAS of which torch knows that it gives the same each time."""
    if json.loads(said["cublas workspace"]) not in _SAME_EACH_TIME:
        said["cublas workspace"] = json.dumps(_SAME_EACH_TIME[0])
    return said


def seed_generators(seed: int, device: str) -> None:
    """Seed torch's, numpy's and Python's global generators."""
    # torch.manual_seed asks every accelerator backend, which costs more than a small step
    torch.default_generator.manual_seed(seed)
    if device.startswith("cuda"):
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
