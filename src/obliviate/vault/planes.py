"""A frame's bytes in planes: the first bytes of all its numbers, then the second ones, and so on.

    width (1 byte)    then for each plane    length (4 bytes, little-endian), bytes

The high bytes of numbers, sign and exponent, take few values, and so do the low bytes of what is a
small difference of larger numbers; what is between is noise, which nothing makes shorter. So each
plane is compressed by itself, by zstd, or is left as it is: then the highest bit of its length is
set.
"""

from __future__ import annotations

import importlib
import sys
import threading
from functools import cache
from typing import Any

import numpy as np

from obliviate.states.memory import Memory

_RAW = 1 << 31
_LENGTH_BYTES = 4

_SAMPLE_BYTES, _SAMPLES = 4 << 10, 3
_NOISE = {False: 0.99, True: 0.9}
"""What is shortened to no less than this share is left as it is; less, if it has to be fast."""

_LITERALS, _ALWAYS = 1002, 1
"""ZSTD_c_literalCompressionMode, which bindings do not name: entropy coding at negative levels."""

_own = threading.local()


@cache
def _zstd() -> Any:
    """The compressor: part of Python from 3.14 on."""
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    return importlib.import_module(name)


def packed(
    plain: bytes | memoryview, width: int, *, is_fast: bool = False, memory: Memory | None = None
) -> memoryview:
    """The planes of a frame.

    Args:
        plain: Numbers.
        width: How many bytes each of them has.
        is_fast: Look for hardly any repetitions, only for bytes that are frequent: twice as fast,
            and a few percent longer.
        memory: Where to take the memory from, if there are many frames.
    """
    planes = np.frombuffer(plain, np.uint8).reshape(-1, width)
    count, end = len(planes), 1
    blob = (memory or Memory()).view(1 + width * (_LENGTH_BYTES + count))
    blob[0] = width
    for at in range(width):
        start = end + _LENGTH_BYTES
        plane = np.frombuffer(blob[start : start + count], np.uint8)
        plane[:] = planes[:, at]  # where it stays, if nothing makes it shorter
        short = _shortened(plane, is_fast=is_fast)
        length = count if short is None else len(short)
        if short is not None:
            blob[start : start + length] = short
        word = length if short is not None else length | _RAW
        blob[end:start] = word.to_bytes(_LENGTH_BYTES, "little")
        end = start + length
    return blob[:end]


def _shortened(plane: np.ndarray[Any, np.dtype[np.uint8]], *, is_fast: bool) -> bytes | None:
    """A plane compressed; None where that is not worth it."""
    compressor, most = _compressor(is_fast=is_fast), _NOISE[is_fast]
    whole = _zstd().ZstdCompressor.FLUSH_FRAME
    if len(plane) > 4 * _SAMPLES * _SAMPLE_BYTES:
        starts = np.linspace(0, len(plane) - _SAMPLE_BYTES, _SAMPLES).astype(int)
        sample = np.concatenate([plane[start : start + _SAMPLE_BYTES] for start in starts])
        if len(compressor.compress(sample, whole)) > most * len(sample):
            return None
    short: bytes = compressor.compress(plane, whole)
    return short if len(short) < most * len(plane) else None


def _compressor(*, is_fast: bool) -> Any:
    """This thread's own: it is made once, and used again for each plane."""
    name = "fast" if is_fast else "dense"
    if not hasattr(_own, name):
        setattr(_own, name, _zstd().ZstdCompressor(options=_options(is_fast=is_fast)))
    return getattr(_own, name)


@cache
def _options(*, is_fast: bool) -> dict[int, int]:
    parameter = _zstd().CompressionParameter
    # a small table is fast, and no worse: where numbers repeat at all, they do so in long runs
    options = {
        parameter.strategy: _zstd().Strategy.fast,
        parameter.window_log: 17,
        parameter.hash_log: 6,
        parameter.min_match: 7,
    }
    if not is_fast:
        return options | {parameter.compression_level: 1}
    fast = options | {parameter.compression_level: -1000}
    try:
        _zstd().ZstdCompressor(options={**fast, _LITERALS: _ALWAYS})
    except ValueError:  # a build of zstd that lacks it: what it makes is longer, and no less right
        return fast
    return fast | {_LITERALS: _ALWAYS}


def plain_size(blob: bytes | memoryview) -> int:
    """How many bytes a frame has when it is unpacked.

    Raises:
        ValueError: It is not what `packed` gives.
    """
    return sum(count for _, count, _ in _planes(memoryview(blob)))


def unpack(blob: bytes | memoryview, target: memoryview) -> None:
    """Put a frame's numbers into memory of their size.

    Raises:
        ValueError: It is not what `packed` gives, or of another size.
    """
    planes = list(_planes(memoryview(blob)))
    whole = np.frombuffer(target, np.uint8)
    if len({count for _, count, _ in planes}) > 1 or len(whole) != len(planes) * planes[0][1]:
        raise ValueError("its planes are not as long as each other")
    numbers = whole.reshape(-1, len(planes))
    for at, (part, count, is_raw) in enumerate(planes):
        plane = part if is_raw else _lengthened(part, count)
        numbers[:, at] = np.frombuffer(plane, np.uint8)


def _planes(blob: memoryview) -> list[tuple[memoryview, int, bool]]:
    """What there is of each plane, how long it is in the plain, and whether that is what it is."""
    planes, start = [], 1
    for _ in range(blob[0] if len(blob) else 0):
        length = int.from_bytes(blob[start : start + _LENGTH_BYTES], "little")
        start += _LENGTH_BYTES
        is_raw, length = bool(length & _RAW), length & ~_RAW
        part = blob[start : start + length]
        if len(part) != length:
            raise ValueError("a plane is cut off")
        planes.append((part, length if is_raw else _size_of(part), is_raw))
        start += length
    if not planes or start != len(blob):
        raise ValueError("it is no frame")
    return planes


def _size_of(part: memoryview) -> int:
    try:
        count: int | None = _zstd().get_frame_info(part).decompressed_size
    except _zstd().ZstdError as error:
        raise ValueError(str(error)) from error
    if count is None:
        raise ValueError("a plane does not say how long it is")
    return count


def _lengthened(part: memoryview, count: int) -> bytes:
    try:
        plane: bytes = _zstd().decompress(part)
    except _zstd().ZstdError as error:
        raise ValueError(str(error)) from error
    if len(plane) != count:
        raise ValueError(f"a plane has {len(plane)} bytes instead of {count}")
    return plane
