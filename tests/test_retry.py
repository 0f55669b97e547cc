"""What fails in passing is tried again, within limits."""

import itertools
import time

import pytest

from obliviate.vault.retry import retrying


def test_retries_have_limits(monkeypatch):
    slept = []
    now = itertools.count()
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(time, "monotonic", lambda: sum(slept) + next(now) * 1e-6)
    tried = []

    def fail():
        tried.append(1)
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        retrying(lambda _: True, attempts=5, first_pause_seconds=1, total_seconds=100)(fail)
    assert (len(tried), slept) == (5, [1, 2, 4, 8])
    tried.clear(), slept.clear()
    with pytest.raises(ConnectionResetError):
        retrying(lambda _: True, attempts=99, first_pause_seconds=1, total_seconds=8)(fail)
    assert (len(tried), slept) == (4, [1, 2, 4])
    tried.clear()
    with pytest.raises(ConnectionResetError):
        retrying(lambda _: False)(fail)
    assert len(tried) == 1
