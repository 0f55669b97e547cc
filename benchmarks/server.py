"""A PostgreSQL server to measure on, in a temporary cluster."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tests.server import serving

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def a_server() -> Iterator[str]:
    with serving() as server:
        yield server.schema()
