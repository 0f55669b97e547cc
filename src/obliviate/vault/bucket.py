"""A bucket of objects: in any storage that fsspec reaches, S3 above all."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

from fsspec.core import url_to_fs
from fsspec.spec import AbstractBufferedFile

from obliviate.errors import ConnectionLost, InvalidOption, ObliviateError, StorageFull
from obliviate.vault import s3
from obliviate.vault.retry import retrying
from obliviate.vault.storage_errors import is_of_storage, is_passing, lost, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tenacity import Retrying

PART_BYTES = 16 * 2**20  # S3 takes 10,000 parts: objects of up to 156 GiB

_EXAMPLE = "give a folder, or a URL such as s3://bucket/prefix"


class Bucket:
    """A storage in an object store; see `Storage`.

    An object that fits into a part is sent in one request. A larger one is sent in parts as its
    pieces come, so that a few parts are in memory, and shows under its key once all are there. (In
    the `memory` storage it shows from the start, for what ends with the process needs no more.)

    Credentials and endpoints are looked up where fsspec and its drivers do: FSSPEC_* and AWS_* in
    the environment, and their files. On S3 the holder needs s3:PutObject, s3:GetObject,
    s3:DeleteObject, s3:ListBucket, s3:ListBucketMultipartUploads and s3:AbortMultipartUpload; in
    a bucket with versioning also s3:ListBucketVersions and s3:DeleteObjectVersion, for destroying
    takes the older versions too. In a store that cannot list unfinished uploads, and in other
    object stores than S3, a rule of the bucket has to remove them (a lifecycle rule).

    What fails in passing is tried again within the limits of `retry`, except the sending of
    later parts: there the driver alone tries again, for the pieces come only once.

    Args:
        url: Where; without secrets.
        retry: How what fails in passing is tried again.
        part_bytes: The size of a part; S3 takes no less than 5 MiB.

    Raises:
        InvalidOption: The URL holds a secret, or names nothing that can be reached from here.
    """

    def __init__(
        self, url: str, *, retry: Retrying | None = None, part_bytes: int = PART_BYTES
    ) -> None:
        self.name = _checked(url)
        self._fs, self._path = _opened(self.name)
        self._is_s3 = s3.is_s3(self._fs)
        if self._is_s3:
            s3.limit_retries(self._fs)
        self._retry, self._part_bytes = retry or retrying(is_passing), part_bytes

    def make(self) -> None:
        """See `Storage`; a bucket is there, or whoever owns it makes it."""

    def flush(self, keys: Iterable[str]) -> None:
        """Nothing: what a bucket has taken is durable; see `Storage`."""

    def write(
        self,
        key: str,
        pieces: Iterable[bytes | memoryview],
        *,
        is_durable: bool = True,  # noqa: ARG002 - it always is
    ) -> None:
        """Store an object; see `Storage`."""
        path, file, size_bytes = self._at(key), None, 0
        parts = _parts(pieces, self._part_bytes)
        failure: ObliviateError | None = None
        try:
            first = bytes(next(parts, b""))
            size_bytes += len(first)
            if size_bytes < self._part_bytes:  # all of it, in one request
                self._ask(lambda: self._fs.pipe_file(path, first))
            else:
                file = self._ask(lambda: self._begun(path, first))
                first = b""  # a part less in memory
                for part in parts:
                    with self._named_errors():
                        file.write(part)
                    size_bytes += len(part)
                failure = self._commit(file)
            self._check(key, size_bytes, failure)
        except BaseException:
            self._abandon(path, file)
            raise

    def replace(self, key: str, data: bytes) -> None:
        """Store an object in the place of what is there; see `Storage`."""
        self._ask(lambda: self._fs.pipe_file(self._at(key), data))

    def read(self, key: str) -> bytes:
        """The bytes of an object; see `Storage`."""
        data: bytes = self._ask(lambda: self._fs.cat_file(self._at(key)), reading=key)
        return data

    def destroy(self, key: str) -> None:
        """Remove an object, and what an unfinished upload left of one; see `Storage`."""
        self._ask(lambda: self._erase(self._at(key)))

    def __iter__(self) -> Iterator[str]:
        """The keys of all objects there are, unfinished ones too; see `Storage`."""
        yield from self._ask(lambda: self._listed(is_object=True))

    def others(self) -> Iterator[str]:
        """The names of what is no object; see `Storage`."""
        yield from self._ask(lambda: self._listed(is_object=False))

    def _at(self, key: str) -> str:
        return f"{self._path}/{key}"

    def _begun(self, path: str, first: bytes) -> Any:
        file = self._fs.open(path, "wb", block_size=self._part_bytes, autocommit=False)
        try:
            file.write(first)
        except BaseException:
            with contextlib.suppress(Exception):  # what failed first matters more
                _discard(file)
            raise
        return file

    def _commit(self, file: Any) -> ObliviateError | None:
        """Finish an upload; what fails may have been done all the same, its answer lost."""
        with self._named_errors():
            file.close()  # sends the last part
        try:
            self._ask(file.commit)
        except ObliviateError as error:
            return error
        return None

    def _check(self, key: str, size_bytes: int, failure: ObliviateError | None) -> None:
        actual_bytes = self._ask(lambda: self._size_bytes(self._at(key)))
        if actual_bytes != size_bytes:
            raise failure or StorageFull(
                f"{self.name} kept {actual_bytes} of the {size_bytes} bytes of object {key}",
                hint="call again; if it happens again, the storage cannot be relied on",
            )

    def _size_bytes(self, path: str) -> int | None:
        self._fs.invalidate_cache()
        try:
            return int(self._fs.info(path)["size"])
        except FileNotFoundError:
            return None

    def _abandon(self, path: str, file: Any | None) -> None:
        """Take back what was sent, as far as that can be done at once."""
        steps: list[Callable[[], None]] = [lambda: self._erase(path)]
        if file is not None:
            steps.insert(0, lambda: _discard(file))
        for step in steps:
            try:
                step()
            except Exception as error:  # why it is abandoned matters more
                if is_passing(error):
                    return  # out of reach: it is an orphan

    def _erase(self, path: str) -> None:
        if self._is_s3:
            s3.erase(self._fs, path)
            return
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def _listed(self, *, is_object: bool) -> list[str]:
        # first, for only this fails where there is no such bucket
        keys = set(s3.unfinished(self._fs, self._path)) if self._is_s3 and is_object else set()
        self._fs.invalidate_cache()
        start = f"{self._path}/"
        with contextlib.suppress(FileNotFoundError):  # nothing was written yet
            for each in self._fs.ls(self._path, detail=True):
                is_file = each["type"] != "directory"
                if is_file == is_object and each["name"].startswith(start):
                    keys.add(each["name"].removeprefix(start).rstrip("/"))
        return sorted(keys - {""})  # consoles make objects without a name, to show a folder

    def _ask(self, action: Callable[[], Any], *, reading: str | None = None) -> Any:
        with self._named_errors(reading):
            return self._retry(action)

    @contextlib.contextmanager
    def _named_errors(self, reading: str | None = None) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not is_of_storage(error):
                raise
            raise self._named(error, reading) from error

    def _named(self, error: Exception, reading: str | None) -> ObliviateError:
        if is_passing(error):
            return ConnectionLost(
                f"{self.name} cannot be reached ({reason(error)})",
                hint="call again when it can: all that was committed is kept, and what was begun "
                "will be finished",
            )
        if reading is None:
            return StorageFull(
                f"{self.name} cannot be written to ({reason(error)})",
                hint="make room or allow writing and deleting there, then call again; "
                "nothing was lost",
            )
        is_missing = isinstance(error, FileNotFoundError)
        return lost(reading, self.name, reason(error), is_missing=is_missing)


def _parts(pieces: Iterable[bytes | memoryview], size_bytes: int) -> Iterator[bytearray]:
    """The pieces, cut and joined to parts of one size; the last may be smaller."""
    part = bytearray()
    for piece in pieces:
        rest = memoryview(piece).cast("B")
        while rest:
            count = size_bytes - len(part)
            part += rest[:count]
            rest = rest[count:]
            if len(part) == size_bytes:
                yield part
                part = bytearray()
    if part:
        yield part


def _discard(file: Any) -> None:
    # closing a file sends the rest of it, even when it is only let go
    if isinstance(file, AbstractBufferedFile):
        file.closed = True
    else:
        file.close()
    file.discard()


def _checked(url: str) -> str:
    safe_url = re.split(r"[?#]", re.sub(r"://.*@", "://***@", url))[0]
    if re.search(r"://[^/@]*:(?!\d+(/|$)).*@", url):
        raise InvalidOption(
            f"the URL {safe_url} holds a password, which would have to be kept with the run",
            hint="leave it out, and give it to the driver: for S3 by AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or by ~/.aws/credentials",
        )
    if "?" in url or "#" in url:
        raise InvalidOption(
            f"the URL {safe_url} has a query, where secrets may be and nothing is looked for",
            hint="leave it out; options of the driver are set by the environment or its files",
        )
    if not url.partition("://")[2].strip("/"):
        raise InvalidOption(f"the URL {safe_url} names no bucket", hint=_EXAMPLE)
    if "::" in url:
        raise InvalidOption(
            f"the URL {safe_url} chains storages, which would keep copies of what is destroyed",
            hint=_EXAMPLE,
        )
    return url.rstrip("/")


def _opened(url: str) -> tuple[Any, str]:
    try:
        # listings that are kept, or shared with others in this process, would not be fresh
        fs, path = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        raise InvalidOption(
            f"{url} needs a driver that is not there ({error})",
            hint="pip install 'obliviate[s3]' for S3; for others, what the message names",
        ) from None
    except ValueError as error:
        raise InvalidOption(f"{url} cannot be opened ({error})", hint=_EXAMPLE) from None
    return fs, path.rstrip("/")
