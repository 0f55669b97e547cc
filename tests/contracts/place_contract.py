"""What every place must do: subclass `PlaceContract` and say how to make one.

Listing, reading and leftovers go around the code under test, through `listed`, `raw` and
`leave_unfinished`.
"""

from __future__ import annotations

import pytest

from obliviate.errors import RunDamaged

LARGE_BYTES = 12 * 2**20 + 7  # three parts, of five MiB each at most


class PlaceContract:
    """Tests that any place passes."""

    @pytest.fixture
    def place(self):
        """A new, empty place."""
        raise NotImplementedError

    def another(self, place):
        """A second client of the same place."""
        raise NotImplementedError

    def listed(self, place) -> set[str]:
        """The names of everything there is, seen from outside."""
        raise NotImplementedError

    def raw(self, place, key: str) -> bytes:
        """The bytes of an object, seen from outside."""
        raise NotImplementedError

    def leave_unfinished(self, place) -> None:
        """Leave what a killed process would, behind the place's back."""
        raise NotImplementedError

    def put_deeper(self, place, folder: str, key: str) -> None:
        """Put something into a folder inside the place, behind its back."""
        raise NotImplementedError

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 1000])
    def test_what_was_written_is_there_and_is_read(self, place, data):
        place.write("key", [data])
        assert self.raw(place, "key") == data
        assert place.read("key") == data
        assert set(place) == {"key"} == self.listed(place)

    def test_an_object_without_pieces_is_empty(self, place):
        place.write("key", iter(()))
        assert self.raw(place, "key") == place.read("key") == b""
        assert set(place) == {"key"}

    def test_pieces_are_joined(self, place):
        pieces = [b"one", memoryview(b"two"), b"", memoryview(bytes(5))]
        place.write("key", iter(pieces))
        assert self.raw(place, "key") == place.read("key") == b"onetwo" + bytes(5)

    def test_many_small_pieces(self, place):
        place.write("key", (bytes([number % 256]) for number in range(3000)))
        assert self.raw(place, "key") == bytes(number % 256 for number in range(3000))

    @pytest.mark.parametrize("count", [1, 5, 1000])
    def test_a_large_object(self, place, count):
        data = bytes(range(251)) * (LARGE_BYTES // 251 + 1)
        step = len(data) // count + 1
        place.write("key", (memoryview(data)[at : at + step] for at in range(0, len(data), step)))
        assert self.raw(place, "key") == data
        assert place.read("key") == data
        assert set(place) == {"key"} == self.listed(place)

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
    def test_pieces_that_end_in_an_error_make_no_object(self, place, error, sent):
        place.write("other", [b"other"])

        def pieces():
            yield bytes(sent)
            raise error("broken")

        with pytest.raises(error, match="broken") as raised:
            place.write("key", pieces())
        assert raised.type is error
        assert set(place) == {"other"} == self.listed(place)

    def test_after_a_failure_the_key_can_be_used(self, place):
        def pieces():
            yield b"x"
            raise ValueError("broken")

        with pytest.raises(ValueError, match="broken"):
            place.write("key", pieces())
        place.write("key", [b"y"])
        assert place.read("key") == self.raw(place, "key") == b"y"

    def test_a_place_that_was_never_written_to_is_empty(self, place):
        assert list(place) == []

    def test_many_objects_are_listed(self, place):
        keys = {f"key{number}" for number in range(20)}
        for key in keys:
            place.write(key, [key.encode()])
        assert set(place) == keys == self.listed(place)
        assert len(list(place)) == 20

    def test_destroying_takes_one_object_and_no_other(self, place):
        for key in ("key", "key2", "ke"):
            place.write(key, [b"x"])
        place.destroy("key")
        assert set(place) == {"key2", "ke"} == self.listed(place)
        assert place.read("key2") == b"x"

    def test_destroying_twice_or_nothing_is_no_error(self, place):
        place.write("key", [b"x"])
        place.destroy("key")
        place.destroy("key")
        place.destroy("never")
        assert list(place) == []

    def test_a_missing_object_is_named(self, place):
        place.write("key", [b"x"])
        place.destroy("key")
        with pytest.raises(RunDamaged, match="object key is missing") as damage:
            place.read("key")
        assert place.name in damage.value.message
        assert damage.value.hint

    def test_two_clients_see_each_others_changes_at_once(self, place):
        other = self.another(place)
        assert list(place) == list(other) == []
        place.write("key", [b"x"])
        assert other.read("key") == b"x"
        assert set(other) == {"key"}
        other.write("key2", [b"y"])
        assert set(place) == {"key", "key2"}
        assert place.read("key2") == b"y"
        other.destroy("key")
        assert set(place) == {"key2"}
        with pytest.raises(RunDamaged):
            place.read("key")

    def test_what_a_killed_process_left_is_listed_and_can_be_destroyed(self, place):
        place.write("other", [b"other"])
        self.leave_unfinished(place)
        (left,) = set(place) - {"other"}
        place.destroy(left)
        assert set(place) == {"other"} == self.listed(place)

    def test_a_small_object_is_replaced_as_a_whole(self, place):
        place.write("other", [b"other"])
        for data in (b"first", b"", b"a longer second one"):
            place.replace("key", data)
            assert place.read("key") == self.raw(place, "key") == data
            assert set(place) == {"key", "other"} == self.listed(place)

    def test_making_a_place_again_changes_nothing(self, place):
        place.write("key", [b"x"])
        place.make()
        assert set(place) == {"key"}
        assert set(place.others()) == set()

    def test_what_lies_deeper_is_no_object_and_is_named(self, place):
        place.write("key", [b"x"])
        self.put_deeper(place, "folder", "inner")
        assert set(place) == {"key"}
        assert set(place.others()) == {"folder"}
