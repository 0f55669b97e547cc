"""A process that kills itself at a chosen moment of writing."""

import itertools
import os
import pathlib
import signal

import torch


def arm(kill):
    """Prepare a death.

    Args:
        kill: (call, number, side): die at the number-th fsync, rename, unlink or commit, before or
            after it; anything else: live on.
    """
    torch.set_num_threads(1)
    if not isinstance(kill, tuple):
        return
    call, number, side = kill
    counter = itertools.count()

    def dying(real):
        def wrapped(*arguments, **options):
            is_now = next(counter) == number
            if is_now and side == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **options)
            if is_now:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    if call == "commit":
        from sqlalchemy.engine import default

        default.DefaultDialect.do_commit = dying(default.DefaultDialect.do_commit)
    else:
        owner = os if call == "fsync" else pathlib.Path
        setattr(owner, call, dying(getattr(owner, call)))
