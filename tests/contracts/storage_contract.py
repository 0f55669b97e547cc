"""What every storage must do: subclass `StorageContract` and say how to make one.

Listing, reading and leftovers go around the code under test, through `listed`, `raw` and
`leave_unfinished`.
"""

from __future__ import annotations

import pytest

from obliviate.errors import RunDamaged

LARGE_BYTES = 12 * 2**20 + 7  # three parts, of five MiB each at most


class StorageContract:
    """Tests that any storage passes."""

    @pytest.fixture
    def storage(self):
        """A new, empty storage."""
        raise NotImplementedError

    def another(self, storage):
        """A second client of the same storage."""
        raise NotImplementedError

    def listed(self, storage) -> set[str]:
        """The names of everything there is, seen from outside."""
        raise NotImplementedError

    def raw(self, storage, key: str) -> bytes:
        """The bytes of an object, seen from outside."""
        raise NotImplementedError

    def leave_unfinished(self, storage) -> None:
        """Leave what a killed process would, behind the storage's back."""
        raise NotImplementedError

    def put_deeper(self, storage, folder: str, key: str) -> None:
        """Put something into a folder inside the storage, behind its back."""
        raise NotImplementedError

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 1000])
    def test_what_was_written_is_there_and_is_read(self, storage, data):
        storage.write("key", [data])
        assert self.raw(storage, "key") == data
        assert storage.read("key") == data
        assert set(storage) == {"key"} == self.listed(storage)

    def test_an_object_without_pieces_is_empty(self, storage):
        storage.write("key", iter(()))
        assert self.raw(storage, "key") == storage.read("key") == b""
        assert set(storage) == {"key"}

    def test_pieces_are_joined(self, storage):
        pieces = [b"one", memoryview(b"two"), b"", memoryview(bytes(5))]
        storage.write("key", iter(pieces))
        assert self.raw(storage, "key") == storage.read("key") == b"onetwo" + bytes(5)

    def test_many_small_pieces(self, storage):
        storage.write("key", (bytes([number % 256]) for number in range(3000)))
        assert self.raw(storage, "key") == bytes(number % 256 for number in range(3000))

    @pytest.mark.parametrize("count", [1, 5, 1000])
    def test_a_large_object(self, storage, count):
        data = bytes(range(251)) * (LARGE_BYTES // 251 + 1)
        step = len(data) // count + 1
        storage.write("key", (memoryview(data)[at : at + step] for at in range(0, len(data), step)))
        assert self.raw(storage, "key") == data
        assert storage.read("key") == data
        assert set(storage) == {"key"} == self.listed(storage)

    @pytest.mark.parametrize(
        ("error", "sent"),
        [
            (ValueError, 0),
            (OSError, 1),
            (PermissionError, LARGE_BYTES),
            (ConnectionResetError, LARGE_BYTES),
            (KeyboardInterrupt, LARGE_BYTES),
        ],
    )
    def test_pieces_that_end_in_an_error_make_no_object(self, storage, error, sent):
        storage.write("other", [b"other"])

        def pieces():
            yield bytes(sent)
            raise error("broken")

        with pytest.raises(error, match="broken") as raised:
            storage.write("key", pieces())
        assert raised.type is error
        assert set(storage) == {"other"} == self.listed(storage)

    def test_after_a_failure_the_key_can_be_used(self, storage):
        def pieces():
            yield b"x"
            raise ValueError("broken")

        with pytest.raises(ValueError, match="broken"):
            storage.write("key", pieces())
        storage.write("key", [b"y"])
        assert storage.read("key") == self.raw(storage, "key") == b"y"

    def test_a_storage_that_was_never_written_to_is_empty(self, storage):
        assert list(storage) == []

    def test_many_objects_are_listed(self, storage):
        keys = {f"key{number}" for number in range(20)}
        for key in keys:
            storage.write(key, [key.encode()])
        assert set(storage) == keys == self.listed(storage)
        assert len(list(storage)) == 20

    def test_destroying_takes_one_object_and_no_other(self, storage):
        for key in ("key", "key2", "ke"):
            storage.write(key, [b"x"])
        storage.destroy("key")
        assert set(storage) == {"key2", "ke"} == self.listed(storage)
        assert storage.read("key2") == b"x"

    def test_destroying_twice_or_nothing_is_no_error(self, storage):
        storage.write("key", [b"x"])
        storage.destroy("key")
        storage.destroy("key")
        storage.destroy("never")
        assert list(storage) == []

    def test_a_missing_object_is_named(self, storage):
        storage.write("key", [b"x"])
        storage.destroy("key")
        with pytest.raises(RunDamaged, match="object key is missing") as damage:
            storage.read("key")
        assert storage.name in damage.value.message
        assert damage.value.hint

    def test_two_clients_see_each_others_changes_at_once(self, storage):
        other = self.another(storage)
        assert list(storage) == list(other) == []
        storage.write("key", [b"x"])
        assert other.read("key") == b"x"
        assert set(other) == {"key"}
        other.write("key2", [b"y"])
        assert set(storage) == {"key", "key2"}
        assert storage.read("key2") == b"y"
        other.destroy("key")
        assert set(storage) == {"key2"}
        with pytest.raises(RunDamaged):
            storage.read("key")

    def test_what_a_killed_process_left_is_listed_and_can_be_destroyed(self, storage):
        storage.write("other", [b"other"])
        self.leave_unfinished(storage)
        (left,) = set(storage) - {"other"}
        storage.destroy(left)
        assert set(storage) == {"other"} == self.listed(storage)

    def test_a_small_object_is_replaced_as_a_whole(self, storage):
        storage.write("other", [b"other"])
        for data in (b"first", b"", b"a longer second one"):
            storage.replace("key", data)
            assert storage.read("key") == self.raw(storage, "key") == data
            assert set(storage) == {"key", "other"} == self.listed(storage)

    def test_making_a_storage_again_changes_nothing(self, storage):
        storage.write("key", [b"x"])
        storage.make()
        assert set(storage) == {"key"}
        assert set(storage.others()) == set()

    def test_what_lies_deeper_is_no_object_and_is_named(self, storage):
        storage.write("key", [b"x"])
        self.put_deeper(storage, "folder", "inner")
        assert set(storage) == {"key"}
        assert set(storage.others()) == {"folder"}
