"""Processes that train together, as torchrun would start them."""

import faulthandler
import json
import multiprocessing
import os
import socket
import time

import torch

from tests.ranks_child import go_through

SECONDS = 240


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _enter(rank, count, port, function, arguments):
    launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in launched.items()})
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(0.9 * SECONDS, exit=True)  # who waits for whom
    function(*arguments)


def started(count, function, *arguments):
    """Start some ranks, each of which calls a function."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ranks_child"])  # torch is imported once for all
    port = free_port()
    processes = [
        context.Process(target=_enter, args=(rank, count, port, function, arguments), daemon=True)
        for rank in range(count)
    ]
    for each in processes:
        each.start()
    return processes


def ended(processes):
    """Wait for ranks; with what code each has ended. None goes on beyond that."""
    try:
        until = time.monotonic() + SECONDS
        for each in processes:
            each.join(max(0.0, until - time.monotonic()))
        return [each.exitcode for each in processes]
    finally:
        for each in processes:
            each.kill()
            each.join()


def found_by(count, folder, *names):
    """What each rank has found of some cases; nothing of one that was killed."""
    folder.mkdir(parents=True, exist_ok=True)
    codes = ended(started(count, go_through, folder, names))
    files = [folder / f"rank-{rank}.json" for rank in range(count)]
    assert codes[0] == 0, codes
    return [json.loads(each.read_text()) if each.exists() else None for each in files]
