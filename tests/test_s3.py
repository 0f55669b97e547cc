"""What S3 keeps beside the objects one sees: versions, unfinished uploads, other keys, pages."""

import errno
import gc
import tracemalloc

import pytest

from obliviate.vault.s3 import unfinished
from tests import objects_server
from tests.buckets import PART, bucket_at


def test_what_lies_deeper_or_beside_is_of_others(side):
    for key in ("run", "run/", "run/key", "run/deep/key", "run2/key", "other"):
        side.client.put_object(Bucket=side.name, Key=key, Body=b"x")
    for key in ("run/half", "run/deep/half", "run2/half"):
        side.begin_upload(key)
    assert set(bucket_at(f"s3://{side.name}/run")) == {"key", "half"}
    assert set(bucket_at(f"s3://{side.name}/")) == {"run", "other"}


def test_destroying_leaves_the_uploads_of_other_keys(side):
    side.begin_upload("run/key")
    side.begin_upload("run/key2")
    bucket_at(f"s3://{side.name}/run").destroy("key")
    assert side.listed() == {"run/key2"}


@pytest.mark.parametrize("status", ["Enabled", "Suspended"])
def test_older_versions_are_destroyed_too(side, status):
    versioning = {"Status": status}
    side.client.put_bucket_versioning(Bucket=side.name, VersioningConfiguration=versioning)
    storage = bucket_at(f"s3://{side.name}/run")
    storage.write("key", [b"x"])
    storage.write("key2", [b"x"])
    side.client.put_object(Bucket=side.name, Key="run/key", Body=b"later")
    storage.destroy("key")
    storage.destroy("key")
    assert set(storage) == {"key2"} == side.listed("run/")


def test_many_uploads_of_one_key_are_all_destroyed(side):
    for _ in range(3):
        side.begin_upload("run/key")
    storage = bucket_at(f"s3://{side.name}/run")
    assert list(storage) == ["key"]
    storage.destroy("key")
    assert side.listed() == set()


def test_more_objects_than_a_page(side):
    keys = {f"{number:03}" for number in range(2 * objects_server.PAGE_KEYS + 1)}
    for key in keys:
        side.client.put_object(Bucket=side.name, Key=f"run/{key}", Body=b"")
    assert set(bucket_at(f"s3://{side.name}/run")) == keys


def test_more_versions_than_a_page(side):
    versioning = {"Status": "Enabled"}
    side.client.put_bucket_versioning(Bucket=side.name, VersioningConfiguration=versioning)
    for _ in range(2 * objects_server.PAGE_KEYS + 1):
        side.client.put_object(Bucket=side.name, Key="run/key", Body=b"x")
    bucket_at(f"s3://{side.name}/run").destroy("key")
    assert side.listed() == set()


class Pages:
    """As much of s3fs as it takes to list uploads, which the server does not give in pages."""

    def __init__(self, *pages) -> None:
        self.pages, self.asked = list(pages), []

    def split_path(self, path):
        return (*path.split("/", 1), None)

    def call_s3(self, method, **options):
        self.asked.append(options)
        return self.pages.pop(0)


def test_more_uploads_than_a_page():
    marks = {"IsTruncated": True, "NextKeyMarker": "run/a", "NextUploadIdMarker": "1"}
    fs = Pages(
        {"Uploads": [{"Key": "run/a", "UploadId": "1"}], **marks},
        {"Uploads": [{"Key": "run/b", "UploadId": "2"}], "IsTruncated": False},
    )
    assert unfinished(fs, "bucket/run") == ["a", "b"]
    where = {"Bucket": "bucket", "Prefix": "run/"}
    assert fs.asked == [where, where | {"KeyMarker": "run/a", "UploadIdMarker": "1"}]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_a_store_that_cannot_list_uploads_has_none(code):
    class Simple(Pages):
        def call_s3(self, method, **options):
            raise OSError(code, "not offered")

    assert unfinished(Simple(), "bucket/run") == []


def test_a_large_object_is_never_in_memory_as_a_whole(side):
    storage = bucket_at(f"s3://{side.name}/run")
    storage.write("first", [b"x"])  # loads what is loaded once
    tracemalloc.start()
    try:
        storage.write("key", (bytes(2**20) for _ in range(60)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(side.raw("run/key")) == 60 * 2**20
    assert peak < 6 * PART


def test_a_write_that_failed_sends_nothing_when_it_is_let_go(side):
    storage = bucket_at(f"s3://{side.name}/run")

    def pieces():
        yield bytes(100)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        storage.write("key", pieces())
    gc.collect()
    assert side.listed() == set()
