"""The form of an object: plain bytes in compressed, perhaps sealed frames.

The plain bytes are those of a safetensors file. On disk they are cut into frames of a few MiB:

    OBLV, format, flags (8 bytes)    then for each frame    length (4 bytes, little-endian), blob

A blob is what `planes.packed` makes of up to 2 MiB, several of them at once in threads. In a sealed
object each blob is encrypted by AES-256-GCM under the object's own data key, with the frame's
number as nonce, and bound to the object's name, its place and whether it is the last, so that
frames cannot be moved, swapped or cut off.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from obliviate.errors import REBUILD, OtherFormat, RunDamaged
from obliviate.states.memory import Memory
from obliviate.vault.ahead import ahead, cores
from obliviate.vault.planes import packed, plain_size, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FORMAT = 3
FRAME_BYTES = 1 << 21
TAG_BYTES, NONCE_BYTES, KEY_BYTES = 16, 12, 32

_MAGIC = b"OBLV"
_HEAD_BYTES, _LENGTH_BYTES = 8, 4
_SEALED = 1
_MOST_THREADS, _IN_FLIGHT = 4, 6


class FrameCipher:
    """Encrypts or decrypts the frames of one object.

    Attributes:
        data_key: 32 random bytes that no other object shares.
    """

    def __init__(self, data_key: bytes, name: str) -> None:
        self._cipher, self._name = AESGCM(data_key), name.encode()

    def close(self, blob: memoryview, number: int, *, is_last: bool) -> bytes:
        """Encrypt a frame."""
        return self._cipher.encrypt(_nonce(number), blob, self._bound(is_last))

    def open(self, blob: bytes | memoryview, number: int, *, is_last: bool) -> bytes:
        """Decrypt a frame.

        Raises:
            RunDamaged: It is not what was sealed, not of this object, or not in its place.
        """
        try:
            return self._cipher.decrypt(_nonce(number), blob, self._bound(is_last))
        except InvalidTag:
            raise _damaged(f"frame {number} cannot be opened by its key") from None

    def _bound(self, is_last: bool) -> bytes:
        return self._name + (b"\1" if is_last else b"\0")


def _nonce(number: int) -> bytes:
    return number.to_bytes(NONCE_BYTES, "little")


def framed(
    pieces: Iterable[bytes | memoryview],
    cipher: FrameCipher | None = None,
    *,
    is_fast: bool = False,
) -> Iterator[bytes | memoryview]:
    """The bytes of an object, from its plain bytes.

    Args:
        pieces: The plain bytes, in order; the item size of a memoryview is the width of its
            numbers, by which they are compressed.
        cipher: What to encrypt with.
        is_fast: See `planes.packed`.
    """
    yield _MAGIC + bytes([FORMAT, _SEALED if cipher else 0, 0, 0])
    number, previous = 0, None
    for blob in _compressed(_cut(pieces), is_fast=is_fast):
        if previous is not None:
            yield from _frame(previous, number, cipher, is_last=False)
            number += 1
        previous = blob
    if previous is not None:
        yield from _frame(previous, number, cipher, is_last=True)


def _compressed(
    frames: Iterator[tuple[bytes | memoryview, int]], *, is_fast: bool
) -> Iterator[memoryview]:
    done_bytes, work = 0, partial(packed, is_fast=is_fast, memory=Memory())
    for plain, width in frames:
        yield work(plain, width)
        done_bytes += len(plain)
        if done_bytes >= FRAME_BYTES:  # starting threads costs more than they gain on less
            break
    yield from ahead(lambda frame: work(*frame), frames, _threads(), depth=_IN_FLIGHT)


def _threads() -> int:
    threads = min(cores(), _MOST_THREADS)
    return threads if threads > 1 else 0


def _frame(
    blob: memoryview, number: int, cipher: FrameCipher | None, *, is_last: bool
) -> Iterator[bytes | memoryview]:
    whole = blob if cipher is None else cipher.close(blob, number, is_last=is_last)
    yield len(whole).to_bytes(_LENGTH_BYTES, "little")
    yield whole


def _cut(pieces: Iterable[bytes | memoryview]) -> Iterator[tuple[bytes | memoryview, int]]:
    """Plain frames and the width of their numbers: small pieces together, large ones cut."""
    small, width = bytearray(), 1
    for piece in pieces:
        view = memoryview(piece)
        if small and (view.itemsize != width or len(small) + view.nbytes > FRAME_BYTES):
            yield bytes(small), width
            small.clear()
        width, flat = view.itemsize, view.cast("B")
        if len(flat) < FRAME_BYTES:
            small += flat
            continue
        for start in range(0, len(flat), FRAME_BYTES):
            yield flat[start : start + FRAME_BYTES], width
    if small:
        yield bytes(small), width


class Plain:
    """The plain bytes of an object, read in order.

    Its own hash has been checked before; what is found here is found although it matched.
    """

    def __init__(self, data: bytes, cipher: FrameCipher | None = None) -> None:
        """Look at an object.

        Raises:
            RunDamaged: It is in no form that was ever written, or it is sealed and there is no key.
            OtherFormat: Another version of Obliviate wrote it.
        """
        self._rest = memoryview(b"")
        self._frames: Iterator[bytes | memoryview] = iter(())
        if data[: len(_MAGIC)] != _MAGIC:
            raise _damaged("it does not begin as an object does")
        if data[len(_MAGIC)] != FORMAT:
            raise OtherFormat(
                f"an object of the vault has format {data[len(_MAGIC)]}; this version reads "
                f"{FORMAT}",
                hint="use the version of obliviate that wrote it; nothing was changed",
            )
        if bool(data[len(_MAGIC) + 1] & _SEALED) != (cipher is not None):
            raise _damaged("it is sealed where the ledger knows no key, or the other way round")
        self._frames = _blobs(memoryview(data), cipher)

    def fill(self, target: memoryview) -> None:
        """Read as many bytes as a writable view of bytes has room for.

        Raises:
            RunDamaged: There are not so many.
        """
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        target, self._rest = target[count:], self._rest[count:]
        threads = _threads() if len(target) > FRAME_BYTES else 0
        for _ in ahead(lambda job: _unpack(*job), self._jobs(target), threads):
            pass

    def _jobs(self, target: memoryview) -> Iterator[tuple[bytes | memoryview, memoryview]]:
        """The frames to unpack, and into which part of a target, till it is full."""
        while len(target):
            blob = next(self._frames, None)
            if blob is None:
                raise _damaged("it ends too early")
            count = _plain_size(blob)
            if count <= len(target):
                yield blob, target[:count]
                target = target[count:]
                continue
            whole = memoryview(bytearray(count))
            _unpack(blob, whole)
            target[:], self._rest = whole[: len(target)], whole[len(target) :]
            return

    def read(self, count: int) -> bytes:
        """The next bytes, so many of them."""
        data = bytearray(count)
        self.fill(memoryview(data))
        return bytes(data)

    def __bytes__(self) -> bytes:
        """All bytes that are left."""
        parts, self._rest = [bytes(self._rest)], memoryview(b"")
        for blob in self._frames:
            whole = bytearray(_plain_size(blob))
            _unpack(blob, memoryview(whole))
            parts.append(bytes(whole))
        return b"".join(parts)


def _plain_size(blob: bytes | memoryview) -> int:
    """How many bytes a frame has when it is decompressed.

    Raises:
        RunDamaged: It is not a frame that was ever written.
    """
    try:
        count = plain_size(blob)
    except ValueError as error:
        raise _damaged(f"a frame cannot be decompressed: {error}") from error
    if not 0 < count <= FRAME_BYTES:
        raise _damaged(f"a frame says that it has {count} bytes")
    return count


def _unpack(blob: bytes | memoryview, target: memoryview) -> None:
    """Decompress a frame into memory of its plain size.

    Raises:
        RunDamaged: It is not a frame that was ever written.
    """
    try:
        unpack(blob, target)
    except ValueError as error:
        raise _damaged(f"a frame cannot be decompressed: {error}") from error


def _blobs(data: memoryview, cipher: FrameCipher | None) -> Iterator[bytes | memoryview]:
    at, number = _HEAD_BYTES, 0
    while at < len(data):
        length = int.from_bytes(data[at : at + _LENGTH_BYTES], "little")
        at += _LENGTH_BYTES
        blob, at = data[at : at + length], at + length
        if cipher is None:
            yield blob
        else:
            yield cipher.open(blob, number, is_last=at >= len(data))
        number += 1


def _damaged(reason: str) -> RunDamaged:
    return RunDamaged(
        f"an object of the vault cannot be read ({reason})",
        hint=REBUILD,
    )
