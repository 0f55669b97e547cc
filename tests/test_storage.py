"""Storages: a folder, memory and S3 keep what a storage promises, also when S3 fails."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import socket
import sys
import time
import tracemalloc
from pathlib import Path

import fsspec
import pytest
from fsspec.spec import AbstractFileSystem

from obliviate.errors import (
    ConnectionLost,
    InvalidOption,
    ObliviateError,
    RunDamaged,
    StorageFailed,
    StorageFull,
)
from obliviate.vault.bucket import Bucket
from obliviate.vault.folder import Folder
from obliviate.vault.retry import retrying
from obliviate.vault.s3 import unfinished
from obliviate.vault.storage import storage_of
from obliviate.vault.storage_errors import is_passing
from tests import objects_server
from tests.contracts.storage_contract import LARGE_BYTES, StorageContract

PART = 5 * 2**20
ATTEMPTS = 4
QUICK = retrying(is_passing, attempts=ATTEMPTS, first_pause_seconds=0.001, total_seconds=10)
_NUMBERS = itertools.count(1)


def bucket_at(url: str) -> Bucket:
    return Bucket(url, retry=QUICK, part_bytes=PART)


class S3Side:
    """What is in a bucket, seen through a client of its own."""

    def __init__(self, server, name: str) -> None:
        self.client, self.name = server.client, name

    def listed(self, prefix: str = "") -> set[str]:
        """Objects, their older versions and unfinished uploads."""
        page = {"Bucket": self.name, "Prefix": prefix}
        versions = self.client.list_object_versions(**page, MaxKeys=1000)
        found = versions.get("Versions", []) + versions.get("DeleteMarkers", [])
        found += self.client.list_multipart_uploads(**page).get("Uploads", [])
        return {each["Key"].removeprefix(prefix) for each in found}

    def raw(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def begin_upload(self, key: str) -> None:
        where = {"Bucket": self.name, "Key": key}
        upload = self.client.create_multipart_upload(**where)["UploadId"]
        self.client.upload_part(**where, UploadId=upload, PartNumber=1, Body=b"half")


class TestFolder(StorageContract):
    """A folder."""

    @pytest.fixture
    def storage(self, tmp_path):
        storage = Folder(tmp_path / "deep" / "vault")
        storage.make()
        return storage

    def another(self, storage):
        return storage_of(storage.name)

    def listed(self, storage):
        return {path.name for path in storage.path.iterdir()}

    def raw(self, storage, key):
        return (storage.path / key).read_bytes()

    def leave_unfinished(self, storage):
        (storage.path / "key.part").write_bytes(b"half")

    def put_deeper(self, storage, folder, key):
        (storage.path / folder).mkdir()
        (storage.path / folder / key).write_bytes(b"x")

    def test_links_are_no_objects_and_are_not_followed(self, storage, tmp_path):
        precious = tmp_path / "precious"
        precious.write_bytes(b"my only copy")
        for name, target in (("file", precious), ("folder", tmp_path), ("nothing", "nowhere")):
            (storage.path / name).symlink_to(target)
            with pytest.raises(RunDamaged, match="is a link"):
                storage.destroy(name)
        assert set(storage) == set()
        assert set(storage.others()) == {"file", "folder", "nothing"}
        assert precious.read_bytes() == b"my only copy"

    def test_a_folder_that_was_moved_away_is_not_begun_anew(self, storage, tmp_path):
        storage.write("key", [b"x"])
        storage.path.rename(tmp_path / "moved")
        with pytest.raises(ObliviateError):
            storage.write("key2", [b"y"])
        with pytest.raises(ObliviateError):
            storage.replace("key2", b"y")
        assert not storage.path.exists()

    @pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENOSPC])
    @pytest.mark.parametrize("call", ["unlink", "rename", "fsync", "scandir", "mkdir", "stat"])
    def test_what_the_system_refuses_is_named(self, storage, monkeypatch, call, number):
        storage.write("key", [b"x"])
        real, failed = getattr(os, call), []

        def fail(*arguments, **options):
            if call == "stat" and failed:  # once: more is looked at than by us
                return real(*arguments, **options)
            failed.append(call)
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            for action in (
                lambda: storage.write("key2", [b"y"]),
                lambda: storage.replace("key", b"z"),
                lambda: storage.destroy("key"),
                lambda: list(storage),
                storage.make,
            ):
                with contextlib.suppress(StorageFull, StorageFailed):
                    action()
        assert failed
        written = set() if call in ("rename", "fsync") else {"key2"}
        assert self.listed(storage) - {"key"} == written


class TestMemory(StorageContract):
    """The memory of this process."""

    @pytest.fixture
    def storage(self):
        return bucket_at(f"memory://vault{next(_NUMBERS)}/objects")

    def another(self, storage):
        return storage_of(storage.name)

    def _start(self, storage):
        return storage.name.removeprefix("memory:/") + "/"

    def _store(self):
        return fsspec.get_filesystem_class("memory").store

    def listed(self, storage):
        start = self._start(storage)
        return {path.removeprefix(start) for path in self._store() if path.startswith(start)}

    def raw(self, storage, key):
        return self._store()[self._start(storage) + key].getvalue()

    def leave_unfinished(self, storage):
        fsspec.filesystem("memory").pipe_file(self._start(storage) + "key", b"half")

    def put_deeper(self, storage, folder, key):
        fsspec.filesystem("memory").pipe_file(f"{self._start(storage)}{folder}/{key}", b"x")


class TestS3(StorageContract):
    """S3."""

    @pytest.fixture
    def storage(self, s3, objects):
        url = s3()
        self.side = S3Side(objects, url.removeprefix("s3://"))
        return bucket_at(f"{url}/run/vault")

    def another(self, storage):
        return bucket_at(storage.name)

    def listed(self, storage):
        return self.side.listed("run/vault/")

    def raw(self, storage, key):
        return self.side.raw(f"run/vault/{key}")

    def leave_unfinished(self, storage):
        self.side.begin_upload("run/vault/key")

    def put_deeper(self, storage, folder, key):
        where = {"Bucket": self.side.name, "Key": f"run/vault/{folder}/{key}"}
        self.side.client.put_object(**where, Body=b"x")


# What lies beside a storage in S3


@pytest.fixture
def side(s3, objects):
    """A new bucket, seen from outside."""
    return S3Side(objects, s3().removeprefix("s3://"))


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


# A server that cannot be reached


@pytest.fixture
def own(s3, monkeypatch):
    """A server of S3's API for this test, which may kill it."""
    with objects_server.serving() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        yield server


