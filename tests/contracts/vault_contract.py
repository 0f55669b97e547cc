"""What every vault must do: subclass `VaultContract` and say how to make one.

Tampering and listing go around the code under test, through `raw`, `tamper`, `remove` and `listed`.
"""

from __future__ import annotations

import pytest
from blake3 import blake3

from obliviate.errors import RunDamaged


class VaultContract:
    """Tests that any vault passes."""

    @pytest.fixture
    def vault(self):
        """A new, empty vault."""
        raise NotImplementedError

    def tamper(self, vault, key: str, data: bytes) -> None:
        """Put other bytes in the place of an object, behind the vault's back."""
        raise NotImplementedError

    def raw(self, vault, key: str) -> bytes:
        """An object as it lies there."""
        raise NotImplementedError

    def remove(self, vault, key: str) -> None:
        """Take an object away, behind the vault's back."""
        raise NotImplementedError

    def listed(self, vault) -> set[str]:
        """The names of everything there is, seen from outside."""
        raise NotImplementedError

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 1000])
    def test_what_was_written_is_read(self, vault, data):
        stored = vault.write([data])
        assert bytes(vault.read(stored)) == data
        raw = self.raw(vault, stored.key)
        assert stored.size_bytes == len(raw)
        assert stored.hash == blake3(raw).hexdigest()

    def test_pieces_are_joined(self, vault):
        pieces = [b"one", memoryview(b"two"), b"", memoryview(bytes(5))]
        stored = vault.write(iter(pieces))
        assert bytes(vault.read(stored)) == b"onetwo" + bytes(5)
        assert bytes(vault.read(vault.write([]))) == b""

    @pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
    def test_pieces_that_end_in_an_error_make_no_object(self, vault, error):
        def pieces():
            yield b"one"
            raise error("broken")

        with pytest.raises(error, match="broken"):
            vault.write(pieces())
        assert self.listed(vault) == set()

    def test_a_vault_that_was_never_written_to_is_empty(self, vault):
        assert list(vault) == []

    def test_every_object_has_a_key_of_its_own(self, vault):
        stored = [vault.write([b"same"]) for _ in range(5)]
        assert len({each.key for each in stored}) == 5
        assert set(vault) == {each.key for each in stored} == self.listed(vault)

    def test_destroying_takes_one_object_and_no_other(self, vault):
        one, other = vault.write([b"one"]), vault.write([b"other"])
        vault.destroy(one.key)
        assert set(vault) == {other.key} == self.listed(vault)
        assert bytes(vault.read(other)) == b"other"
        with pytest.raises(RunDamaged, match="missing"):
            vault.read(one)

    def test_destroying_twice_is_no_error(self, vault):
        key = vault.write([b"x"]).key
        vault.destroy(key)
        vault.destroy(key)

    def test_a_flipped_bit_is_found(self, vault):
        stored = vault.write([bytes(range(40))])
        raw = self.raw(vault, stored.key)
        for bit in range(len(raw) * 8):
            flipped = bytearray(raw)
            flipped[bit // 8] ^= 1 << (bit % 8)
            self.tamper(vault, stored.key, bytes(flipped))
            with pytest.raises(RunDamaged, match="not what was written"):
                vault.read(stored)
        self.tamper(vault, stored.key, raw)
        assert bytes(vault.read(stored)) == bytes(range(40))

    @pytest.mark.parametrize("change", [-10_000, -1, 1])
    def test_a_cut_or_lengthened_object_is_found(self, vault, change):
        stored = vault.write([bytes(range(40))])
        raw = self.raw(vault, stored.key)
        self.tamper(vault, stored.key, (raw + b"!")[: max(0, len(raw) + change)])
        with pytest.raises(RunDamaged, match="not what was written"):
            vault.read(stored)

    @pytest.mark.parametrize("name", ["README.txt", "thesis.part", f"{1:032x}.bak", "A" * 32])
    def test_what_is_no_object_is_named_and_not_listed(self, vault, name):
        stored = vault.write([b"x"])
        self.tamper(vault, name, b"of somebody")
        self.tamper(vault, f"{1:032x}.part", b"half an object")
        assert set(vault) == {stored.key, f"{1:032x}.part"}
        assert vault.foreign() == {name}
        vault.mark(7, "head")
        assert vault.foreign() == {name}
        assert (vault.marker().number, vault.marker().head) == (7, "head")

    def test_swapped_objects_are_found(self, vault):
        one, other = vault.write([b"one"]), vault.write([b"two"])
        raw = [self.raw(vault, each.key) for each in (one, other)]
        self.tamper(vault, one.key, raw[1])
        self.tamper(vault, other.key, raw[0])
        for stored in (one, other):
            with pytest.raises(RunDamaged, match="not what was written"):
                vault.read(stored)

    def test_a_missing_object_is_found_and_named(self, vault):
        stored = vault.write([b"x"])
        self.remove(vault, stored.key)
        with pytest.raises(RunDamaged, match=stored.key) as damage:
            vault.read(stored)
        assert "obliviate vault RUN --check" in damage.value.hint
