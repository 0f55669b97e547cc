"""A Ray cluster as executor: Ray spreads the tasks, and tries again where a worker was lost.

Nothing is copied to the nodes: what workers import has to be installed there, and folders have to
be on a file system that all of them share.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from obliviate.errors import ConnectionLost, ExtraMissing, InvalidOption, ObliviateError
from obliviate.executors.beacons import check_seen, lit
from obliviate.executors.task import carry_out

try:
    import ray
    from ray.exceptions import RayError, RaySystemError, RayTaskError
except ModuleNotFoundError as error:
    raise ExtraMissing(
        f"a Ray cluster needs {error.name}, which is not installed",
        hint="pip install 'obliviate[ray]'; or on=\"local\"",
    ) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from obliviate.executors.executor import Job

RETRIES = 3
"""How often Ray begins a task again whose worker, or whose node, was lost."""

_OBJECT_STORE_BYTES = 80 << 20  # about the least that Ray takes: what travels here is names
_CONNECTING_SECONDS = 5.0
_SECONDS_BETWEEN_LOOKS = 1.0
_USAGE = "RAY_USAGE_STATS_ENABLED"
_NOT_IMPORTED = "The remote function failed to import"


@dataclass(frozen=True)
class RayCluster:
    """Carries out jobs on a Ray cluster; see `Executor`.

    Attributes:
        address: Of the cluster. If None, the one that this process is connected to, or that
            RAY_ADDRESS leads to; else one of this machine alone is started for the job.
        workers: How many tasks at once; as many as there is room for if None.
    """

    address: str | None
    workers: int | None

    def results(self, job: Job) -> Iterator[dict[str, Any]]:
        """See `Executor.results`."""
        with _connected(self.address, job, self.workers), lit(job.folders) as beacons:
            options = {"num_cpus": job.cpus, "num_gpus": job.gpus, "max_retries": RETRIES}
            remote = ray.remote(**options)(_carry_out)
            key, left = uuid.uuid4().hex, list(job.tasks)
            waiting: dict[Any, str] = {}
            try:
                while left or waiting:
                    while left and len(waiting) < (self.workers or len(job.tasks)):
                        name = left.pop(0)
                        waiting[remote.remote(key, job.source, beacons, name)] = name
                    done, _ = ray.wait(list(waiting), timeout=_SECONDS_BETWEEN_LOOKS)
                    yield {waiting.pop(each): _result(each) for each in done}
            finally:
                _end(list(waiting))


def _carry_out(
    key: str, source: Callable[[], Callable[[str], Any]], beacons: tuple[Path, ...], name: str
) -> Any:
    check_seen(beacons)
    return carry_out(key, source, name)


def _result(done: Any) -> Any:
    try:
        return ray.get(done)
    except RayTaskError as error:
        _raise_cause(error)
    except RayError as error:
        raise ObliviateError(
            f"a worker of the Ray cluster was lost, and so were {RETRIES} that began its task "
            f"again ({type(error).__name__})",
            hint="look into Ray's logs for why, make room in memory or give fewer workers, and "
            "call again: it goes on",
        ) from error


def _raise_cause(error: RayTaskError) -> NoReturn:
    """Raise what a task raised, as if it had been carried out here."""
    cause = error.cause
    if isinstance(cause, RaySystemError) or str(cause).startswith(_NOT_IMPORTED):
        last = str(error).strip().splitlines()[-1]
        raise InvalidOption(
            f"the workers of the Ray cluster cannot import what they need ({last})",
            hint="install obliviate and the modules of the project on all nodes, in the versions "
            "that are here; a module beside the project has to be on PYTHONPATH there",
        ) from error
    raise cause from error


def _end(waiting: list[Any]) -> None:
    """Begin no other tasks, and let go of those that have begun as Ctrl-C does."""
    for each in waiting:
        with contextlib.suppress(RayError):
            ray.cancel(each)
    for each in waiting:
        with contextlib.suppress(Exception):
            ray.get(each)


@contextlib.contextmanager
def _connected(address: str | None, job: Job, workers: int | None) -> Iterator[None]:
    """Be connected to a cluster; one that was started for it ends with it."""
    if address is not None:
        _check_reachable(address)
    if ray.is_initialized():  # by the caller, who will end it too
        yield
        return
    place = address or os.environ.get("RAY_ADDRESS")
    with _in_our_way():
        if place is None:
            count = job.cpus * min(workers or os.cpu_count() or 1, len(job.tasks))
            _start(
                address="local",
                num_cpus=count,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
            )
        else:
            _check_reachable(place)
            _start(address=place)
    try:
        if job.gpus > ray.cluster_resources().get("GPU", 0) and place is None:
            raise InvalidOption(
                f"the tasks compute on {job.gpus} GPU, and this machine has none",
                hint="give the address of a Ray cluster that has: ray://head:10001",
            )
        yield
    finally:
        ray.shutdown()


def _start(**options: Any) -> None:
    try:
        ray.init(logging_level=logging.ERROR, **options)
    except Exception as error:
        raise ConnectionLost(
            f"the Ray cluster at {options['address']} cannot be used ({error})",
            hint="see that it runs, with `ray status`, and that Ray and Python are of the same "
            'versions there; or on="local"',
        ) from error


def _check_reachable(address: str) -> None:
    """See that somebody listens there, for Ray itself would try for minutes.

    Raises:
        ConnectionLost: Nobody does.
        InvalidOption: It is no address.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not (host and colon and port.isdigit()):
        if "://" not in address:
            return  # "auto" and the like: Ray knows where to look
        raise InvalidOption(
            f"{address} is no address of a Ray cluster", hint="give it as in ray://head:10001"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECTING_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConnectionLost(
            f"no Ray cluster answers at {address} ({error})",
            hint="start one with `ray start --head`, look for its address with `ray status`, see "
            'that the port is open; or on="local"',
        ) from error


@contextlib.contextmanager
def _in_our_way() -> Iterator[None]:
    """Ray is started without telling its makers of it, and does not take SIGTERM over."""
    is_silent = _USAGE in os.environ
    os.environ.setdefault(_USAGE, "0")
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if is_main:  # only there can signals be caught
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        if not is_silent:
            del os.environ[_USAGE]