def calls(storage):
    """All that one can ask of a storage."""
    return {
        "write": lambda: storage.write("key", [b"x"]),
        "read": lambda: storage.read("key"),
        "destroy": lambda: storage.destroy("key"),
        "list": lambda: list(storage),
    }


NAMES = list(calls(None))


@pytest.mark.parametrize("name", NAMES)
def test_a_server_that_is_down_is_named(s3, monkeypatch, name):
    down = objects_server.ObjectsServer()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", down.endpoint)
    began = time.monotonic()
    with pytest.raises(ConnectionLost, match="s3://bucket/run cannot be reached") as lost:
        calls(bucket_at("s3://bucket/run"))[name]()
    assert "call again" in lost.value.hint
    assert time.monotonic() - began < 10


def test_a_server_killed_in_mid_write(own):
    name = own.bucket()
    storage = bucket_at(f"s3://{name}/run")

    def pieces():
        yield bytes(PART + 1)
        own.kill()
        yield bytes(PART + 1)

    began = time.monotonic()
    with pytest.raises(ConnectionLost, match="cannot be reached"):
        storage.write("key", pieces())
    assert time.monotonic() - began < 10
    own.start()
    own.client.create_bucket(Bucket=name)
    storage.write("key", [b"again"])
    assert storage.read("key") == b"again"
    assert S3Side(own, name).listed() == {"run/key"}


