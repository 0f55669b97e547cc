"""Executor: who carries out a job, which is many named tasks that need nothing of each other."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, Protocol

from obliviate.errors import InvalidOption
from obliviate.executors.local import LocalPool
from obliviate.options import whole
from obliviate.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOCAL, RAY = "local", "ray"
RAY_URL = "ray://"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be carried out.

    A task may be begun again, where the process that was at it was killed: it has to go on with, or
    do over, what was left.

    Attributes:
        source: Called once in each worker; gives the function that carries a task out by its name
            and returns something plain. It is what travels to the workers: an instance of a class,
            or a function, of a module that they can import, with plain values.
        tasks: The names of the tasks, each once.
        folders: What every worker has to see as this process does.
        cpus: How many processor cores a task computes on.
        gpus: How many GPUs.
    """

    source: Callable[[], Callable[[str], Any]]
    tasks: tuple[str, ...]
    folders: tuple[Path, ...] = ()
    cpus: int = 1
    gpus: int = 0


class Executor(Protocol):
    """Who carries out jobs."""

    def results(self, job: Job) -> Iterator[dict[str, Any]]:
        """Carry out a job.

        Yields:
            What came of the tasks that have ended since, by their names; about once a second, and
            nothing where none has.

        Raises:
            ObliviateError: The workers cannot do it, or one of them was lost.
            Exception: What a task raised. Those that had begun have ended by then.
        """
        ...


def executor_of(on: str, workers: int | None) -> Executor:
    """Who carries out jobs, by the words of a user.

    Args:
        on: "local" for processes of this machine; "ray" for the Ray cluster that RAY_ADDRESS or
            this process's own `ray.init` leads to, else for one that is started here; or the
            address of a cluster, as in "ray://head:10001".
        workers: How many tasks at once; if None, one here, and on a cluster what there is room for.

    Raises:
        InvalidOption: There is none like that.
        ExtraMissing: Ray is not installed.
    """
    most = None if workers is None else whole(workers, "workers", least=1)
    if on == LOCAL:
        return LocalPool(most or 1)
    if on == RAY or (isinstance(on, str) and on.startswith(RAY_URL)):
        from obliviate.executors.cluster import RayCluster  # noqa: PLC0415 - an extra, and slow

        return RayCluster(None if on == RAY else on, most)
    raise InvalidOption(
        f"on is {shown(on)}",
        hint=f'give "{LOCAL}", "{RAY}" or an address, as "{RAY_URL}head:10001"',
    )


def check_source(source: object) -> None:
    """See that other processes can make the project.

    Raises:
        InvalidOption: They cannot.
    """
    hint = "give a function, defined at the top level of a module, that returns the project"
    if not callable(source):
        raise InvalidOption(
            "several workers need to make the project each for itself", hint=f"{hint}; or workers=1"
        )
    try:
        ForkingPickler.dumps(source)
    except Exception as error:
        raise InvalidOption(
            f"{source!r} cannot be handed to another process: {error}", hint=f"{hint}; or workers=1"
        ) from error
