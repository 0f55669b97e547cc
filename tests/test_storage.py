"""Storages: a folder, memory and S3 keep what a storage promises."""

import contextlib
import errno
import itertools
import os
import sys
from pathlib import Path

import fsspec
import pytest

from obliviate.errors import (
    InvalidOption,
    ObliviateError,
    RunDamaged,
    StorageFailed,
    StorageFull,
)
from obliviate.vault.folder import Folder
from obliviate.vault.storage import storage_of
from tests.buckets import S3Side, bucket_at
from tests.contracts.storage_contract import StorageContract

_NUMBERS = itertools.count(1)


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
