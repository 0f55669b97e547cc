"""Frames as planes of bytes: what goes in comes out, and damage is told."""

import numpy as np
import pytest

from obliviate.vault.planes import packed, plain_size, unpack

RANDOM = np.random.default_rng(0)


def noise(size):
    return RANDOM.integers(0, 256, size, np.uint8).tobytes()


def steps(count):
    """Differences of numbers that are far larger: their low bytes are zeros, mostly."""
    old = RANDOM.normal(0, 0.05, count).astype(np.float32)
    return ((old + RANDOM.normal(0, 1e-5, count).astype(np.float32)) - old).tobytes()


def back(blob):
    target = bytearray(plain_size(blob))
    unpack(blob, memoryview(target))
    return bytes(target)


@pytest.mark.parametrize("is_fast", [False, True])
@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "plain",
    [b"\0" * 8, noise(8), bytes(1 << 20), noise(1 << 20), steps(1 << 17), b"somebody" * 1000],
    ids=["one", "noisy one", "zeros", "noise", "steps", "text"],
)
def test_what_is_packed_comes_back(plain, width, is_fast):
    assert back(packed(plain, width, is_fast=is_fast)) == plain


def test_noise_is_left_as_it_is():
    assert len(packed(noise(1 << 20), 4)) < (1 << 20) + 30


def test_steps_are_packed_well_and_not_much_worse_in_haste():
    plain = steps(1 << 18)
    dense, fast = (len(packed(plain, 4, is_fast=each)) / len(plain) for each in (False, True))
    assert dense < 0.68
    assert fast < 1.05 * dense


@pytest.mark.parametrize(
    "change",
    [
        lambda blob: blob[:-1],
        lambda blob: blob + b"x",
        lambda blob: b"",
        lambda blob: b"\0" + blob[1:],
        lambda blob: b"\3" + blob[1:],
        lambda blob: blob[:5] + b"xxxx" + blob[9:],
        lambda blob: blob[:4] + b"\x80" + blob[5:],
    ],
    ids=["cut", "longer", "empty", "no planes", "fewer planes", "no zstd", "called raw"],
)
def test_damage_is_told(change):
    with pytest.raises(ValueError, match=r"plane|frame|zstd"):
        back(change(bytes(packed(steps(1000), 4))))


def test_what_has_another_size_than_its_room_is_told():
    with pytest.raises(ValueError, match="not as long"):
        unpack(packed(bytes(8), 4), memoryview(bytearray(12)))
