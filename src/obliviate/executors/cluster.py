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

from tenacity import Retrying, stop_after_attempt

from obliviate.errors import ConnectionLost, ExtraMissing, InvalidOption, ObliviateError
from obliviate.executors.beacons import check_seen, lit
from obliviate.executors.task import carry_out

try:
    import grpc
    import ray
    from ray._private.grpc_utils import init_grpc_channel  # which sends the token along
    from ray.core.generated.ray_client_pb2 import ClusterInfoRequest, ClusterInfoType
    from ray.exceptions import AuthenticationError, RayError, RaySystemError, RayTaskError
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
_ATTEMPTS = 3
_SECONDS_BETWEEN_LOOKS = 1.0
_USAGE = "RAY_USAGE_STATS_ENABLED"
_CLIENT_URL = "ray://"
_CLIENT_ASKED = "/ray.rpc.RayletDriver/ClusterInfo"
_HEAD_ASKED = "/ray.rpc.NodeInfoGcsService/GetClusterId"
_TO_BE_SET = (
    "before this process begins, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the token that the "
    "cluster was started with, or RAY_AUTH_TOKEN_PATH to a file that holds it"
)
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
    if place is None:
        cpus = job.cpus * min(workers or os.cpu_count() or 1, len(job.tasks))
        with started(cpus):
            if job.gpus > ray.cluster_resources().get("GPU", 0):
                raise InvalidOption(
                    f"the tasks compute on {job.gpus} GPU, and this machine has none",
                    hint="give the address of a Ray cluster that has: ray://head:10001",
                )
            yield
        return
    if address is None:
        _check_reachable(place)
    hint = (
        "see that it runs, with `ray status`, and that Ray and Python are of the same versions on "
        "both sides"
    )
    with _begun(f"the Ray cluster at {place} cannot be used", hint, address=place):
        yield


@contextlib.contextmanager
def started(cpus: int) -> Iterator[None]:
    """Be connected to a Ray of this machine alone, which ends with it.

    Args:
        cpus: How many tasks of one core it takes at once.

    Raises:
        ConnectionLost: It cannot be started.
    """
    hint = "the machine may be too busy: call again, or start it beforehand with `ray start --head`"
    with _begun(
        "a Ray of this machine cannot be started",
        f"{hint} and set RAY_ADDRESS",
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
    ):
        yield


@contextlib.contextmanager
def _begun(what: str, hint: str, **options: Any) -> Iterator[None]:
    try:
        with _in_our_way():
            # on a busy machine, half a minute may be too little for Ray's own processes
            for attempt in Retrying(stop=stop_after_attempt(_ATTEMPTS), reraise=True):
                with attempt:
                    ray.init(logging_level=logging.ERROR, **options)
    except Exception as error:
        raise ConnectionLost(f"{what} ({error})", hint=f'{hint}; or on="local"') from error
    try:
        yield
    finally:
        ray.shutdown()


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
    _check_token(address)


def _check_token(address: str) -> None:
    """See that a cluster takes the token that is here: Ray would not say so, but that time is over.

    Raises:
        ConnectionLost: It does not, or there is none.
    """
    is_client = address.startswith(_CLIENT_URL)
    asked = ClusterInfoRequest(type=ClusterInfoType.PING).SerializeToString() if is_client else b""
    channel = init_grpc_channel(address.removeprefix(_CLIENT_URL))
    ask = channel.unary_unary(_CLIENT_ASKED if is_client else _HEAD_ASKED)
    try:
        ask(asked, timeout=_CONNECTING_SECONDS, metadata=[("client_id", uuid.uuid4().hex)])
    except AuthenticationError as error:
        raise ConnectionLost(
            f"RAY_AUTH_MODE is token, and there is none for the Ray cluster at {address}",
            hint=_TO_BE_SET,
        ) from error
    except grpc.RpcError as error:  # whatever else is wrong, connecting will tell
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            raise ConnectionLost(
                f"the Ray cluster at {address} asks for a token, and does not take the one that is "
                "here, if there is one",
                hint=_TO_BE_SET,
            ) from error
    finally:
        channel.close()


@contextlib.contextmanager
def _in_our_way() -> Iterator[None]:
    """Ray is started without telling its makers of it, and leaves SIGTERM and variables alone."""
    variables = _variables()
    os.environ.setdefault(_USAGE, "0")
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if is_main:  # only there can signals be caught
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        for name in _variables().keys() - variables.keys():
            del os.environ[name]
        os.environ.update(variables)


def _variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
