"""What S3 keeps besides the objects one sees: unfinished uploads, and older versions.

An object is sent in parts, and the parts of an upload that was never finished stay where they are,
unlisted. A bucket with versioning keeps what was deleted. Both hold what was promised to be gone.
"""

from __future__ import annotations

import contextlib
import errno
import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

CALL_SECONDS = 120.0  # for one request with its body: a part

_NOT_OFFERED = {errno.ENOSYS, errno.EPERM}  # not implemented, method not allowed


def is_s3(fs: Any) -> bool:
    """Whether a file system of fsspec is s3fs."""
    return "s3" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)


def limit_retries(fs: Any) -> None:
    """Keep the layers below from trying again for minutes, each on top of the other.

    botocore is left, for it can send a part once more; AWS_MAX_ATTEMPTS says how often. It gives a
    server that says nothing at all a time to answer, but not before it has sent the body: there it
    waits for leave ("100 Continue") for ever, so that these calls get a limit of their own.
    """
    fs.retries = 1
    for name in ("call_s3", "pipe_file"):
        setattr(fs, name, functools.partial(getattr(fs, name), timeout=CALL_SECONDS))
    fs.config_kwargs.setdefault("retries", {"mode": "standard"})


def unfinished(fs: Any, path: str) -> list[str]:
    """The keys directly under a path to which an upload was begun and not finished."""
    bucket, prefix, _ = fs.split_path(path)
    start = f"{prefix}/" if prefix else ""
    keys = {key[len(start) :] for key, _ in _uploads(fs, bucket, start)}
    return sorted(key for key in keys if "/" not in key)


def erase(fs: Any, path: str) -> None:
    """Delete an object with all its versions and unfinished uploads; it may be gone already."""
    bucket, key, _ = fs.split_path(path)
    answer = fs.call_s3("delete_object", Bucket=bucket, Key=key)
    if "VersionId" in answer:  # nothing was deleted: it was marked as such
        for version in list(_versions(fs, bucket, key)):
            fs.call_s3("delete_object", Bucket=bucket, Key=key, VersionId=version)
    for name, upload in list(_uploads(fs, bucket, key)):
        if name == key:
            with contextlib.suppress(FileNotFoundError):  # aborted or finished by now
                fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload)


def _versions(fs: Any, bucket: str, key: str) -> Iterator[str]:
    for page in _pages(fs, "list_object_versions", "VersionId", bucket, key):
        for each in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            if each["Key"] == key:
                yield each["VersionId"]


def _uploads(fs: Any, bucket: str, prefix: str) -> Iterator[tuple[str, str]]:
    try:
        for page in _pages(fs, "list_multipart_uploads", "UploadId", bucket, prefix):
            for each in page.get("Uploads", []):
                if each["Key"].startswith(prefix):
                    yield each["Key"], each["UploadId"]
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise


def _pages(
    fs: Any, method: str, second_mark: str, bucket: str, prefix: str
) -> Iterator[dict[str, Any]]:
    marks: dict[str, str] = {}
    while True:
        page = fs.call_s3(method, Bucket=bucket, Prefix=prefix, **marks)
        yield page
        if not page.get("IsTruncated"):
            return
        names = ("KeyMarker", f"{second_mark}Marker")
        marks = {name: page[f"Next{name}"] for name in names if page.get(f"Next{name}")}