def test_a_server_that_comes_back_is_waited_for(own, monkeypatch):
    name = own.bucket()
    storage = Bucket(
        f"s3://{name}/run", retry=retrying(is_passing, attempts=9, first_pause_seconds=0.001)
    )
    own.kill()
    slept, really_sleep = [], time.sleep

    def sleep(seconds):
        if len(slept) == 2:
            really_sleep(seconds)
            return
        slept.append(seconds)
        if len(slept) == 2:
            own.start()
            own.client.create_bucket(Bucket=name)

    monkeypatch.setattr(time, "sleep", sleep)
    storage.write("key", [b"x"])
    assert slept == [0.001, 0.002]
    assert set(storage) == {"key"}


@pytest.mark.parametrize("size_bytes", [1, LARGE_BYTES])
def test_a_server_that_never_answers_is_not_waited_for(s3, monkeypatch, size_bytes):
    """Not even where the driver would: before the body of a request."""
    monkeypatch.setattr("obliviate.vault.s3.CALL_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        storage = Bucket("s3://bucket/run", retry=retrying(is_passing, attempts=2), part_bytes=PART)
        began = time.monotonic()
        with pytest.raises(ConnectionLost, match="cannot be reached"):
            storage.write("key", [bytes(size_bytes)])
    assert time.monotonic() - began < 10


# A server that fails now and then


@pytest.fixture
def proxy(objects, s3, monkeypatch):
    """A proxy on the way to the server."""
    with objects_server.Proxy(objects).serving() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        yield proxy


def first(count: int, status: int, is_meant=lambda method, path: True):
    """Refuse the first of some requests."""
    left = iter(range(count))

    def refuse(method, path):
        return status if is_meant(method, path) and next(left, None) is not None else None

    return refuse


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("name", NAMES)
def test_a_server_that_is_busy_for_a_while_is_asked_again(side, proxy, status, name):
    side.client.put_object(Bucket=side.name, Key="run/key", Body=b"before")
    proxy.refuse = first(3, status)
    calls(bucket_at(f"s3://{side.name}/run"))[name]()
    assert side.listed() == ({"run/key"} if name != "destroy" else set())


@pytest.mark.parametrize("name", NAMES)
def test_a_server_that_stays_busy_is_given_up(side, proxy, name):
    proxy.refuse = lambda method, path: 503
    with pytest.raises(ConnectionLost, match=r"SlowDown|503"):
        calls(bucket_at(f"s3://{side.name}/run"))[name]()
    assert len(proxy.seen) <= 2 * ATTEMPTS


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_that_is_lost_is_asked_for_again(side, proxy, name):
    side.client.put_object(Bucket=side.name, Key="run/key", Body=b"x")
    lost = first(1, True)
    proxy.drop_answer = lambda method, path: bool(lost(method, path))
    result = calls(bucket_at(f"s3://{side.name}/run"))[name]()
    assert result == {"read": b"x", "list": ["key"]}.get(name)


def test_an_object_that_is_cut_on_its_way_is_read_again(side, proxy):
    side.client.put_object(Bucket=side.name, Key="run/key", Body=bytes(1000))
    cut = first(2, True, lambda method, path: method == "GET")
    proxy.cut_answer = lambda method, path: bool(cut(method, path))
    assert bucket_at(f"s3://{side.name}/run").read("key") == bytes(1000)


def is_complete(method, path):
    return method == "POST" and "uploadId=" in path


def is_begin(method, path):
    return method == "POST" and path.endswith("uploads")


def is_part(method, path):
    return method == "PUT" and "partNumber=" in path


@pytest.mark.parametrize(
    "is_meant",
    [is_begin, is_part, is_complete, lambda method, path: method == "HEAD"],
    ids=["begin", "first part", "complete", "check"],
)
def test_all_but_the_later_parts_is_tried_again(side, proxy, is_meant):
    proxy.refuse = first(3, 503, is_meant)
    bucket_at(f"s3://{side.name}/run").write("key", [bytes(LARGE_BYTES)])
    assert side.raw("run/key") == bytes(LARGE_BYTES)
    assert side.client.list_multipart_uploads(Bucket=side.name).get("Uploads", []) == []


@pytest.mark.parametrize("data", [b"", b"x", bytes(LARGE_BYTES)], ids=len)
def test_a_write_whose_answer_is_lost_is_found_to_be_done(side, proxy, data):
    is_last = is_complete if len(data) > PART else lambda method, path: method == "PUT"
    lost = first(1, True, is_last)
    proxy.drop_answer = lambda method, path: bool(lost(method, path))
    storage = bucket_at(f"s3://{side.name}/run")
    storage.write("key", [data])
    assert side.raw("run/key") == data
    assert side.listed() == {"run/key"}


def test_a_commit_that_fails_for_good_leaves_nothing(side, proxy):
    proxy.refuse = lambda method, path: 503 if is_complete(method, path) else None
    with pytest.raises(ConnectionLost):
        bucket_at(f"s3://{side.name}/run").write("key", [bytes(LARGE_BYTES)])
    assert side.listed() == set()


def test_a_part_that_is_lost_is_sent_again_by_the_driver(side, proxy, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    proxy.refuse = first(1, 503, lambda method, path: "partNumber=2" in path)
    bucket_at(f"s3://{side.name}/run").write("key", [bytes(LARGE_BYTES)])
    assert side.raw("run/key") == bytes(LARGE_BYTES)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_part_that_is_lost_for_good_leaves_nothing(side, proxy, number):
    proxy.refuse = lambda method, path: 503 if f"partNumber={number}" in path else None
    with pytest.raises(ConnectionLost):
        bucket_at(f"s3://{side.name}/run").write("key", [bytes(LARGE_BYTES)])
    assert side.listed() == set()


def test_an_object_that_did_not_arrive_as_a_whole_is_noticed(side, proxy):
    storage = bucket_at(f"s3://{side.name}/run")

    def shorten(method, path):
        if method == "HEAD":
            side.client.put_object(Bucket=side.name, Key="run/key", Body=b"shor")

    proxy.refuse = shorten
    with pytest.raises(StorageFull, match="kept 4 of the 5 bytes of object key"):
        storage.write("key", [b"short"])
    assert side.listed() == set()


# A server that refuses


@pytest.mark.parametrize("name", NAMES)
def test_a_bucket_that_is_not_there_is_named(s3, name):
    expected = RunDamaged if name == "read" else StorageFull
    with pytest.raises(expected, match=r"s3://nowhere-.*bucket does not exist"):
        calls(bucket_at("s3://nowhere-at-all/run"))[name]()


@pytest.mark.parametrize("status", [403, 507])
@pytest.mark.parametrize("name", ["write", "destroy"])
def test_credentials_that_may_only_read(side, proxy, name, status):
    side.client.put_object(Bucket=side.name, Key="run/kept", Body=b"x")
    proxy.refuse = lambda method, path: status if method not in {"GET", "HEAD"} else None
    storage = bucket_at(f"s3://{side.name}/run")
    with pytest.raises(StorageFull, match=r"cannot be written to.*(AccessDenied|Full)") as refusal:
        calls(storage)[name]()
    assert "allow writing" in refusal.value.hint
    assert len(proxy.seen) < 5
    assert storage.read("kept") == b"x"
    assert set(storage) == {"kept"} == side.listed("run/")


def test_what_may_not_be_read_is_named(side, proxy):
    proxy.refuse = lambda method, path: 403
    storage = bucket_at(f"s3://{side.name}/run")
    with pytest.raises(RunDamaged, match="object key cannot be read"):
        storage.read("key")
    with pytest.raises(StorageFull, match="AccessDenied"):
        list(storage)


def test_the_refused_operation_is_named(side, proxy):
    proxy.refuse = lambda method, path: 403 if "uploads" in path else None
    with pytest.raises(StorageFull, match="ListMultipartUploads"):
        list(bucket_at(f"s3://{side.name}/run"))


def test_without_credentials(s3, monkeypatch):
    url = s3()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageFull, match="credentials"):
        bucket_at(f"{url}/run").write("key", [b"x"])


# What drivers raise


class AzureError(Exception):
    """As other drivers have them: with a status of HTTP."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"status {status_code}")
        self.status_code = status_code


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError("reset"), ConnectionLost),
        (TimeoutError(), ConnectionLost),
        (OSError(errno.EHOSTUNREACH, "no route"), ConnectionLost),
        (AzureError(503), ConnectionLost),
        (AzureError(429), ConnectionLost),
        (AzureError(403), StorageFull),
        (OSError(errno.ENOSPC, "full"), StorageFull),
        (NotImplementedError("read only"), StorageFull),
        (KeyError("a fault in the driver"), KeyError),
    ],
    ids=repr,
)
def test_what_other_drivers_raise_is_named(error, expected):
    class Faulty(AbstractFileSystem):
        protocol = "faulty"

        def rm_file(self, path):
            raise error

    fsspec.register_implementation("faulty", Faulty, clobber=True)
    with pytest.raises(expected) as raised:
        bucket_at("faulty://bucket/run").destroy("key")
    assert str(error) in str(raised.value) or type(error).__name__ in str(raised.value)


# URLs


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("s3://AKIA:s3cret@bucket/run", "password"),
        ("s3://AKIA:s3c/ret@bucket/run", "password"),
        ("s3://AKIA:12s3cret@bucket/run", "password"),
        ("s3://:s3cret@bucket/run", "password"),
        ("ftp://me:s3cret@127.0.0.1:21/run", "password"),
        ("s3://bucket/run?secret=s3cret", "query"),
        ("s3://bucket/run?X-Amz-Signature=s3cret", "query"),
        ("s3://bucket/run#s3cret", "query"),
    ],
)
def test_a_url_with_a_secret_is_refused_without_repeating_it(url, fault):
    with pytest.raises(InvalidOption, match=fault) as refusal:
        storage_of(url)
    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("nosuch://bucket/run", "Protocol not known"),
        ("s3://", "names no bucket"),
        ("s3:///", "names no bucket"),
        ("memory://", "names no bucket"),
        ("simplecache::s3://bucket/run", "chains"),
        ("file://run/vault", "three slashes"),
        ("file://", "three slashes"),
        ("local://vault", "three slashes"),
        ("file:///data/run#1", "fragment"),
        ("file:///data/run?x=1", "query"),
    ],
)
def test_a_url_that_names_no_storage_is_refused(url, fault):
    with pytest.raises(InvalidOption, match=fault) as refusal:
        storage_of(url)
    assert refusal.value.hint


def test_a_driver_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(InvalidOption, match="driver that is not there") as refusal:
        storage_of("s3://bucket/run")
    assert "pip install 'obliviate[s3]'" in refusal.value.hint


def test_paths_are_folders(tmp_path):
    for where in (tmp_path, str(tmp_path), tmp_path.as_uri(), f"file://localhost{tmp_path}"):
        storage = storage_of(where)
        assert isinstance(storage, Folder)
        assert storage.path == tmp_path
    assert storage_of("file:///data/a%20run").path == Path("/data/a run")
    assert storage_of("file:///data/100%25%23%3F").path == Path("/data/100%#?")


def test_a_path_is_kept_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    storages = [
        storage_of(where) for where in ("runs/mnist", Path("runs/mnist"), "runs/../runs/mnist")
    ]
    monkeypatch.chdir("/")
    assert {storage.path for storage in storages} == {tmp_path / "runs" / "mnist"}
    assert storage_of("~/runs").path == storage_of(Path("~/runs")).path == Path("/home/ada/runs")


@pytest.mark.parametrize("where", ["", 7, None, b"runs", "a\0b", "n" * 300])
def test_what_is_no_path_is_refused(where):
    with pytest.raises(InvalidOption) as refusal:
        storage_of(where)
    assert refusal.value.hint


def test_making_a_storage_asks_nothing_of_the_server(s3, proxy):
    assert storage_of("s3://bucket/run/").name == "s3://bucket/run"
    assert proxy.seen == []


# Retries


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
