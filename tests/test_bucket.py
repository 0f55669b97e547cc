"""Buckets: a server that cannot be reached, fails now and then, or refuses is named."""

import errno
import socket
import time

import fsspec
import pytest
from fsspec.spec import AbstractFileSystem

from obliviate.errors import ConnectionLost, RunDamaged, StorageFull
from obliviate.vault.bucket import Bucket
from obliviate.vault.retry import retrying
from obliviate.vault.storage_errors import is_passing
from tests import objects_server
from tests.buckets import ATTEMPTS, PART, S3Side, bucket_at
from tests.contracts.storage_contract import LARGE_BYTES

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
