"""The form of an object: plain bytes in compressed, perhaps sealed frames.

The plain bytes are those of a safetensors file. On disk they are cut into frames of a few MiB:

    OBLV, format, flags (8 bytes)    then for each frame    length (4 bytes, little-endian), blob

A blob is a blosc2 chunk: bytes shuffled by the width of their numbers, then zstd at level 1.
In a sealed object each blob is encrypted by AES-256-GCM under the object's own data key, with the
frame's number as nonce, and bound to the object's name, its place and whether it is the last, so
that frames cannot be moved, swapped or cut off.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from obliviate.errors import REBUILD, OtherFormat, RunDamaged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FORMAT = 2  # the first had no frames: a safetensors file as it is
FRAME_BYTES, _BLOCK_BYTES = 8 << 20, 2 << 20  # a block is what one thread works on
TAG_BYTES, NONCE_BYTES, KEY_BYTES = 16, 12, 32

_MAGIC = b"OBLV"
_HEAD_BYTES, _LENGTH_BYTES = 8, 4
_SEALED = 1
_THREADS_FROM = 1 << 20  # starting threads costs more than they gain on less
_MOST_THREADS = 4


@cache
def _blosc2() -> Any:
    """The compressor; its import takes a third of a second, which not every command needs."""
    import blosc2  # noqa: PLC0415

    # without this, nothing else runs while a thread compresses, training above all
    blosc2.set_releasegil(True)
    return blosc2


class FrameCipher:
    """Encrypts or decrypts the frames of one object.

    Attributes:
        data_key: 32 random bytes that no other object shares.
    """

    def __init__(self, data_key: bytes, name: str) -> None:
        self._cipher, self._name = AESGCM(data_key), name.encode()

    def close(self, blob: bytes, number: int, *, is_last: bool) -> bytes:
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
    pieces: Iterable[bytes | memoryview], cipher: FrameCipher | None = None
) -> Iterator[bytes | memoryview]:
    """The bytes of an object, from its plain bytes.

    Args:
        pieces: The plain bytes, in order; the item size of a memoryview is the width of its
            numbers, by which its bytes are shuffled.
        cipher: What to encrypt with.
    """
    yield _MAGIC + bytes([FORMAT, _SEALED if cipher else 0, 0, 0])
    number, previous = 0, None
    for blob in map(_compressed, _cut(pieces)):
        if previous is not None:
            yield from _frame(previous, number, cipher, is_last=False)
            number += 1
        previous = blob
    if previous is not None:
        yield from _frame(previous, number, cipher, is_last=True)


def _frame(
    blob: bytes, number: int, cipher: FrameCipher | None, *, is_last: bool
) -> Iterator[bytes]:
    if cipher is not None:
        blob = cipher.close(blob, number, is_last=is_last)
    yield len(blob).to_bytes(_LENGTH_BYTES, "little")
    yield blob


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


def _compressed(frame: tuple[bytes | memoryview, int]) -> bytes:
    data, width = frame
    filters = [_blosc2().Filter.SHUFFLE if width > 1 else _blosc2().Filter.NOFILTER]
    return bytes(
        _blosc2().compress2(
            data,
            typesize=width,
            codec=_blosc2().Codec.ZSTD,
            clevel=1,
            filters=filters,
            filters_meta=[0],
            blocksize=min(len(data), _BLOCK_BYTES),
            nthreads=_threads(len(data)),
        )
    )


def _threads(size_bytes: int) -> int:
    return min(_blosc2().nthreads, _MOST_THREADS) if size_bytes >= _THREADS_FROM else 1


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
        while len(target):
            if not len(self._rest):
                target = self._next_frame(target)
                continue
            count = min(len(target), len(self._rest))
            target[:count] = self._rest[:count]
            target, self._rest = target[count:], self._rest[count:]

    def _next_frame(self, target: memoryview) -> memoryview:
        """Decompress a frame, into the target where all of it fits; return what is to be filled."""
        blob = next(self._frames, None)
        if blob is None:
            raise _damaged("it ends too early")
        count = _plain_size(blob)
        if count <= len(target):
            _decompress(blob, target[:count])
            return target[count:]
        self._rest = memoryview(bytearray(count))
        _decompress(blob, self._rest)
        return target

    def read(self, count: int) -> bytes:
        """The next bytes, so many of them."""
        data = bytearray(count)
        self.fill(memoryview(data))
        return bytes(data)

    def __bytes__(self) -> bytes:
        """All bytes that are left."""
        parts = [bytearray(self._rest)]
        for blob in self._frames:
            parts.append(bytearray(_plain_size(blob)))
            _decompress(blob, memoryview(parts[-1]))
        return b"".join(parts)


def _plain_size(blob: bytes | memoryview) -> int:
    """How many bytes a frame has when it is decompressed.

    Raises:
        RunDamaged: It is not a frame that was ever written.
    """
    try:
        count, blob_bytes, _ = _blosc2().get_cbuffer_sizes(blob)
    except (RuntimeError, ValueError, TypeError) as error:
        raise _damaged(f"a frame cannot be decompressed: {error}") from error
    if blob_bytes != len(blob) or not 0 < count <= FRAME_BYTES:
        raise _damaged(f"a frame of {len(blob)} bytes says that it has {blob_bytes} for {count}")
    return int(count)


def _decompress(blob: bytes | memoryview, target: memoryview) -> None:
    """Decompress a frame into memory of its plain size; blosc2 itself does not look at that."""
    try:
        _blosc2().decompress2(blob, dst=target, nthreads=_threads(len(target)))
    except (RuntimeError, ValueError, TypeError) as error:
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
